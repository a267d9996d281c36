"""Agreement of a student with its teacher, right and wrong."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxkd.analysis.logits import divergence, log_softmax, pair, with_labels


class Agreement(NamedTuple):
    """Shares of all images, and the divergence. The first five shares add up to 1.

    Attributes:
      both_right: teacher and student name the true class.
      student_right: the student alone does.
      teacher_right: the teacher alone does.
      same_mistake: both name the same wrong class.
      other_mistakes: both are wrong, each in its own way.
      same_answer: both name the same class, right or wrong (fidelity, Stanton et al., NeurIPS 2021).
      divergence: KL(teacher ‖ student) at temperature 1, the mean over the images, in nats.
    """

    both_right: float
    student_right: float
    teacher_right: float
    same_mistake: float
    other_mistakes: float
    same_answer: float
    divergence: float


def agreement(teacher: ArrayLike, student: ArrayLike, labels: ArrayLike) -> Agreement:
    """Compare the answers of two networks to the same images.

    Args:
      teacher: logits `[N, K]`.
      student: logits `[N, K]`.
      labels: the true classes, `[N]`.

    Raises:
      ValueError, TypeError: for what cannot be logits or labels of the same images.

    Example:
      >>> found = agreement([[2.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [0, 1])
      >>> found.both_right, found.student_right, found.same_answer
      (0.5, 0.5, 0.5)
    """
    theirs, ours = pair(teacher, student)
    _, classes = with_labels(ours, labels)
    teacher_answer, student_answer = theirs.argmax(1), ours.argmax(1)
    teacher_right, student_right = teacher_answer == classes, student_answer == classes
    same = teacher_answer == student_answer
    neither = ~teacher_right & ~student_right
    return Agreement(
        both_right=float((teacher_right & student_right).mean()),
        student_right=float((student_right & ~teacher_right).mean()),
        teacher_right=float((teacher_right & ~student_right).mean()),
        same_mistake=float((neither & same).mean()),
        other_mistakes=float((neither & ~same).mean()),
        same_answer=float(same.mean()),
        divergence=float(divergence(theirs, ours).mean()),
    )


def disagreements(teacher: ArrayLike, student: ArrayLike) -> np.ndarray:
    """Return the indices `[M]` of images that get different answers, those first where both are surest.

    Args:
      teacher: logits `[N, K]`.
      student: logits `[N, K]`.

    Raises:
      ValueError: for what cannot be logits of the same images.

    Example:
      >>> disagreements([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0]], [[3.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).tolist()
      [2, 1]
    """
    theirs, ours = pair(teacher, student)
    (differ,) = np.nonzero(theirs.argmax(1) != ours.argmax(1))
    confidence = log_softmax(theirs[differ]).max(1) + log_softmax(ours[differ]).max(1)
    return differ[np.argsort(-confidence, kind="stable")]
