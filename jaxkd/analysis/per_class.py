"""Statistics class by class: accuracy, gain by distillation, relations between classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from jaxkd.analysis.logits import checked_logits, with_labels


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
