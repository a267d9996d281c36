"""An epoch under way: what its steps have reported, and which chunk of them is still being computed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxkd.callbacks.terminate_on_nan import check_finite
from jaxkd.training.bounds import BoundWatch
from jaxkd.training.epochs import Chunk, one_behind
from jaxkd.training.meter import EpochMeter
from jaxkd.training.program import Program
from jaxkd.training.step import Logs


class RunningEpoch:
    """Follows an epoch of one run; it can be written down at any time, and taken up from that.

    Args:
      program: of the run.
      number: of the epoch, counted from 1.
      step: the number of steps taken in the whole training.
      record: of the same epoch, when it was broken off at this step.

    Attributes:
      last_steps: the value of every loss at each step of the chunk that was heard of last.
      last_steps_start: the number of steps taken before that chunk, in the whole training.
    """

    def __init__(self, program: Program, number: int, step: int, record: Mapping[str, Any] | None = None):
        self._number, self._first_step = number, record["first_step"] if record else step
        self._terms = ["loss", *(name for name, _ in program.weights)]
        self._meter, self._watch = EpochMeter(program.averaged), BoundWatch(dict(program.bounds))
        self._in_flight: list[tuple[Logs, int]] = []
        self.last_steps: dict[str, np.ndarray] = {}
        self.last_steps_start = step
        if record is not None:
            self._meter.resume(record["meter"])
            self._watch.resume(record["watch"])

    @property
    def steps(self) -> int:
        """How many steps of the epoch have been heard of."""
        return self._meter.steps

    def logs(self) -> dict[str, float]:
        """Means over the epoch so far."""
        return self._meter.logs()

    def follow(self, chunks: Iterator[Chunk], take: Callable[[Chunk], Logs]) -> Iterator[None]:
        """Takes the chunks, and stops after hearing of each, while the next is computed."""
        for values, batch_size in one_behind(chunks, take, self._in_flight):
            self.last_steps = {name: values[name] for name in self._terms}
            self.last_steps_start = self._first_step + self.steps
            self._meter.add(values, batch_size)
            self._watch.add(values)
            yield

    def warn(self) -> None:
        """Warns of learned values that never left a bound."""
        self._watch.warn(self._number)

    def to_dict(self) -> dict[str, Any]:
        """The epoch as far as the state has got, which is what is in flight as well, as JSON values.

        Raises:
          FloatingPointError: what is in flight is not finite, so that the state is not worth keeping.
        """
        meter, watch = copy.deepcopy(self._meter), copy.deepcopy(self._watch)
        for logs, batch_size in self._in_flight:
            values = {name: np.asarray(value) for name, value in logs.items()}
            terms = {name: values[name] for name in self._terms}
            check_finite(terms, self._first_step + meter.steps, self._number)
            meter.add(values, batch_size)
            watch.add(values)
        return {"first_step": self._first_step, "meter": meter.to_dict(), "watch": watch.to_dict()}
