"""The mean and the deviation of each image's logits, which standardisation frees a student from matching."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxkd.analysis.logits import checked_logits


class LogitStatistics(NamedTuple):
    """For each image, over the classes.

    Attributes:
      mean: `[N]`.
      deviation: `[N]`, the unbiased one.
    """

    mean: np.ndarray
    deviation: np.ndarray


def logit_statistics(logits: ArrayLike) -> LogitStatistics:
    """Mean and deviation of the logits of each image, as standardisation removes them (Sun et al., CVPR 2024).

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
