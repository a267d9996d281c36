"""Logs of epochs for other programs: a CSV file, TensorBoard's event files, Weights & Biases."""

from __future__ import annotations

import csv
import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from jaxkd.callbacks.base import Callback, Logs
from jaxkd.formats.files import atomic_write


class CSVLogger(Callback):
    """Write the logs of each epoch as a line of a CSV file: `epoch` (counted from 1), then a column per quantity.

    The file is whole at any moment, and a resumed run appends to it: lines of epochs that are trained again are
    replaced, so each epoch is there once. A quantity that was not measured leaves its field empty.

    Args:
      path: the file; its directory is made if needed.
      append: whether to append to a file that is already there; otherwise it is overwritten.

    Raises:
      ValueError: when training begins, if `append` meets a file that is not such a log.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "log.csv"
      >>> logger = CSVLogger(path)
      >>> logger.on_train_begin()
      >>> logger.on_epoch_end(0, {"loss": 2.5})
      >>> logger.on_epoch_end(1, {"loss": 2.0, "val_accuracy": 0.5})
      >>> print(path.read_text(), end="")
      epoch,loss,val_accuracy
      1,2.5,
      2,2,0.5
    """

    every_process = False

    def __init__(self, path: str | os.PathLike[str], append: bool = True):
        self.path = Path(path).expanduser()
        self.append = append
        self._rows: list[dict[str, str]] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._rows = self._read() if self.append and self.path.exists() else []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        # Nine digits are what it takes to give back any float32.
        row = {"epoch": str(epoch + 1)} | {name: f"{float(value):.9g}" for name, value in (logs or {}).items()}
        self._rows = [*(earlier for earlier in self._rows if int(earlier["epoch"]) <= epoch), row]
        self._write()

    def _read(self) -> list[dict[str, str]]:
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if any(not (row.get("epoch") or "").isdigit() or None in row for row in rows):
            raise ValueError(
                f"{str(self.path)!r} is not a log of epochs: give CSVLogger another path, or append=False to replace it"
            )
        return rows

    def _write(self) -> None:
        columns = dict.fromkeys(name for row in self._rows for name in row)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        # The file is replaced as a whole: it can get a new column, and a process killed here leaves the old one intact.
        with atomic_write(self.path) as file:
            file.write(text.getvalue().encode())


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
        self.directory = Path(directory).expanduser()
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


class WandB(Callback):
    """Send the logs of each epoch to Weights & Biases, as `train/…` and `validation/…` at the epoch counted from 1.

    A run is begun when training begins and finished when it ends; one that an error ended is marked as failed when the
    next begins, or by wandb when the process ends. To resume the run of a killed process, name it the same both
    times: `WandB("project", id="ctkd-seed0", resume="allow")`; epochs that are trained again change nothing there.

    Args:
      project: where the run belongs.
      config: what to record of the configuration, such as `records.read(path).settings`.
      run: a run that was begun already, which then is yours to finish; the other arguments are not for it.
      **init: anything else that `wandb.init` takes: `name`, `group`, `mode="offline"`, ….

    Raises:
      ImportError: when training begins, if wandb is not installed.
      ValueError: for a `run` together with what would begin another.

    Example:
      >>> logger = WandB("distillation", config={"method": "ctkd"}, name="ctkd-seed0", mode="offline")
    """

    every_process = False

    def __init__(
        self, project: str | None = None, config: Mapping[str, Any] | None = None, *, run: Any = None, **init: Any
    ):
        given = {"project": project, "config": None if config is None else dict(config), **init}
        self._init = {name: value for name, value in given.items() if value is not None}
        if run is not None and self._init:
            raise ValueError(f"WandB was given a run and {', '.join(self._init)}: these belong to wandb.init(…)")
        self.project = project
        self._given = run
        self._run: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self._given is not None:
            self._run = self._given
            return
        try:
            import wandb
        except ImportError as error:
            raise ImportError('callbacks.WandB needs wandb: pip install "jaxkd[wandb]"') from error
        if self._run is not None:
            self._run.finish(exit_code=1)
        # Runs of a sweep are open side by side, where wandb by itself would send them all to the first.
        self._run = wandb.init(**({"reinit": "create_new"} | self._init))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        values = {}
        for name, value in (logs or {}).items():
            part = "validation" if name.startswith("val_") else "train"
            values[f"{part}/{name.removeprefix('val_')}"] = float(value)
        self._run.log(values, step=epoch + 1)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._given is None:
            self._run.finish()
        self._run = None
