"""Checkpoints while training runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from jaxkd.callbacks.base import Callback, Logs


class Checkpoint(Callback):
    """Saves the whole training state at the end of epochs, so that a run that dies loses little.

    Each checkpoint is a folder named after the number of epochs done, `directory/3`, that appears when it is complete.
    `trainer.restore(directory)` goes on from the last one.

    Args:
      directory: where the checkpoints go; made if needed. Network locations (`gs://…`) are passed on as they are.
      keep: how many of the last checkpoints stay, at least 1.
      every: saves after every so many epochs, at least 1, and always after the last epoch.

    Raises:
      ValueError: for `keep` or `every` below 1.
      OSError: when training begins, if the directory cannot be written to.

    Example:
      >>> Checkpoint("runs/ctkd", every=0)
      Traceback (most recent call last):
      ValueError: every=0: it counts epochs and must be at least 1
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 1, every: int = 1):
        if keep < 1:
            raise ValueError(f"keep={keep}: it counts checkpoints and must be at least 1")
        if every < 1:
            raise ValueError(f"every={every}: it counts epochs and must be at least 1")
        self.directory = os.fspath(directory)
        self.keep = keep
        self.every = every
        self._unsaved = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._unsaved = False
        if "://" in self.directory:
            return
        # Better now than after the first epoch: what cannot be saved should not be computed.
        try:
            Path(self.directory).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.directory):
                pass
        except OSError as error:
            raise OSError(
                f"cannot write checkpoints to {self.directory!r} ({error}): give Checkpoint a directory it may write to"
            ) from error

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._unsaved = True
        if (epoch + 1) % self.every == 0:
            self._save()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._unsaved:
            self._save()

    def _save(self) -> None:
        self.trainer.save(self.directory, keep=self.keep)
        self._unsaved = False
