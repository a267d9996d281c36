"""Statistics of a teacher's logits: over the classes, and of the wrong classes, alone and beside a student's.

Li et al. (Asymmetric Temperature Scaling Makes Larger Networks Teach Well Again, NeurIPS 2022, figures 7 and 13) split
what a softened label q teaches into the probability of the true class y, the average of the others (it smooths) and
their deviation (it says which of them are alike):

    e(q) = (1/(K−1)) Σ_{c≠y} q_c = (1 − q_y)/(K−1)            the derived average
    σ(q) = sqrt((1/(K−1)) Σ_{c≠y} (q_c − e(q))²)              the derived deviation; v(q) = σ(q)² the derived variance

With the softmax q̃ of the wrong classes alone, q_c = (1 − q_y) q̃_c, and therefore

    σ(q) = (K−1) · e(q) · σ(q̃)                                σ(q̃) the inherent deviation

A teacher that is sure of the true class has a small e(q), and with it a small σ(q), however well it knows the wrong
classes apart. A higher temperature raises e(q) and lowers σ(q̃). With two temperatures, τ₁ for the true class and τ₂ for
the others, e(q) can be raised without lowering σ(q̃).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxkd.analysis.logits import checked_logits, divergence, log_softmax, pair, with_labels, wrong_of
from jaxkd.checks import check_at_least, check_number


class DerivedStatistics(NamedTuple):
    """Statistics of a teacher's labels: one number for each image, or means over the images for each temperature.

    Attributes:
      average: e(q), the mean probability of a wrong class.
      deviation: σ(q), the deviation of these probabilities over the wrong classes.
      inherent: σ(q̃), their deviation in the softmax of the wrong classes alone.
    """

    average: np.ndarray
    deviation: np.ndarray
    inherent: np.ndarray


def derived_statistics(
    logits: ArrayLike, labels: ArrayLike, correct: float = 1.0, wrong: float | None = None
) -> DerivedStatistics:
    """Return e(q), σ(q) and σ(q̃) of each image's label, softened by one temperature or two.

    Deviations are over all wrong classes (divided by K − 1), as the authors compute them.

    Args:
      logits: the teacher's, `[N, K]`.
      labels: the true classes, `[N]`.
      correct: τ₁, which divides the true class's logit.
      wrong: τ₂, for the other classes; by default the same, which is plain temperature scaling.

    Returns:
      Arrays `[N]`.

    Raises:
      ValueError, TypeError: for temperatures that are not above 0, and what cannot be logits or labels.

    Example:
      >>> found = derived_statistics(np.log([[0.5, 0.375, 0.125]]), [0])
      >>> [values.round(4).tolist() for values in found]
      [[0.25], [0.125], [0.25]]
    """
    values, classes = with_labels(logits, labels)
    wrong = correct if wrong is None else wrong
    check_number("correct", correct, positive=True)
    check_number("wrong", wrong, positive=True)
    is_true = np.arange(values.shape[1])[None] == classes[:, None]
    softened = values / np.where(is_true, correct, wrong)
    # Sums of the wrong classes themselves: 1 − q_y of a sure teacher would be a difference of almost equal numbers.
    probabilities = np.exp(wrong_of(log_softmax(softened), classes))
    alone = np.exp(log_softmax(wrong_of(softened, classes)))
    return DerivedStatistics(probabilities.mean(1), probabilities.std(1), alone.std(1))


def over_temperatures(
    logits: ArrayLike, labels: ArrayLike, temperatures: ArrayLike, correct: float = 1.0, wrong: float = 1.0
) -> DerivedStatistics:
    """Return the means over all images of `derived_statistics`, for each temperature.

    Args:
      logits: the teacher's, `[N, K]`.
      labels: the true classes, `[N]`.
      temperatures: τ, `[T]`.
      correct: τ₁/τ; 1.25 in the paper's asymmetric curves.
      wrong: τ₂/τ; 0.75 there.

    Returns:
      Arrays `[T]`.

    Raises:
      ValueError, TypeError: as `derived_statistics`.

    Example:
      >>> plain = over_temperatures([[4.0, 1.0, 0.0]], [0], [1.0, 4.0])
      >>> asymmetric = over_temperatures([[4.0, 1.0, 0.0]], [0], [1.0, 4.0], correct=1.25, wrong=0.75)
      >>> (asymmetric.deviation > plain.deviation).tolist()
      [True, True]
    """
    each = [
        derived_statistics(logits, labels, correct * float(tau), wrong * float(tau))
        for tau in np.atleast_1d(np.asarray(temperatures, float))
    ]
    return DerivedStatistics(*(np.array([values.mean() for values in kind]) for kind in zip(*each, strict=True)))


class LogitStatistics(NamedTuple):
    """Mean and deviation over the classes, for each image.

    Attributes:
      mean: `[N]`.
      deviation: `[N]`, the unbiased one.
    """

    mean: np.ndarray
    deviation: np.ndarray


def logit_statistics(logits: ArrayLike) -> LogitStatistics:
    """Return mean and deviation of the logits of each image, as standardisation removes them (Sun et al., CVPR 2024).

    Args:
      logits: `[N, K]`.

    Raises:
      ValueError: for what cannot be logits.

    Example:
      >>> logit_statistics([[1.0, 2.0, 3.0]])
      LogitStatistics(mean=array([2.]), deviation=array([1.]))
    """
    values = checked_logits(logits)
    return LogitStatistics(values.mean(1), values.std(1, ddof=1))


class WrongClasses(NamedTuple):
    """Similarity of a student's and its teacher's rankings of the wrong classes.

    Attributes:
      rank_correlation: Spearman's correlation of the two rankings for each image, `[N]`, from −1 to 1.
      overlap: for k = 1, 2, …: the share of the teacher's k likeliest wrong classes that are among the student's k,
        the mean over the images, `[top]`, from 0 to 1.
      divergence: KL(teacher ‖ student) of the softmax over the wrong classes alone for each image, `[N]`, in nats.
    """

    rank_correlation: np.ndarray
    overlap: np.ndarray
    divergence: np.ndarray


def wrong_classes(
    teacher: ArrayLike, student: ArrayLike, labels: ArrayLike, top: int = 10, temperature: float = 1.0
) -> WrongClasses:
    """Compare what two networks say about the wrong classes of the same images.

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
    """Return the rank of each class, 0 for the likeliest, `[N, K]`.

    Example:
      >>> _ranks(np.array([[1.0, 3.0, 3.0]])).tolist()
      [[2, 0, 1]]
    """
    order = np.argsort(-values, axis=1, kind="stable")
    return np.argsort(order, axis=1, kind="stable")
