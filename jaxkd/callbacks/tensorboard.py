"""Event files for TensorBoard, written without TensorFlow."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import IO, Any

from jaxkd.callbacks.base import Callback, Logs


class TensorBoard(Callback):
    """Write the logs of each epoch where `tensorboard --logdir DIRECTORY` finds them.

    The curves of training and validation are two runs, `train` and `validation`, with the same tags: each quantity is
    one picture. The horizontal axis is the epoch, counted from 1. A resumed run continues in the same directory, and
    TensorBoard forgets the points that are computed again.

    Args:
      directory: where the event files go; made if needed.

    Raises:
      ImportError: when training begins, if the package `tensorboard` is not installed.
    """

    every_process = False

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = Path(directory)
        self._runs: dict[str, _EventFile] = {}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        try:
            import tensorboard.compat.proto.event_pb2
            import tensorboard.summary.writer.record_writer  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "callbacks.TensorBoard needs the package of that name: pip install tensorboard"
            ) from error
        self._runs = {}

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        values: dict[str, dict[str, float]] = {}
        for name, value in (logs or {}).items():
            run = "validation" if name.startswith("val_") else "train"
            values.setdefault(run, {})[name.removeprefix("val_")] = float(value)
        for run, scalars in values.items():
            if run not in self._runs:
                self._runs[run] = _EventFile(self.directory / run, first_step=epoch + 1)
            self._runs[run].write(epoch + 1, scalars)

    def on_train_end(self, logs: Logs | None = None) -> None:
        for run in self._runs.values():
            run.close()
        self._runs = {}


class _EventFile:
    """A file of TensorBoard events, which replaces what earlier files in its directory hold from `first_step` on."""

    def __init__(self, directory: Path, first_step: int):
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        directory.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names; nanoseconds keep two runs of the same second apart.
        name = f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}"
        file: IO[bytes] = (directory / name).open("xb")
        self._records = RecordWriter(file)
        self._add(file_version="brain.Event:2")
        self._add(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._add(step=step, summary=Summary(value=values))
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _add(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
