"""The moment from which on nothing of a command is refused any more, and its run directories are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxkd.callbacks import Callback


class RefusedError(ValueError):
    """What was refused before the first step: nothing was written."""


class Beginning(Callback):
    """Start run directories when training begins, since nothing is refused any more.

    In a `with` statement around what trains, it raises `RefusedError` for an error from before that.

    Args:
      starts: are called without arguments.

    Attributes:
      ended: whether training came to its end.
    """

    def __init__(self, *starts: Callable[[], None]):
        self._starts, self._begun, self.ended = starts, False, False

    def on_train_begin(self, logs: Any = None) -> None:
        if not self._begun:  # of several runs, with the first
            for start in self._starts:
                start()
        self._begun = True

    def on_train_end(self, logs: Any = None) -> None:
        self.ended = True

    def __enter__(self) -> Beginning:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, ValueError | OSError | MemoryError) and not self._begun:
            raise RefusedError(str(error)) from error
