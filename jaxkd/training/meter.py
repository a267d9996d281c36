"""Averages of what the steps of an epoch report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class EpochMeter:
    """Collects the logs of compiled chunks; every example counts the same.

    Args:
      averaged: the quantities to average over examples, in the order of the logs; of all others the latest value is
        kept.

    Example:
      >>> meter = EpochMeter(["loss"])
      >>> meter.add({"loss": np.array([1.0, 3.0]), "learning_rate": np.array([0.1, 0.2])}, batch_size=8)
      >>> meter.logs()["loss"], meter.logs()["learning_rate"], meter.steps
      (2.0, 0.2, 2)
    """

    def __init__(self, averaged: Sequence[str]):
        self._sums = dict.fromkeys(averaged, 0.0)
        self._latest: dict[str, float] = {}
        self._start = time.perf_counter()
        self._images_before = 0
        self.steps = self.images = 0

    def add(self, logs: dict[str, np.ndarray], batch_size: int) -> None:
        """Takes the `[S]` values of a chunk of S steps."""
        for name, values in logs.items():
            self._latest[name] = float(values[-1])
            if name in self._sums:
                self._sums[name] += float(np.sum(values, dtype=np.float64)) * batch_size
        steps = len(next(iter(logs.values())))
        self.steps += steps
        self.images += steps * batch_size

    def logs(self) -> dict[str, float]:
        """Means, then latest values so far, and `images_per_second`."""
        means = {name: total / self.images for name, total in self._sums.items()}
        rate = (self.images - self._images_before) / max(time.perf_counter() - self._start, 1e-9)
        latest = {name: value for name, value in self._latest.items() if name not in means}
        return means | latest | {"images_per_second": rate}

    def to_dict(self) -> dict[str, Any]:
        """What `resume` takes up, as JSON values."""
        return {"sums": self._sums, "latest": self._latest, "steps": self.steps, "images": self.images}

    def resume(self, record: Mapping[str, Any]) -> None:
        """Goes on from the record of an epoch that was broken off; the rate counts what comes now."""
        self._sums = {name: float(record["sums"][name]) for name in self._sums}
        self._latest = dict(record["latest"])
        self.steps, self.images = record["steps"], record["images"]
        self._images_before = self.images
