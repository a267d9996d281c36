"""Progress of training on a terminal, in a notebook or in a log."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from jaxkd.callbacks.base import Callback, Logs

_NARROWEST, _NARROW, _WIDEST = 3, 8, 20  # characters of the bar: below the first there is none


class ProgressBar(Callback):
    """Show epoch, step, losses, images per second and the time left of the whole run.

    On a terminal and in a notebook a bar follows each epoch; speed and time left stay in sight and loss terms are left
    out where the line is too narrow. Elsewhere, as in a log file, there is one line per epoch. The first estimate of
    the time left includes compiling and is too long.

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
        self._bar: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._close()
        self._stream = self._given_stream or sys.stderr
        self._in_notebook = self._given_stream is None and _in_notebook()
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
        if self._in_notebook or self._stream.isatty():
            from tqdm.auto import tqdm

            file = None if self._in_notebook else self._stream
            self._bar = tqdm(total=self.params["steps"], file=file, leave=False, dynamic_ncols=True, bar_format=" ")
            self._show(0, {})

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        logs = dict(logs or {})
        self._speed = _speed(logs.pop("images_per_second", None))
        self._left = self._time_left(step)
        self._show(step, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = dict(logs or {})
        self._speed = _speed(logs.pop("images_per_second", None)) or self._speed
        self._close()
        print(_joined(self._name(), *_terms(logs), self._speed, self._left), file=self._stream, flush=True)

    def _name(self) -> str:
        return f"epoch {self._epoch + 1}/{self.params['epochs']}"

    def _steps_done(self, step: int) -> int:
        return self._epoch * (self.params["steps"] or 0) + step

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

    def _show(self, step: int, logs: Logs) -> None:
        if self._bar is None:
            return
        name, steps = self._name(), self.params["steps"]
        state = _joined(f"{step}/{steps}" if steps else f"step {step}", self._speed, self._left)
        columns = self._bar.format_dict["ncols"] or shutil.get_terminal_size().columns - 1
        # Epoch, step, speed and time left stay in sight. Of what they leave, a short bar comes first, then loss terms.
        terms = [f" · {term}" for term in _terms(logs)]
        room = columns - len(f"{name} || {state}")
        width = min(room, _WIDEST, max(_NARROW, room - sum(map(len, terms)))) if steps else 0
        for term in terms:
            room -= len(term)
            if room < width and not self._in_notebook:
                break
            state += term
        name, state = (text.replace("{", "{{").replace("}", "}}") for text in (name, state))
        if self._in_notebook and steps:
            self._bar.bar_format = f"{name} {{bar}} {state}"
        elif width >= _NARROWEST:
            self._bar.bar_format = f"{name} |{{bar:{width}}}| {state}"
        else:
            self._bar.bar_format = f"{name} · {state}"
        self._bar.n = step
        self._bar.refresh()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def _in_notebook() -> bool:
    """Return whether tqdm would draw widgets of a notebook."""
    if "IPython" not in sys.modules:
        return False
    from tqdm.auto import tqdm

    return any(kind.__name__ == "tqdm_notebook" for kind in tqdm.__mro__)


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _terms(logs: Logs) -> list[str]:
    return [f"{name} {float(value):.4g}" for name, value in logs.items()]


def _speed(images_per_second: float | None) -> str:
    return "" if images_per_second is None else f"{images_per_second:.0f} images/s"
