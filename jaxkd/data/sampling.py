"""Choose examples: those of each batch and of a balanced epoch, and those that are held out where there is no split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxkd.data.pipeline.batch_reader import BatchIndices


@dataclass(frozen=True)
class Share:
    """The part of a batch that a process reads.

    Attributes:
      devices: over which batches are cut.
      processes: that have these devices, equally many each.
      position: of this process among them.
    """

    devices: int
    processes: int
    position: int

    def __call__(self, batch_size: int) -> slice:
        """Return the part, equal ones but for the last; one example where nothing is left, which stands for none.

        Example:
          >>> share = Share(devices=4, processes=2, position=1)
          >>> share(8), share(6), share(2)
          (slice(4, 8, None), slice(4, 6, None), slice(1, 2, None))
        """
        each = -(-batch_size // self.devices) * self.devices // self.processes
        start = min(self.position * each, batch_size - 1)
        return slice(start, min(start + each, batch_size))


@dataclass
class TrainingPlan:
    """The batches of some epochs, one after the other.

    Each epoch sees every example once, or every class equally often, in an order of its own.

    Attributes:
      examples: N, the number of images.
      batch_size: over all processes.
      seed: of the order and the augmentation.
      first_epoch: the one that `plan[0]` belongs to, counted from 0.
      epochs: the number of epochs.
      share: what this process reads of each batch.
      labels: `[N]`, where every class is seen equally often.
    """

    examples: int
    batch_size: int
    seed: int
    first_epoch: int
    epochs: int
    share: Share
    labels: NDArray[np.int32] | None = None
    _order: tuple[int, NDArray[np.int64]] | None = field(default=None, init=False, repr=False)

    @property
    def steps(self) -> int:
        """The number of batches in an epoch, the smaller last one included."""
        return -(-self.examples // self.batch_size)

    def size(self, position: int) -> int:
        """Return the number of examples in the batch at a position of an epoch, over all processes."""
        return min(self.batch_size, self.examples - position * self.batch_size)

    def __len__(self) -> int:
        return self.epochs * self.steps

    def __getitem__(self, step: int) -> BatchIndices:
        if not 0 <= step < len(self):
            raise IndexError(step)
        epoch, position = divmod(step, self.steps)
        epoch += self.first_epoch
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            order = rng.permutation(self.examples) if self.labels is None else balanced_order(self.labels, rng)
            self._order = epoch, order
        start = position * self.batch_size
        places = np.arange(start, start + self.size(position))[self.share(self.size(position))]
        return BatchIndices(self._order[1][places], places, self.seed, epoch)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_order": None}


def evaluation_plan(examples: int, batch_size: int, share: Share) -> list[BatchIndices]:
    """Return the batches of `padded_batches`, or what a process reads of each.

    Example:
      >>> [indices.index.tolist() for indices in evaluation_plan(5, 4, Share(devices=2, processes=2, position=1))]
      [[2, 3], [-1, -1]]
    """
    return [BatchIndices(index, index, 0, 0) for index in padded_batches(examples, batch_size)[:, share(batch_size)]]


def padded_batches(examples: int, batch_size: int) -> NDArray[np.int32]:
    """Return the indices of all examples in order, `[S, B]`, the last row filled up with −1.

    Example:
      >>> padded_batches(5, 3).tolist()
      [[0, 1, 2], [3, 4, -1]]
    """
    steps = -(-examples // batch_size)
    index = np.pad(np.arange(examples, dtype=np.int32), (0, steps * batch_size - examples), constant_values=-1)
    return index.reshape(steps, batch_size)


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
    name = f"{seed}/{key}".encode(errors="surrogateescape")  # names of files are bytes, and need not be UTF-8
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
