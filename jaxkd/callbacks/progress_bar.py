"""Progress of training on a terminal, in a notebook or in a log."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from jaxkd.callbacks.base import Callback, Logs
from jaxkd.callbacks.terminal import BEST, EpochTable, TerminalBar, joined
from jaxkd.history import History
from jaxkd.tables import html_table


class ProgressBar(Callback):
    """Show epoch, step, losses, images per second and the time left of the whole run.

    On a terminal and in a notebook a bar follows each epoch, and those that are done are rows of a table. Speed and
    time left stay in sight; what is too wide for the terminal is left out, loss terms first. The best `val_accuracy` so
    far is green, unless $NO_COLOR is set. Elsewhere, as in a log file, there is one line per epoch, in colours only
    with $FORCE_COLOR. Before the first steps are done the bar says "compiling"; the first estimate of the time left
    includes that and is too long.

    The bar moves when a compiled program ends: `compile(steps_per_execution=…)` says after how many steps.

    Args:
      stream: where to write; by default the standard error, and below its cell in a notebook.
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
        self._bar: TerminalBar | None = None
        self._notebook: NotebookProgress | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._close()
        self._stream = self._given_stream or sys.stderr
        history = getattr(getattr(self, "trainer", None), "history", None)
        self._table = EpochTable(self._stream, max(history.measured(BEST).values(), default=None) if history else None)
        self._notebook = None
        if self._given_stream is None and in_notebook():
            self._notebook = NotebookProgress(self.params["steps"])
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
        if self._notebook is None and self._stream.isatty():
            self._bar = TerminalBar(self._stream, self.params["steps"])
        started = self._compiled or not self.params["steps"]
        self._show(0, {}, self._left if started else "compiling")

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        logs = dict(logs or {})
        self._speed = _speed(logs.pop("images_per_second", None))
        self._left = self._time_left(step)
        self._show(step, logs, self._left)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = dict(logs or {})
        self._speed = _speed(logs.pop("images_per_second", None)) or self._speed
        self._close()
        if self._notebook is not None:
            self._notebook.add(epoch, logs, joined(self._name(), self._speed, self._left))
        else:
            self._table.add(self._number(), [logs], self._speed, self._left if self.params["steps"] else None)

    def _number(self) -> str:
        return f"{self._epoch + 1}/{self.params['epochs']}"

    def _name(self) -> str:
        return f"epoch {self._number()}"

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

    def _show(self, step: int, logs: Logs, left: str) -> None:
        view = self._notebook or self._bar
        if view is not None:
            terms = [f"{name} {float(value):.4g}" for name, value in logs.items()]
            view.show(step, self._name(), terms, self._speed, left)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def _speed(images_per_second: float | None) -> str:
    return f"{images_per_second:.0f} images/s" if images_per_second else ""  # 0 where only the test was left to do


_SECONDS = 0.1  # between two drawings of the bar, so that quick steps are not held up
_ROWS = 20  # of the latest epochs


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


class NotebookProgress:
    """A bar that follows each epoch above a table of the latest, drawn in one place; it needs no widgets.

    Args:
      steps: of an epoch; None where that is not known.
    """

    def __init__(self, steps: int | None):
        from IPython.display import display

        self._steps = steps
        self._history = History()
        self._line, self._part, self._drawn = "", 0.0, 0.0
        self._handle: Any = display(self, display_id=True)

    def show(self, step: int, name: str, terms: Sequence[str], speed: str, left: str) -> None:
        """Draw the bar."""
        steps = self._steps
        state = (f"{step}/{steps}" if steps else f"step {step}", speed, left, *terms)
        self._line, self._part = " · ".join(part for part in (name, *state) if part), step / steps if steps else 0.0
        if step == steps or time.monotonic() - self._drawn > _SECONDS:
            self._draw()

    def add(self, epoch: int, logs: Mapping[str, float], line: str) -> None:
        """Tell of an epoch, counted from 0, that is done; `line` says what else is shown of it."""
        self._history.append(epoch, logs)
        self._line = line
        self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._handle is not None:
            self._handle.update(self)

    def __repr__(self) -> str:
        return self._line

    def _repr_html_(self) -> str:
        bar = (
            '<div style="width:300px;height:8px;background:#ddd;margin:4px 0">'
            f'<div style="width:{100 * self._part:.0f}%;height:8px;background:#0072B2"></div></div>'
        )
        table = html_table(*self._history.table(_ROWS)) if self._history.epoch else ""
        return f"<div>{html.escape(self._line)}{bar if self._steps else ''}</div>{table}"
