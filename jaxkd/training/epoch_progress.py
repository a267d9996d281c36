"""The progress of a run in an epoch: its means so far, and whether what is learned stays at its bounds."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxkd.checks import check_finite
from jaxkd.training.program import Program
from jaxkd.training.step import Logs

Means = dict[str, float]

SATURATION_MARGIN = 0.01
"""The distance from a bound that counts as being there, as a part of the range."""


class EpochProgress:
    """The progress of a run in an epoch: means so far, bounds reached, and what is still being computed.

    Every example counts the same. It can be written down at any time, and resumed from that.

    Args:
      program: of the run.
      number: of the epoch, counted from 1.
      step: the number of steps taken in the whole training.
      waiting: the logs and batch size of chunks that are under way.
      column: of a stacked run in the logs, which are `[S, n]` then.
      record: of the same epoch, when it was broken off at this step.
      warned: the bounds that the run has been warned of; what is warned of now is added.

    Attributes:
      steps: of the epoch that have been heard of.
      last_steps: the value of every loss at each step of the chunk that was heard of last.
      last_steps_start: the number of steps taken before that chunk, in the whole training.
    """

    def __init__(
        self,
        program: Program,
        number: int,
        step: int,
        waiting: list[tuple[Logs, int]],
        column: int | None = None,
        record: Mapping[str, Any] | None = None,
        warned: set[str] | None = None,
    ):
        self._number, self._first_step = number, record["first_step"] if record else step
        self._terms = ["loss", *(name for name, _ in program.weights)]
        self._sums = dict.fromkeys(program.averaged, 0.0)
        self._latest: Means = {}
        self._monitor = SaturationMonitor(dict(program.bounds), warned)
        self._column = column
        self._start = time.perf_counter()
        self.steps = self.images = self._images_before = 0
        self.waiting = waiting
        self.last_steps: dict[str, np.ndarray] = {}
        self.last_steps_start = step
        if record is not None:
            meter = record["meter"]
            self._sums = {name: float(meter["sums"][name]) for name in self._sums}
            self._latest = dict(meter["latest"])
            self.steps, self.images = meter["steps"], meter["images"]
            self._images_before = self.images  # the rate counts what comes now
            self._monitor.resume(record["watch"])

    def add(self, logs: Mapping[str, np.ndarray], batch_size: int) -> None:
        """Add the logs of a chunk of S steps, `[S]` or `[S, n]`."""
        values = {name: value if self._column is None else value[:, self._column] for name, value in logs.items()}
        self.last_steps = {name: values[name] for name in self._terms}
        self.last_steps_start = self._first_step + self.steps
        for name, value in values.items():
            self._latest[name] = float(value[-1])
            if name in self._sums:
                self._sums[name] += float(np.sum(value, dtype=np.float64)) * batch_size
        self._monitor.add(values)
        steps = len(self.last_steps["loss"])
        self.steps += steps
        self.images += steps * batch_size

    def logs(self) -> Means:
        """Return the means so far, then the latest of all other values, and `images_per_second`."""
        means = {name: total / self.images for name, total in self._sums.items()}
        rate = (self.images - self._images_before) / max(time.perf_counter() - self._start, 1e-9)
        latest = {name: value for name, value in self._latest.items() if name not in means}
        return means | latest | {"images_per_second": rate}

    def warn(self) -> None:
        """Warn of monitored values that never left a bound, once in a run."""
        self._monitor.warn(self._number)

    def to_dict(self) -> dict[str, Any]:
        """Return the epoch as far as the state has got, chunks under way included, as JSON values.

        Raises:
          FloatingPointError: a loss of those is not finite, so that the state is not worth keeping.
        """
        done = copy.copy(self)
        done._sums, done._latest, done._monitor = dict(self._sums), dict(self._latest), copy.deepcopy(self._monitor)
        for logs, batch_size in self.waiting:
            done.add({name: np.asarray(value) for name, value in logs.items()}, batch_size)
            check_finite(done.last_steps, done.last_steps_start, self._number)
        meter = {"sums": done._sums, "latest": done._latest, "steps": done.steps, "images": done.images}
        return {"first_step": self._first_step, "meter": meter, "watch": done._monitor.to_dict()}


class SaturationMonitor:
    """Notice that a learned value has run into a bound, where it no longer adapts.

    Args:
      bounds: lowest and highest possible value of each, by its name in the logs.
      warned: the bounds that were warned of before, which are not again; what is warned of is added.

    Example:
      >>> monitor = SaturationMonitor({"kd_temperature": (1.0, 21.0)})
      >>> monitor.add({"kd_temperature": np.array([1.1, 1.05])})
      >>> with warnings.catch_warnings(record=True) as caught:
      ...     warnings.simplefilter("always")
      ...     monitor.warn(epoch=7)
      >>> str(caught[0].message).partition(":")[0]
      'kd_temperature stayed at its lower bound, 1, through all of epoch 7'
    """

    def __init__(self, bounds: Mapping[str, tuple[float, float]], warned: set[str] | None = None):
        self._bounds, self._warned = bounds, set() if warned is None else warned
        self._lowest = dict.fromkeys(bounds, np.inf)
        self._highest = dict.fromkeys(bounds, -np.inf)

    def add(self, logs: Mapping[str, np.ndarray]) -> None:
        """Add the `[S]` values of a chunk of S steps."""
        for name in self._bounds:
            self._lowest[name] = min(self._lowest[name], float(np.min(logs[name])))
            self._highest[name] = max(self._highest[name], float(np.max(logs[name])))

    def to_dict(self) -> dict[str, Any]:
        """Return what `resume` takes, as JSON values."""
        return {"lowest": self._lowest, "highest": self._highest}

    def resume(self, record: Mapping[str, Any]) -> None:
        """Resume from the record of an epoch that was broken off."""
        self._lowest, self._highest = dict(record["lowest"]), dict(record["highest"])

    def warn(self, epoch: int) -> None:
        """Warn of every value that never left a bound in this epoch, counted from 1, unless that was said before."""
        for name, (low, high) in self._bounds.items():
            near = SATURATION_MARGIN * (high - low)
            sides = {
                "lower": (self._highest[name] <= low + near, low),
                "upper": (self._lowest[name] >= high - near, high),
            }
            for side, (there, bound) in sides.items():
                if there and f"{name} {side}" not in self._warned:
                    self._warned.add(f"{name} {side}")
                    warnings.warn(
                        f"{name} stayed at its {side} bound, {bound:g}, through all of epoch {epoch}: it no longer "
                        "adapts. Widen its range, weaken its curriculum or lower the weight of its loss",
                        stacklevel=2,
                    )
