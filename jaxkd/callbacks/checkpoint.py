"""Checkpoints during training."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxkd.callbacks.base import Callback, Logs
from jaxkd.callbacks.terminal import print_apart
from jaxkd.checks import check_at_least
from jaxkd.formats.files import check_folder

_STEPS_BETWEEN_QUESTIONS = 50
"""So seldom several processes ask each other for the time, which the host has to wait for the devices for."""


class Checkpoint(Callback):
    """Save the whole training state, so that a run that was killed can be resumed with little loss.

    A checkpoint of a complete epoch is a folder named after the number of epochs done, `directory/3`; one from the
    middle of an epoch is `directory/partial/STEP`, and is removed when the epoch is complete. Folders appear when they
    are complete. `fit(…, resume="auto")` resumes from the newest, as does `trainer.restore(directory)` before a `fit`.

    A process that gets SIGTERM, or SIGHUP as its terminal is closed, saves and ends with exit code 75; one that gets
    Ctrl-C saves and raises KeyboardInterrupt, at the next step that the host hears of. A second Ctrl-C interrupts at
    once.

    Args:
      directory: where the checkpoints go; made if needed. All processes of a run need to reach it. A location such as
        `gs://…` needs what `etils.epath` reads it with.
      keep: how many of the last complete epochs stay, at least 1.
      every: save after every so many epochs, at least 1, and always after the last epoch.
      every_steps: save also within epochs, after at least so many steps since the last time: whenever a compiled chunk
        of steps ends. Chunks are as long as an epoch on GPUs and TPUs, for data that stay there, unless `compile` was
        given `steps_per_execution`.
      every_minutes: likewise, after so many minutes.

    Raises:
      ValueError: for numbers below 1, or no minutes.
      OSError: when training begins, if the directory cannot be written to; later, if the disk is full.

    Example:
      >>> Checkpoint("runs/ctkd", every=0)
      Traceback (most recent call last):
      ValueError: every=0: must be at least 1
    """

    saves = True

    def __init__(
        self,
        directory: str | os.PathLike[str],
        keep: int = 1,
        every: int = 1,
        every_steps: int | None = None,
        every_minutes: float | None = None,
    ):
        check_at_least(1, keep=keep, every=every, every_steps=1 if every_steps is None else every_steps)
        if every_minutes is not None and not every_minutes > 0:
            raise ValueError(f"every_minutes={every_minutes}: must be more than 0")
        self.directory = os.fspath(directory)
        self.keep, self.every, self.every_steps, self.every_minutes = keep, every, every_steps, every_minutes
        self._unsaved = False
        self._steps, self._asked, self._saved_at = 0, 0, 0.0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._unsaved = False
        self._steps, self._asked, self._saved_at = 0, 0, time.monotonic()
        if "://" in self.directory:
            return
        # Fail now rather than after the first epoch.
        try:
            Path(self.directory).expanduser().mkdir(parents=True, exist_ok=True)
            check_folder(self.directory)
        except OSError as error:
            raise OSError(
                f"cannot write checkpoints to {self.directory!r} ({error}): give Checkpoint a directory it may write to"
            ) from error

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        self._steps += len(next(iter(self.trainer.last_steps.values()), ()))
        if self._due():
            self._save()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._unsaved = True
        if (epoch + 1) % self.every == 0:
            self._save()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._unsaved:
            self._save()

    def on_termination(self, logs: Logs | None = None) -> None:
        self._save()
        if jax.process_index() == 0:
            number = signal.Signals(int((logs or {}).get("signal", signal.SIGTERM)))
            asked = "Ctrl-C" if number == signal.SIGINT else number.name
            print_apart(f"{asked}: saved in {self.directory}, to resume from")

    def _due(self) -> bool:
        if self.every_steps is not None and self._steps >= self.every_steps:
            return True
        if self.every_minutes is None:
            return False
        late = time.monotonic() - self._saved_at >= 60 * self.every_minutes
        if jax.process_count() == 1:
            return late
        if self._steps - self._asked < _STEPS_BETWEEN_QUESTIONS:
            return False
        self._asked = self._steps
        return bool(multihost_utils.broadcast_one_to_all(np.asarray(late)))  # their clocks differ

    def _save(self) -> None:
        self.trainer.save(self.directory, keep=self.keep)
        self._unsaved = False
        self._steps, self._asked, self._saved_at = 0, 0, time.monotonic()
