"""What a notebook shows of training: a bar, and a table of the epochs that are done."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxkd.history import History
from jaxkd.tables import html_table

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
