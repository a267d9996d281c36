"""Read the training logs that the authors of logit standardisation publish, epoch by epoch, as ours are recorded.

Each is a CSV file of `sunshangquan/logit-standardization-KD`. Its name says what was run, as in
`KD-kd_resnet56_resnet20_2_9.csv`: method, teacher, student, base temperature, weight and, for DKD, β.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from jaxkd.history import History
from jaxkd.records.record import Record


@dataclasses.dataclass(frozen=True)
class AuthorsLog:
    """The log of one of their runs.

    Attributes:
      path: the file.
      method: as `recipes.get_method` knows it: all of theirs standardise logits, so `KD` in a name is `kd+std`.
      teacher: its name here.
      student: likewise, as far as there is such a network here.
      data: what it was trained on, `cifar100` or `imagenet2012`.
      history: every epoch under the names of our logs; accuracies are parts of 1. `loss` and `accuracy` are means over
        the training images, the loss the weighted total; `kd_temperature` is that of the epoch's last step.
      base_temperature: what every temperature is multiplied by; None where the name does not say.
      weight: of the distillation term; None where the name does not say.
      beta: of DKD, as the name has it; None where it does not say.
      earlier: runs that stand before the last one in the same file, the first one first.
    """

    path: Path
    method: str
    teacher: str
    student: str
    data: str
    history: History
    base_temperature: float | None = None
    weight: float | None = None
    beta: float | None = None
    earlier: tuple[History, ...] = ()

    @property
    def pair(self) -> str:
        """Teacher and student as recipes write them."""
        return f"{self.teacher}-{self.student}"

    def is_of(self, run: Record) -> bool:
        """Return whether a run of ours has its method, networks and data."""
        ours = (run.method, (run.teacher or {}).get("name"), run.network, run.data)
        return ours == (self.method, self.teacher, self.student, self.data)


class _Column(NamedTuple):
    """The name that a column has here, and the values it may have."""

    name: str
    scale: float = 1.0
    low: float = -math.inf
    high: float = math.inf


_COLUMNS = MappingProxyType(
    {
        "lr": _Column("learning_rate", low=0.0),
        "train_acc": _Column("accuracy", 100.0, 0.0, 100.0),
        "train_loss": _Column("loss"),
        "test_acc": _Column("val_accuracy", 100.0, 0.0, 100.0),
        "test_acc_top5": _Column("val_top5", 100.0, 0.0, 100.0),
        "test_loss": _Column("val_loss", low=0.0),
        "temperature": _Column("kd_temperature", low=0.0),
        "lambda": _Column("kd_lambda"),
    }
)

_PLACES = (
    Path(__file__).parents[2] / "experiments" / "results" / "authors",
    Path(sysconfig.get_path("data")) / "share" / "jaxkd" / "authors",
)
"""Where this package's selection of logs is: in a checkout, else where pip puts what is no module."""

_NETWORK = r"wrn_\d+_\d+|[A-Za-z\d]+"
_NUMBER = r"\d+(?:\.\d+)?"
_SETTINGS = rf"_(?P<temperature>{_NUMBER})_(?P<weight>{_NUMBER})"
_NAMES = tuple(
    map(
        re.compile,
        (
            rf"[A-Z]+-(?P<method>[a-z]+)_(?P<teacher>{_NETWORK})_(?P<student>{_NETWORK}){_SETTINGS}(?:_(?P<beta>{_NUMBER}))?",
            rf"(?P<data>imagenet)-(?P<teacher>{_NETWORK})_(?P<student>{_NETWORK})_(?P<method>[a-z]+)_ours(?:{_SETTINGS})?",
            rf"transformer-(?P<student>[a-z\d-]+)_c100_(?P<method>[A-Z]+)_ours(?:{_SETTINGS})?",
        ),
    )
)

_OUR_NETWORKS = MappingProxyType(
    {
        **{f"res{depth}": f"resnet{depth}" for depth in (20, 32, 56, 110)},
        "res50": "ResNet50",
        "mv2": "MobileNetV2",
        "r34": "resnet34",
        "r18": "resnet18",
        "deit-ti": "deit_tiny_patch16_224",
        "t2t-7": "t2t_vit_7",
        "pit-ti": "pit_ti_224",
        "pvt-ti": "pvt_tiny",
    }
)


def read_log(path: str | os.PathLike[str]) -> AuthorsLog:
    """Read a log of the authors of logit standardisation.

    Some files hold two runs, one after the other: the last is the log, and `earlier` has the others.

    Args:
      path: a file with a column `epoch` and any of `lr`, `train_acc`, `train_loss`, `test_acc`, `test_acc_top5`,
        `test_loss`, `temperature` and `lambda`; accuracies in percent.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: its name does not say what was run, or something in it is malformed; the error names file, line and
        column.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = Path(folder) / "KD-kd_wrn_40_2_wrn_16_2_2_9.csv"
      ...     _ = file.write_text("epoch,train_loss,test_acc\\n1,6.84,17.2\\n2,4.99,27.91\\n")
      ...     log = read_log(file)
      >>> log.method, log.teacher, log.student, log.base_temperature, log.weight
      ('kd+std', 'wrn_40_2', 'wrn_16_2', 2.0, 9.0)
      >>> log.history.history["val_accuracy"]
      [0.172, 0.2791]
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not a file: name a log of the authors, or give a folder to records.find_logs"
        )
    said = _said_by_name(path)
    *earlier, history = _runs(path)
    return AuthorsLog(
        path=path,
        method=f"{str(said['method']).lower()}+std",
        teacher=_network(said.get("teacher") or "resnet56"),  # the transformers' only teacher is in no name
        student=_network(said["student"]),
        data="imagenet2012" if said.get("data") else "cifar100",
        history=history,
        base_temperature=_number(said.get("temperature")),
        weight=_number(said.get("weight")),
        beta=_number(said.get("beta")),
        earlier=tuple(earlier),
    )


def find_logs(folder: str | os.PathLike[str] | None = None) -> list[AuthorsLog]:
    """Read all logs of a folder, its CSV files, in the order of their names.

    Args:
      folder: None takes the selection that comes with this package.

    Raises:
      FileNotFoundError: there is no such folder, or it holds no CSV file.
      ValueError: as `read_log`.

    Example:
      >>> len({log.method for log in find_logs()})
      4
    """
    path = next((place for place in _PLACES if place.is_dir()), _PLACES[0]) if folder is None else Path(folder)
    path = path.expanduser()
    files = sorted(path.glob("*.csv"))
    if not files:
        raise FileNotFoundError(f"{path} holds no logs of the authors: name a folder with their CSV files")
    return [read_log(file) for file in files]


def _said_by_name(path: Path) -> dict[str, str | None]:
    for pattern in _NAMES:
        if found := pattern.fullmatch(path.stem):
            return found.groupdict()
    raise ValueError(
        f"{path}: the name does not say what was run; it must be as KD-kd_resnet56_resnet20_2_9.csv, "
        "METHOD-method_teacher_student_temperature_weight, with _beta for DKD"
    )


def _network(name: str | None) -> str:
    return _OUR_NETWORKS.get(str(name), str(name))


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _runs(path: Path) -> list[History]:
    """Return the runs of a file: a new one begins where the epoch is 1 again."""
    runs: list[History] = []
    for line, row in _rows(path):
        number = _value(path, line, "epoch", row["epoch"])
        after = runs[-1].epoch[-1] + 1 if runs else 0
        if number == 1:
            runs.append(History())
        elif number != after + 1:
            _refuse(path, line, "epoch", f"epoch {row['epoch']} comes after epoch {after}")
        measured = {name: _value(path, line, name, text) for name, text in row.items() if name != "epoch"}
        runs[-1].append(
            int(number) - 1, {_COLUMNS[name].name: value / _COLUMNS[name].scale for name, value in measured.items()}
        )
    if not runs:
        raise ValueError(f"{path} has no epochs: copy it anew from the authors' logs")
    return runs


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines of a table with their numbers, after the one with the columns' names."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            columns = next(reader, [])
            _check_columns(path, columns)
            for fields in filter(None, reader):  # csv gives an empty line as no fields
                if len(fields) != len(columns):
                    where = columns[len(fields)] if len(fields) < len(columns) else columns[-1]
                    _refuse(path, reader.line_num, where, f"{len(fields)} values for {len(columns)} columns")
                yield reader.line_num, dict(zip(columns, fields, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a table: {error}") from error


def _check_columns(path: Path, columns: list[str]) -> None:
    if "epoch" not in columns:
        _refuse(path, 1, "epoch", "there is no such column")
    for place, name in enumerate(columns):
        if name in columns[:place]:
            _refuse(path, 1, name, "the column is there twice")
        if name != "epoch" and name not in _COLUMNS:
            _refuse(path, 1, name, f"such a column is not known; there are epoch, {', '.join(_COLUMNS)}")


def _value(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        _refuse(path, line, column, f"{text!r} is not a number")
    known = _COLUMNS.get(column, _Column("epoch", low=1))
    if not math.isfinite(value) or not known.low <= value <= known.high:
        within = f"from {known.low:g} to {known.high:g}" if math.isfinite(known.low) else "finite"
        _refuse(path, line, column, f"{text} must be {within}")
    return value


def _refuse(path: Path, line: int, column: str, reason: str) -> NoReturn:
    raise ValueError(f"{path}, line {line}, column {column!r}: {reason}")
