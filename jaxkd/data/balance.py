"""Draw an epoch in which every class is seen equally often, however rare its images are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def balanced_order(labels: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the order of an epoch of N examples, `[N]`, in which each class that has any is drawn equally often.

    A class of fewer images than its part repeats them all equally often, but for the last round; of one with more, some
    are seen in this epoch and others in the next. It is the resampling that class weights stand in for, and every loss
    takes part in it.

    Args:
      labels: `[N]` class indices.
      rng: draws the images of each class and the order of all.

    Example:
      >>> labels = np.array([0] * 9 + [1] * 3)
      >>> order = balanced_order(labels, np.random.default_rng(0))
      >>> np.bincount(labels[order]).tolist(), np.bincount(order, minlength=12)[9:].tolist()
      ([6, 6], [2, 2, 2])
    """
    classes = np.unique(labels)
    quotas = np.full(len(classes), len(labels) // len(classes))
    quotas[rng.permutation(len(classes))[: len(labels) % len(classes)]] += 1
    drawn = []
    for label, quota in zip(classes, quotas, strict=True):
        members = np.flatnonzero(labels == label)
        rounds, rest = divmod(int(quota), len(members))
        drawn += [members] * rounds + [rng.permutation(members)[:rest]]
    return rng.permutation(np.concatenate(drawn))
