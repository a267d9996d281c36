"""Choose examples: those of a balanced epoch, and those that are held out where there is no split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

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


def held_out(
    labels: NDArray[np.integer], fraction: float, seed: int = 0, keys: Iterable[object] | None = None
) -> NDArray[np.bool_]:
    """Return which examples are held out, `[N]`.

    Examples are ranked by a hash of seed and key, so that the choice is the same on every machine and with every
    version of NumPy, and hardly changes where a few examples come or go. Each class gives its part, rounded, but at
    least one example and not its only one.

    Args:
      labels: `[N]` class indices.
      fraction: of the examples, above 0 and below 1.
      seed: another one chooses others.
      keys: what each example is called; by default its number.

    Raises:
      ValueError: for a fraction out of range, or where no class has two examples.

    Example:
      >>> held_out(np.array([0] * 6 + [1] * 3 + [2]), 0.3).tolist()
      [True, False, False, True, False, False, False, False, True, False]
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation_split={fraction}: give the part to hold out, above 0 and below 1, such as 0.1")
    names = range(len(labels)) if keys is None else keys
    ranks = np.array([_rank(seed, name) for name in names], np.uint64)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        chosen[members[np.argsort(ranks[members], kind="stable")[:count]]] = True
    if not chosen.any():
        raise ValueError(f"nothing can be held out of {len(labels)} images, one of each class: give more of each")
    return chosen


def _rank(seed: int, key: object) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest(), "little")
