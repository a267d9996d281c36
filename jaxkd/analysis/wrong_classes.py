"""What a student learned from the probabilities that its teacher gives to wrong classes.

The true class is left out on both sides: what is compared is which wrong classes are alike, in what order and how much.
A student alone shows what the labels teach of it; what a distilled one has beyond that is from the teacher.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxkd.analysis.logits import divergence, pair, with_labels, wrong_of
from jaxkd.base import check_at_least, check_number


class WrongClasses(NamedTuple):
    """How far a student ranks the wrong classes as its teacher does.

    Attributes:
      rank_correlation: Spearman's correlation of the two rankings for each image, `[N]`, from −1 to 1.
      overlap: for k = 1, 2, …: how many of the teacher's k likeliest wrong classes are among the student's k, the mean
        over the images, `[top]`, from 0 to 1.
      divergence: KL(teacher ‖ student) of the softmax over the wrong classes alone for each image, `[N]`, in nats.
    """

    rank_correlation: np.ndarray
    overlap: np.ndarray
    divergence: np.ndarray


def wrong_classes(
    teacher: ArrayLike, student: ArrayLike, labels: ArrayLike, top: int = 10, temperature: float = 1.0
) -> WrongClasses:
    """Compares what two networks say about the wrong classes of the same images.

    Among equal logits the lower class index comes first, as in `argmax`.

    Args:
      teacher: logits `[N, K]` with K ≥ 3.
      student: logits `[N, K]`.
      labels: the true classes, `[N]`.
      top: the largest k of the overlap; K − 1 where there are fewer wrong classes.
      temperature: of the divergence, on both sides.

    Raises:
      ValueError, TypeError: for what cannot be logits or labels of the same images, two classes, no `top`, or a
        temperature that is not above 0.

    Example:
      >>> found = wrong_classes([[9.0, 3.0, 2.0, 1.0]], [[5.0, 2.0, 3.0, 1.0]], [0])
      >>> found.rank_correlation.tolist(), found.overlap.tolist()
      ([0.5], [0.0, 1.0, 1.0])
    """
    theirs, ours = pair(teacher, student)
    _, classes = with_labels(ours, labels)
    check_at_least(1, top=top)
    check_number("temperature", temperature, positive=True)
    theirs, ours = wrong_of(theirs, classes), wrong_of(ours, classes)
    wrong = ours.shape[1]
    if wrong < 2:
        raise ValueError("of two classes only one is wrong: there is nothing to rank; give three or more")
    their_ranks, our_ranks = _ranks(theirs), _ranks(ours)
    apart = np.square(their_ranks - our_ranks).sum(1)
    correlation = 1.0 - 6.0 * apart / (wrong * (wrong**2 - 1.0))
    overlap = [float(((their_ranks < k) & (our_ranks < k)).sum(1).mean() / k) for k in range(1, min(top, wrong) + 1)]
    return WrongClasses(correlation, np.array(overlap), divergence(theirs / temperature, ours / temperature))


def _ranks(values: np.ndarray) -> np.ndarray:
    """The place of each class from the likeliest, 0, on, `[N, K]`.

    Example:
      >>> _ranks(np.array([[1.0, 3.0, 3.0]])).tolist()
      [[2, 0, 1]]
    """
    order = np.argsort(-values, axis=1, kind="stable")
    return np.argsort(order, axis=1, kind="stable")
