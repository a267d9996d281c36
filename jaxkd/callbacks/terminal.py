"""Training on a terminal: a bar for the epoch under way, a table of those that are done, warnings apart."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TextIO, TypeVar

from jaxkd.tables import number

_P = ParamSpec("_P")
_R = TypeVar("_R")

BEST = "val_accuracy"
"""The quantity whose best value so far is marked."""

_FIRST = ("loss", "val_accuracy", "accuracy", "val_loss")
"""The columns that a row shows before all others, and so loses last."""

_NARROWEST, _NARROW, _WIDEST = 3, 8, 20  # characters of the bar: below the first there is none
_CELL = 6  # characters of a column at least, so that most values fit from the first row on
_BOLD, _GREEN, _YELLOW = "1", "1;32", "33"


def columns_of(stream: TextIO) -> int:
    """Return how wide the terminal of a stream is: $COLUMNS where it is set, else as it says, else 80 characters."""
    if os.environ.get("COLUMNS", "").isdigit():
        return shutil.get_terminal_size().columns
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (AttributeError, ValueError, OSError):
        return 80


def fitted(text: str, stream: TextIO) -> str:
    """Return a text whose lines fit the terminal of a stream: longer ones go on below, indented; as it is elsewhere.

    Example:
      >>> fitted("a line of a log file is never cut, however long it is", sys.stdout)
      'a line of a log file is never cut, however long it is'
    """
    if not stream.isatty():
        return text
    width = columns_of(stream) - 1
    wrapper = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(line if len(line) <= width else wrapper.fill(line) for line in text.splitlines())


def print_apart(text: str) -> None:
    """Print to the standard error, above the bars and not through them; where nobody reads on, it does nothing."""
    _clear_bars()
    try:
        print(fitted(text, sys.stderr), file=sys.stderr, flush=True)
    except BrokenPipeError:  # `tee` died of the same Ctrl-C, and what was to be saved has to be
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def wants_colour(stream: TextIO) -> bool:
    """Return whether to write a stream in colours: on a terminal, unless $NO_COLOR is set, or with $FORCE_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _coloured(text: str, code: str, wanted: bool) -> str:
    return f"\033[{code}m{text}\033[0m" if wanted else text


def joined(*parts: str) -> str:
    """Return what there is of some parts of a line."""
    return " · ".join(part for part in parts if part)


class EpochTable:
    """Tell of epochs as they end: a row each in a table that fits a terminal; elsewhere, as in a log file, a line each.

    The table begins with the names of its columns. They come again where columns or widths change, and when the last
    ones have left the screen. Where a terminal is too narrow, columns are left out from the right, the least important
    ones; the last two, speed and time left, stay. The best `val_accuracy` so far is green where there are colours.

    Args:
      stream: where to write.
      best: the best `val_accuracy` of the epochs before, if there are any.

    Example:
      >>> table = EpochTable(sys.stdout)
      >>> table.add("1/2", [{"loss": 2.0}, {"loss": 3.0}])
      epoch 1/2 · loss 2 … 3
    """

    def __init__(self, stream: TextIO, best: float | None = None):
        self._stream = stream
        self._best = best
        self._names: list[str] = []
        self._widths: dict[str, int] = {}
        self._header = ""
        self._rows = 0  # since the header

    def add(
        self, epoch: str, logs: Sequence[Mapping[str, float]], speed: str | None = None, left: str | None = None
    ) -> None:
        """Print the row of an epoch.

        Args:
          epoch: which of how many, as in "1/30".
          logs: what it measured in each run; of several runs the range is shown.
          speed: images per second, as in "320 images/s"; "" where this epoch has none, None where no epoch has.
          left: of the time, as in "0:00:20 left", likewise.
        """
        spans = {name: (min(own[name] for own in logs), max(own[name] for own in logs)) for name in logs[0]}
        best = self._is_best(logs)
        if self._stream.isatty():
            unit, word = " images/s", " left"
            fixed = {} if speed is None else {unit.strip(): speed.removesuffix(unit)}
            fixed |= {} if left is None else {word.strip(): left.removesuffix(word)}
            self._row({"epoch": epoch}, _in_order(spans), fixed, best)
            return
        colour = wants_colour(self._stream)
        terms = []
        for name, (low, high) in spans.items():
            term = f"{name} {float(low):.4g}" + (f" … {float(high):.4g}" if len(logs) > 1 else "")
            terms.append(_coloured(term, _GREEN, colour and best and name == BEST))
        print(joined(f"epoch {epoch}", *terms, speed or "", left or ""), file=self._stream, flush=True)

    def _is_best(self, logs: Sequence[Mapping[str, float]]) -> bool:
        if len(logs) > 1 or BEST not in logs[0]:
            return False
        value = logs[0][BEST]
        better = self._best is None or value > self._best
        self._best = value if better else self._best
        return better

    def _row(self, first: dict[str, str], values: dict[str, str], last: dict[str, str], best: bool) -> None:
        # A quantity keeps its column in epochs that do not measure it, as where validation is rare.
        self._names = list(_in_order(dict.fromkeys([*self._names, *values], (0.0, 0.0))))
        cells = first | dict.fromkeys(self._names, "") | values | last
        for name, text in cells.items():
            least = _CELL if name in self._names else 0
            self._widths[name] = max(len(name), len(text), least, self._widths.get(name, 0))
        room = columns_of(self._stream) - 1 - sum(self._widths[name] + 2 for name in (*first, *last)) + 2
        shown: list[str] = []
        for name in self._names:
            room -= self._widths[name] + 2
            if room < 0:
                break
            shown.append(name)
        names = [*first, *shown, *last]
        header = "  ".join(name.rjust(self._widths[name]) for name in names)
        colour = wants_colour(self._stream)
        if header != self._header or self._rows >= shutil.get_terminal_size().lines - 3:
            self._header, self._rows = header, 0
            print(_coloured(header, _BOLD, colour), file=self._stream)
        row = (
            _coloured(cells[name].rjust(self._widths[name]), _GREEN, colour and best and name == BEST) for name in names
        )
        self._rows += 1
        print("  ".join(row), file=self._stream, flush=True)


def _in_order(spans: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    """Return what a row shows of each quantity, the most important first."""
    names = [*(name for name in _FIRST if name in spans), *(name for name in spans if name not in _FIRST)]
    texts = {name: [number(value) for value in spans[name]] for name in names}
    return {name: low if low == high else f"{low}…{high}" for name, (low, high) in texts.items()}


class TerminalBar:
    """A line that follows an epoch on a terminal, no wider than it is.

    Args:
      stream: the terminal.
      steps: of the epoch; None where that is not known.
    """

    def __init__(self, stream: TextIO, steps: int | None):
        from tqdm import tqdm

        self._stream, self._steps = stream, steps
        look = {"ncols": self._columns(), "bar_format": " ", "position": 0, "leave": False}
        self._bar: Any = tqdm(total=steps, file=stream, **look)
        _BARS.append(self)

    def show(self, step: int, name: str, terms: Sequence[str], speed: str, left: str) -> None:
        """Draw it: epoch, step, speed and time left stay in sight; of what they leave, a short bar comes first."""
        steps = self._steps
        state = joined(f"{step}/{steps}" if steps else f"step {step}", speed, left)
        room = self._columns() - len(f"{name} || {state}")
        width = min(room, _WIDEST, max(_NARROW, room - sum(len(term) + 3 for term in terms))) if steps else 0
        for term in terms:
            room -= len(term) + 3
            if room < width:
                break
            state = joined(state, term)
        name, state = (text.replace("{", "{{").replace("}", "}}") for text in (name, state))
        bar = f" |{{bar:{width}}}| " if width >= _NARROWEST else " · "
        self._bar.bar_format = f"{name}{bar}{state}"
        self._bar.ncols = self._columns()
        self._bar.n = step
        self._bar.refresh()

    def close(self) -> None:
        """Remove it, if that was not done."""
        self._bar.close()
        if self in _BARS:
            _BARS.remove(self)

    def clear(self) -> None:
        """Make room for a line; the next call of `show` draws it below."""
        self._bar.clear()

    def _columns(self) -> int:
        return columns_of(self._stream) - 1  # some terminals begin a new line when the last column is written


_BARS: list[TerminalBar] = []
"""The bars that are on the screen."""


def _clear_bars() -> None:
    for bar in _BARS:
        bar.clear()


@contextmanager
def warnings_apart() -> Iterator[None]:
    """Write warnings in a line each, without the line of code they come from, and above the bar, not through it.

    What the user's process does with warnings stays as it is: filters, `showwarning` and recorded warnings are not
    touched, a `formatwarning` of one's own is called, and Python's is put back at the end.
    """
    before, bars = warnings.formatwarning, len(_BARS)

    def formatted(message: Any, category: Any, filename: str, lineno: int, line: str | None = None) -> str:
        _clear_bars()
        if before.__module__ not in ("warnings", "_py_warnings"):
            return before(message, category, filename, lineno, line)
        text = fitted(f"warning: {message}", sys.stderr)
        return text.replace("warning:", _coloured("warning:", _YELLOW, wants_colour(sys.stderr)), 1) + "\n"

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        for bar in _BARS[bars:]:  # after an error, whose traceback has the line to itself
            bar.close()
        if warnings.formatwarning is formatted:
            warnings.formatwarning = before


def with_warnings_apart(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return a function that warns as `warnings_apart` says while it runs."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with warnings_apart():
            return function(*args, **kwargs)

    return wrapped
