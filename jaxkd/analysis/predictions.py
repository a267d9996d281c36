"""Statistics of predictions: class by class, beside a teacher's, and beside how sure they are.

Calibration is that of Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxkd.analysis.logits import checked_logits, divergence, log_softmax, pair, with_labels
from jaxkd.checks import check_at_least, check_number


def class_accuracy(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return the accuracy for each class, from 0 to 1, `[K]`; NaN for a class without images.

    Args:
      logits: `[N, K]`.
      labels: the true classes, `[N]`.

    Raises:
      ValueError, TypeError: for what cannot be logits or labels.

    Example:
      >>> class_accuracy([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [0, 1, 1]).tolist()
      [1.0, 0.5, nan]
    """
    values, classes = with_labels(logits, labels)
    counts = np.bincount(classes, minlength=values.shape[1])
    right = np.bincount(classes, weights=values.argmax(1) == classes, minlength=values.shape[1])
    return np.where(counts > 0, right / np.maximum(counts, 1), np.nan)


def class_gain(student: ArrayLike, alone: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return the student's accuracy minus that of the same network trained without a teacher, by class, `[K]`.

    Args:
      student: logits `[N, K]`.
      alone: logits `[N, K]` of the student alone, for the same images.
      labels: the true classes, `[N]`.

    Raises:
      ValueError, TypeError: for what cannot be logits or labels of the same images.

    Example:
      >>> class_gain([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]], [0, 1]).tolist()
      [0.0, 1.0]
    """
    return np.asarray(class_accuracy(student, labels) - class_accuracy(alone, labels))


def logit_correlation(logits: ArrayLike) -> np.ndarray:
    """Return Pearson's correlation of the logits of each two classes over the images, `[N, K] -> [K, K]`.

    A shift or a scale of a class's logits changes nothing, so that networks trained with and without standardisation
    compare (Tian et al., Contrastive Representation Distillation, ICLR 2020, show its difference to the teacher's).

    Raises:
      ValueError: for what cannot be logits, and a class whose logit is the same for all images.

    Example:
      >>> logit_correlation([[0.0, 0.0, 2.0], [1.0, 2.0, 1.0], [2.0, 4.0, 0.0]]).round(4).tolist()
      [[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]
    """
    values = checked_logits(logits)
    constant = np.ptp(values, axis=0) == 0
    if constant.any():
        raise ValueError(
            f"the logit of class {int(np.argmax(constant))} is the same for all {len(values)} images: it correlates "
            "with nothing"
        )
    return np.asarray(np.corrcoef(values, rowvar=False))


def class_profiles(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return the mean of the standardised logits over each class's images, `[K, K]`, a row for each class.

    Standardised, because a student that was trained so has logits on a scale of its own (Sun et al., CVPR 2024). The
    row of a class without images is NaN.

    Raises:
      ValueError, TypeError: for what cannot be logits or labels, and an image with equal logits for all classes.

    Example:
      >>> class_profiles([[2.0, 0.0, 1.0], [20.0, 0.0, 10.0]], [0, 0])[0].tolist()
      [1.0, -1.0, 0.0]
    """
    values, classes = with_labels(logits, labels)
    flat = np.ptp(values, axis=1) == 0
    if flat.any():
        raise ValueError(f"the logits of image {int(np.argmax(flat))} are all equal: they cannot be standardised")
    standard = (values - values.mean(1, keepdims=True)) / values.std(1, ddof=1, keepdims=True)
    sums, counts = np.zeros((values.shape[1],) * 2), np.bincount(classes, minlength=values.shape[1])
    np.add.at(sums, classes, standard)
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], np.nan)


def difference(teacher: np.ndarray, student: np.ndarray) -> tuple[np.ndarray, float]:
    """Return |student − teacher| of two such matrices with a diagonal of 0, and its mean off the diagonal.

    Example:
      >>> difference(np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([[1.0, 0.25], [0.25, 1.0]]))
      (array([[0.  , 0.25],
             [0.25, 0.  ]]), 0.25)
    """
    found = np.abs(np.asarray(student, np.float64) - np.asarray(teacher, np.float64))
    other = ~np.eye(len(found), dtype=bool)
    return np.where(other, found, 0.0), float(np.nanmean(found[other]))


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


class Reliability(NamedTuple):
    """Images by the confidence of the network's answer, in M bins of equal width; the first begins at 0.

    Attributes:
      images: the number in each bin, `[M]`.
      confidence: their mean confidence, `[M]`; NaN where there are none.
      accuracy: the share of them it gets right, `[M]`, from 0 to 1; NaN where there are none.
    """

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean gap between confidence and accuracy, bins by their images."""
        filled = self.images > 0
        gaps = np.abs(self.confidence - self.accuracy)[filled]
        return float(np.average(gaps, weights=self.images[filled]))

    @property
    def over_confidence(self) -> float:
        """Mean confidence minus accuracy: above 0 for a network that is too sure."""
        filled = self.images > 0
        gaps = (self.confidence - self.accuracy)[filled]
        return float(np.average(gaps, weights=self.images[filled]))


def reliability(logits: ArrayLike, labels: ArrayLike, bins: int = 15, temperature: float = 1.0) -> Reliability:
    """Compute the reliability diagram of a network.

    An image is in the bin ((m − 1)/M, m/M] of its confidence, the largest probability.

    Args:
      logits: `[N, K]`.
      labels: the true classes, `[N]`.
      bins: M.
      temperature: divides the logits.

    Raises:
      ValueError, TypeError: for what cannot be logits or labels, no bins, or a temperature that is not above 0.

    Example:
      >>> found = reliability(np.log([[0.9, 0.1], [0.7, 0.3]]), [0, 1], bins=2)
      >>> found.images.tolist(), found.accuracy[1], round(found.ece, 4)
      ([0, 2], np.float64(0.5), 0.3)
    """
    values, classes = with_labels(logits, labels)
    check_at_least(1, bins=bins)
    check_number("temperature", temperature, positive=True)
    confidence = np.exp(log_softmax(values / temperature).max(1))
    right = values.argmax(1) == classes
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    images = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, weights=kind, minlength=bins) / images for kind in (confidence, right)]
    return Reliability(images, *means)
