"""Which examples make up each batch of a streamed run: a function of the seed and the step, wherever it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from jaxkd.data.streamed import Picks


@dataclass(frozen=True)
class Share:
    """Which part of a batch a process reads.

    Attributes:
      devices: over which batches are cut.
      processes: that have these devices, equally many each.
      position: of this process among them.
    """

    devices: int
    processes: int
    position: int

    def __call__(self, batch_size: int) -> slice:
        """The part of a batch; all of one that does not divide over the devices, since each of them sees it whole."""
        if batch_size % self.devices:
            return slice(0, batch_size)
        each = batch_size // self.processes
        return slice(self.position * each, (self.position + 1) * each)


@dataclass
class TrainingPlan:
    """The batches of some epochs, one after the other; each epoch sees every example once, in an order of its own.

    Attributes:
      examples: how many there are.
      batch_size: over all processes.
      seed: of the order and the augmentation.
      first_epoch: the one that `plan[0]` belongs to, counted from 0.
      epochs: how many.
      share: what this process reads of each batch.
    """

    examples: int
    batch_size: int
    seed: int
    first_epoch: int
    epochs: int
    share: Share
    _order: tuple[int, np.ndarray] | None = field(default=None, init=False, repr=False)

    @property
    def steps(self) -> int:
        """How many batches an epoch has, the smaller last one included."""
        return -(-self.examples // self.batch_size)

    def size(self, position: int) -> int:
        """Examples in the batch at a position of an epoch, over all processes."""
        return min(self.batch_size, self.examples - position * self.batch_size)

    def __len__(self) -> int:
        return self.epochs * self.steps

    def __getitem__(self, step: int) -> Picks:
        if not 0 <= step < len(self):
            raise IndexError(step)
        epoch, position = divmod(step, self.steps)
        epoch += self.first_epoch
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.examples)
        start = position * self.batch_size
        places = np.arange(start, start + self.size(position))[self.share(self.size(position))]
        return Picks(self._order[1][places], places, self.seed, epoch)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_order": None}


@dataclass(frozen=True)
class EvaluationPlan:
    """All examples once, in order, in batches of one size; the last is filled up with nothing.

    Attributes:
      examples: how many there are.
      batch_size: over all processes, which divides over the devices.
      share: what this process reads of each batch.
    """

    examples: int
    batch_size: int
    share: Share

    def __len__(self) -> int:
        return -(-self.examples // self.batch_size)

    def __getitem__(self, step: int) -> Picks:
        if not 0 <= step < len(self):
            raise IndexError(step)
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        places = places[self.share(self.batch_size)]
        return Picks(np.where(places < self.examples, places, -1), places, 0, 0)
