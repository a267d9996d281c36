"""Sources for the tests of streamed data, in a module of their own, so that decoding processes can import them."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import numpy as np

from jaxkd import data

CLASSES = ("cat", "dog", "eel")


@dataclass(frozen=True)
class Noise:
    """Pictures of noise, of different sizes; those in `missing` cannot be read."""

    count: int = 20
    missing: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int):
        if number in self.missing:
            raise OSError(f"block {number} of the disk is bad")
        shape = (18 + number % 5, 25 - number % 7, 3)
        return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8), number % len(CLASSES)


@dataclass(frozen=True)
class Odd(Noise):
    """Noise, but for one item."""

    at: int = 7
    item: object = None

    def __getitem__(self, number: int):
        if number == self.at:
            if isinstance(self.item, Exception):
                raise self.item
            return self.item
        return super().__getitem__(number)


class Fatal(Noise):
    """Noise whose last picture kills the process that reads it."""

    def __getitem__(self, number: int):
        if number == self.count - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(number)


class Telling(Noise):
    """Noise whose labels are in fact the number of the process that reads it."""

    def __getitem__(self, number: int):
        return super().__getitem__(number)[0], os.getpid()


def small(source, **options) -> data.StreamedDataset:
    """A data set of 16×16 views."""
    options = {"class_names": CLASSES, "image_size": 16, "workers": 0} | options
    return data.from_source(source, **options)


def plan(index, batch_size: int = 4, seed: int = 5, epoch: int = 2) -> list[data.BatchIndices]:
    """Batches of the given examples, in this order."""
    index = np.asarray(index)
    cuts = range(batch_size, len(index), batch_size)
    positions = np.split(np.arange(len(index)), cuts)
    parts = zip(np.split(index, cuts), positions, strict=True)
    return [data.BatchIndices(part, place, seed, epoch) for part, place in parts]
