"""Records of sweeps: many runs that share a configuration and differ in the settings of their cells."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd import recipes
from jaxkd.history import History
from jaxkd.records.directory import TableRow, damaged, environment_in, history_of, read_json, read_mapping, read_table
from jaxkd.records.record import Record
from jaxkd.spread import Spread

Cell = Mapping[str, Any]

TABLE, COMPARISON = "grid.csv", "results.json"


@dataclasses.dataclass(frozen=True)
class Grid:
    """A quantity over the two settings of a sweep that vary.

    Attributes:
      names: of the setting of the rows, and of that of the columns.
      rows: its values.
      columns: its values.
      mean: `[rows, columns]` over the runs of each cell, as with other seeds; NaN where there is none.
      deviation: `[rows, columns]`, the sample deviation; NaN where there are fewer than two.
      runs: the most runs that a cell has.
      fewest: the fewest runs of a cell that has any.
    """

    names: tuple[str, str]
    rows: tuple[Any, ...]
    columns: tuple[Any, ...]
    mean: np.ndarray
    deviation: np.ndarray
    runs: int
    fewest: int

    @property
    def transposed(self) -> Grid:
        """The same with rows for columns."""
        row, column = self.names
        mean, deviation = self.mean.T, self.deviation.T
        return Grid((column, row), self.columns, self.rows, mean, deviation, self.runs, self.fewest)


@dataclasses.dataclass(frozen=True)
class SweepRecord:
    """Many runs of one sweep.

    Attributes:
      path: its folder, or the file it was read from.
      cells: the settings of each run.
      histories: what each run measured.
      settings: what all runs share.
      environment: where they ran, as far as it was recorded.
      arguments: the options that the user gave.
      teacher: what was measured of it; empty where nothing was.
    """

    path: Path
    cells: tuple[Cell, ...]
    histories: tuple[History, ...]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    teacher: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its folder or file."""
        return self.path.resolve().name

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The settings that take more than one value, with those values; the seed is not one of them."""
        values: dict[str, dict[Any, None]] = {}
        for cell in self.cells:
            for name, value in cell.items():
                values.setdefault(name, {})[value] = None
        return {name: tuple(found) for name, found in values.items() if len(found) > 1 and name != "seed"}

    @property
    def runs(self) -> tuple[Record, ...]:
        """Every run as a record of its own; the networks were not kept."""
        # A table alone does not say by which method its runs learned, and is no record of networks without a teacher.
        settings = self.settings or {"method": self.name}
        shared = {name: value for name, value in settings.items() if name != "seeds"}
        return tuple(
            Record(
                path=self.path,
                name=f"{self.name}: {', '.join(f'{name} {value}' for name, value in cell.items())}",
                settings={**shared, **cell},
                history=history,
                environment=self.environment,
                arguments=self.arguments,
                result={"teacher": self.teacher} if self.teacher else {},
            )
            for cell, history in zip(self.cells, self.histories, strict=True)
        )

    def last(self, quantity: str = "val_accuracy") -> np.ndarray:
        """Return the last value of a quantity in each run, `[cells]`.

        Raises:
          KeyError: for a quantity that was never measured.
        """
        return np.array([history.last(quantity) for history in self.histories])

    def grid(self, quantity: str = "val_accuracy") -> Grid:
        """Return the last value of a quantity over two settings.

        Raises:
          ValueError: unless exactly two settings vary.
          KeyError: for a quantity that was never measured.
        """
        axes = self.axes
        if len(axes) != 2:
            raise ValueError(f"{self.path}: {len(axes)} settings vary ({', '.join(axes) or 'none'}); a grid has two")
        (row, rows), (column, columns) = axes.items()
        measured: dict[tuple[Any, Any], list[float]] = {}
        for cell, value in zip(self.cells, self.last(quantity), strict=True):
            measured.setdefault((cell.get(row), cell.get(column)), []).append(value)
        mean, deviation = (np.full((len(rows), len(columns)), np.nan) for _ in range(2))
        for (at_row, at_column), values in measured.items():
            place = rows.index(at_row), columns.index(at_column)
            spread = Spread(tuple(values))
            mean[place] = spread.mean
            if spread.deviation is not None:
                deviation[place] = spread.deviation
        counts = [len(values) for values in measured.values()]
        return Grid((row, column), rows, columns, mean, deviation, max(counts), min(counts))


def holds_sweep(path: Path) -> bool:
    """Return whether a path is a table of a sweep, or a folder with one."""
    if path.is_dir():
        return _is_table(path / TABLE) or holds_sweep(path / COMPARISON)
    if path.name == COMPARISON and path.is_file():
        return _is_comparison(path)
    return path.suffix == ".csv" and path.is_file()


def _is_table(file: Path) -> bool:
    """Return whether a file is a table of epochs; other programs have a grid.csv as well."""
    if not file.is_file():
        return False
    with file.open(encoding="utf-8", errors="replace") as table:
        return "epoch" in table.readline().strip().split(",")


def _is_comparison(file: Path) -> bool:
    """Return whether a file has runs by their methods; other programs have a results.json as well."""
    try:
        content = read_json(file)
    except ValueError:
        return False
    return isinstance(content, dict) and isinstance(content.get("runs"), dict)


def is_unfinished_sweep(path: Path) -> bool:
    """Return whether a folder is that of a sweep which has not come to its end, where its table is written."""
    config = path / "config.json"
    if holds_sweep(path) or not config.is_file() or (path / "metrics.csv").exists():
        return False
    return "seeds" in read_mapping(config, "settings").get("settings", {})


def check_finished(path: Path) -> None:
    """Raise a FileNotFoundError for the folder of a sweep that has not come to its end."""
    if is_unfinished_sweep(path):
        raise FileNotFoundError(
            f"{path} holds a sweep that is not finished: let it come to its end, with the same command and --resume if "
            "it was stopped"
        )


def read_sweep(path: str | os.PathLike[str]) -> SweepRecord:
    """Read the runs of a sweep.

    Args:
      path: a folder that `jaxkd sweep` or `jaxkd quickstart` wrote, or a file that `Sweep.to_csv` wrote.

    Raises:
      FileNotFoundError: there is none, or it is not finished.
      ValueError: a file is damaged.

    Example:
      >>> import tempfile
      >>> file = Path(tempfile.mkdtemp()) / "temperatures.csv"
      >>> _ = file.write_text("temperature,seed,epoch,val_accuracy\\n2,0,1,0.5\\n2,1,1,0.6\\n4,0,1,0.7\\n")
      >>> sweep = read_sweep(file)
      >>> sweep.axes, sweep.last().tolist()
      ({'temperature': (2, 4)}, [0.5, 0.6, 0.7])
    """
    path = Path(path).expanduser()
    check_finished(path)
    if not holds_sweep(path):
        raise FileNotFoundError(
            f"{path} holds no sweep: name a table that Sweep.to_csv wrote, or a folder with {TABLE} or {COMPARISON}"
        )
    file = path if path.is_file() else path / (TABLE if _is_table(path / TABLE) else COMPARISON)
    return _read_comparison(path, file) if file.name == COMPARISON else _read_table(path, file)


def _read_table(path: Path, file: Path) -> SweepRecord:
    columns, rows = read_table(file)
    place = columns.index("epoch")
    settings, quantities = columns[:place], columns[place + 1 :]
    if not settings:
        raise ValueError(f"{file} has no setting before its column 'epoch': it is the log of one run; name its folder")
    by_cell: dict[tuple[str, ...], list[TableRow]] = {}
    for row in rows:
        by_cell.setdefault(tuple(row[name] for name in settings), []).append(row)
    config_file = file.with_name("config.json")
    config = read_mapping(config_file, "settings", "arguments") if path.is_dir() and config_file.exists() else {}
    result_file = file.with_name("result.json")
    result = read_mapping(result_file, "teacher") if config and result_file.exists() else {}
    return SweepRecord(
        path=path,
        cells=tuple(dict(zip(settings, map(_value, texts), strict=True)) for texts in by_cell),
        histories=tuple(history_of(file, of_cell, quantities) for of_cell in by_cell.values()),
        settings=config.get("settings", {}),
        environment=environment_in(config),
        arguments=config.get("arguments", {}),
        teacher=result.get("teacher", {}),
    )


def _read_comparison(path: Path, file: Path) -> SweepRecord:
    """Read what jaxkd quickstart wrote: some histories, one per seed, for each method."""
    content = read_mapping(file, "runs")
    names = {recipes.get_method(name).title: name for name in recipes.methods()}
    try:
        found = [
            ({"method": names.get(method, method), "seed": seed}, History.from_dict(history))
            for method, histories in content["runs"].items()
            for seed, history in enumerate(histories)
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(file, error) from error
    return SweepRecord(
        path=path,
        cells=tuple(cell for cell, _ in found),
        histories=tuple(history for _, history in found),
        settings={name: content[name] for name in ("data", "student", "teacher") if name in content},
        environment=environment_in(content),
    )


def _value(text: str) -> Any:
    """Return a setting as it was before it was written into a table: a number where it is one.

    Example:
      >>> _value("4"), _value("0.5"), _value("kd"), _value("")
      (4, 0.5, 'kd', None)
    """
    try:
        value = json.loads(text) if text else None
    except ValueError:
        return text
    return text if isinstance(value, list | dict) else value
