"""Logs of epochs as a CSV file."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

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
        self.path = Path(path)
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
