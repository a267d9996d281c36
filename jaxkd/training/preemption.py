"""Ending cleanly: SIGTERM, a terminal that is gone and Ctrl-C are noticed; training stops where its state is whole."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

TERMINATED = 75
"""The exit code of a run that got SIGTERM or SIGHUP and can be resumed later, as sysexits' EX_TEMPFAIL."""

_HANG_UP = getattr(signal, "SIGHUP", None)
"""What a process gets whose terminal is closed, or whose ssh breaks off; Windows has no such signal."""

_REQUESTS = itertools.count(1)
"""The numbers of what several processes ask JAX, which have to rise from one `fit` to the next."""


class Termination:
    """Notice, while entered, that this process or another one of the run is asked to end.

    A second Ctrl-C interrupts at once, as it would without.

    Args:
      wanted: whether anybody would do something about it; otherwise the signals keep their meaning.

    Example:
      >>> with Termination(wanted=True) as termination:
      ...     signal.raise_signal(signal.SIGTERM)
      ...     termination.requested()
      True
    """

    def __init__(self, wanted: bool):
        self._wanted = wanted
        # A signal only reaches Python's main thread. Several processes have to stop at the same step, and JAX, which
        # lets them agree on one, has a handler of its own for SIGTERM.
        self._single = jax.process_count() == 1
        self._handles = wanted and self._single and threading.current_thread() is threading.main_thread()
        self._noticed: int | None = None
        self._before: dict[int, Any] = {}
        self._terminals: list[int] = []

    def __enter__(self) -> Termination:
        if self._handles:
            self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
            for number in filter(None, (signal.SIGTERM, signal.SIGINT, _HANG_UP)):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as in jobs that a shell put into the background
                    self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @property
    def noticed(self) -> bool:
        """Tell whether this process, the only one of the run, has been asked to end; several have to agree first."""
        return self._single and self._noticed is not None

    def requested(self) -> bool:
        """Return whether to end now. The processes of a run ask equally often, and hear the same."""
        if not self._wanted or self._single:
            return self._noticed is not None
        return multihost_utils.reached_preemption_sync_point(next(_REQUESTS))

    @property
    def signal(self) -> int:
        """The number of the signal; SIGTERM where another process got it."""
        return signal.SIGTERM if self._noticed is None else self._noticed

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold a Ctrl-C back until the end of what must be done as a whole; a second one interrupts at once."""
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler) or threading.current_thread() is not threading.main_thread():
            yield
            return
        came: list[FrameType | None] = []

        def hold(number: int, frame: FrameType | None) -> None:
            came.append(frame)
            if len(came) > 1:
                handler(number, frame)

        signal.signal(signal.SIGINT, hold)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)
        if came:
            handler(signal.SIGINT, came[0])

    def end(self) -> None:
        """End the program as the signal asks.

        Raises:
          KeyboardInterrupt: after Ctrl-C.
          SystemExit: with code 75 after SIGTERM or SIGHUP.
        """
        if self._noticed == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(TERMINATED)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._noticed is not None:
            raise KeyboardInterrupt
        self._noticed = number
        if number == signal.SIGINT:
            with contextlib.suppress(OSError):  # nobody may read on: `tee` dies of the same Ctrl-C
                width = os.get_terminal_size(2).columns - 1 if 2 in self._terminals else 0
                os.write(2, f"\r{'saving, then ending; Ctrl-C again ends at once'.ljust(width)}\n".encode())
        elif number == _HANG_UP:  # writing to a terminal that is gone would be an error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in self._terminals:
                os.dup2(nowhere, descriptor)
            os.close(nowhere)
