"""Calibration of confidences (Guo et al., On Calibration of Modern Neural Networks, ICML 2017)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxkd.analysis.logits import log_softmax, with_labels
from jaxkd.checks import check_at_least, check_number


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
