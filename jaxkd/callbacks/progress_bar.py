"""How training is going, on the terminal."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from jaxkd.callbacks.base import Callback, Logs

_WIDTH = 20  # of the bar, in characters


class ProgressBar(Callback):
    """Shows epoch, step, losses, images per second and the time left of the whole run.

    On a terminal one line is rewritten while an epoch runs; elsewhere, as in a log file, there is one line per epoch.
    The first estimate of the time left includes compiling and is too long.

    Args:
      stream: where to write; the standard error by default.
      clock: seconds since some moment.

    Example:
      >>> times = iter([0.0, 3.0])
      >>> bar = ProgressBar(sys.stdout, clock=lambda: next(times))
      >>> bar.set_params({"epochs": 3, "steps": 10, "batch_size": 64, "images": 640})
      >>> bar.on_train_begin()
      >>> bar.on_epoch_begin(0)
      >>> bar.on_train_batch_end(10, {"loss": 2.5, "images_per_second": 213.3})
      >>> bar.on_epoch_end(0, {"loss": 2.5, "val_accuracy": 0.5})
      epoch 1/3 · loss 2.5 · val_accuracy 0.5 · 213 images/s · 0:00:06 left
    """

    every_process = False

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.perf_counter):
        self._given_stream = stream
        self._clock = clock

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._stream = self._given_stream or sys.stderr
        self._epoch = 0
        self._speed = ""
        self._left = ""
        # Moment and steps done from which the time left is extrapolated, and whether compiling lies between.
        self._mark: tuple[float, int] | None = None
        self._compiled = False

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch
        if self._mark is None:
            self._mark = (self._clock(), self._steps_done(0))
        if self._stream.isatty():
            self._rewrite(_joined(self._name(), self._bar(0), self._left))

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        logs = dict(logs or {})
        self._speed = _speed(logs.pop("images_per_second", None))
        self._left = self._time_left(step)
        if self._stream.isatty():
            self._rewrite(_joined(self._name(), self._bar(step), _values(logs), self._speed, self._left))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = dict(logs or {})
        self._speed = _speed(logs.pop("images_per_second", None)) or self._speed
        if self._stream.isatty():
            self._rewrite("")
        print(_joined(self._name(), _values(logs), self._speed, self._left), file=self._stream, flush=True)

    def _name(self) -> str:
        return f"epoch {self._epoch + 1}/{self.params['epochs']}"

    def _steps_done(self, step: int) -> int:
        return self._epoch * (self.params["steps"] or 0) + step

    def _bar(self, step: int) -> str:
        steps = self.params["steps"]
        if not steps:
            return f"step {step}"
        full = _WIDTH * step // steps
        return f"{'█' * full}{'░' * (_WIDTH - full)} {step}/{steps}"

    def _time_left(self, step: int) -> str:
        if not self.params["steps"] or self._mark is None:
            return ""
        now, done = self._clock(), self._steps_done(step)
        since, before = self._mark
        if done <= before:
            return ""
        seconds = (now - since) / (done - before) * (self.params["epochs"] * self.params["steps"] - done)
        if not self._compiled:
            self._mark, self._compiled = (now, done), True
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"

    def _rewrite(self, line: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]:<{width}}" if line else f"\r{' ' * width}\r", end="", file=self._stream, flush=True)


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _values(logs: Logs) -> str:
    return " · ".join(f"{name} {float(value):.4g}" for name, value in logs.items())


def _speed(images_per_second: float | None) -> str:
    return "" if images_per_second is None else f"{images_per_second:.0f} images/s"
