"""Ending cleanly when the machine is taken away: SIGTERM is noticed, and training stops where its state is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

TERMINATED = 75
"""The exit code of a run that was asked to end and can go on later, as sysexits' EX_TEMPFAIL."""


class Termination:
    """Notices, while it is entered, that this process or another one of the run is asked to end.

    Args:
      wanted: whether anybody would do something about it; otherwise SIGTERM keeps its meaning.

    Example:
      >>> with Termination(wanted=True) as termination:
      ...     signal.raise_signal(signal.SIGTERM)
      ...     termination.requested()
      True
    """

    def __init__(self, wanted: bool):
        self._wanted = wanted
        # A signal only reaches Python's main thread. Several processes have to stop at the same step, and JAX, which
        # lets them agree on one, has a handler of its own.
        self._single = jax.process_count() == 1
        self._handles = wanted and self._single and threading.current_thread() is threading.main_thread()
        self._noticed, self._asked = False, 0
        self._before: Any = None

    def __enter__(self) -> Termination:
        if self._handles:
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *error: object) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._before)

    def requested(self) -> bool:
        """Whether to end now. The processes of a run ask equally often, and hear the same."""
        if not self._wanted or self._single:
            return self._noticed
        self._asked += 1
        return multihost_utils.reached_preemption_sync_point(self._asked)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._noticed = True
