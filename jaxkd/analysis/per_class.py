"""Accuracies class by class, and what distillation gained for each."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from jaxkd.analysis.logits import with_labels


def class_accuracy(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """How many of each class's images a network gets right, from 0 to 1, `[K]`; NaN for a class without images.

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
    """The student's accuracy minus that of the same network trained without a teacher, class by class, `[K]`.

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
    return class_accuracy(student, labels) - class_accuracy(alone, labels)
