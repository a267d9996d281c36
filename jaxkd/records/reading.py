"""Find and read run directories."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from jaxkd.history import History
from jaxkd.records.directory import (
    RunDirectory,
    damaged,
    environment_in,
    history_of,
    read_json,
    read_mapping,
    read_table,
)
from jaxkd.records.record import Record
from jaxkd.records.sweeps import SweepRecord, check_finished, holds_sweep, is_unfinished_sweep, read_sweep

Found = TypeVar("Found")


def read(path: str | os.PathLike[str]) -> Record:
    """Read the run in a folder, finished or not.

    Args:
      path: a folder that `RunDirectory` wrote: the `--output` of `jaxkd distill` and `jaxkd train`.

    Raises:
      FileNotFoundError: there is no run, or a part of it is missing, or it is a sweep that is not finished.
      ValueError: a file is damaged, or the files contradict each other; the error names the file and the cure.
    """
    directory = RunDirectory(path)
    if holds_sweep(directory.path):
        raise ValueError(f"{directory.path} holds a sweep, not one run: read it by records.read_sweep")
    check_finished(directory.path)
    if not directory.config_file.exists():
        raise FileNotFoundError(
            f"{directory.path} holds no run: there is no config.json. Name the folder that a run wrote, its --output; "
            "records.find looks in all folders below one"
        )
    config = read_mapping(directory.config_file, "settings", "arguments")
    if "settings" not in config:
        raise damaged(directory.config_file, "it has no 'settings'")
    result = read_mapping(directory.result_file, "last", "best", "best_ema") if directory.result_file.exists() else None
    if directory.metrics_file.exists():
        columns, rows = read_table(directory.metrics_file)
        history = history_of(directory.metrics_file, rows, [name for name in columns if name != "epoch"])
    elif result is None:
        history = History()  # killed in its first epoch, or still in it
    else:
        raise FileNotFoundError(
            f"{directory.metrics_file} is missing, and {directory.result_file} says that the run is finished: copy the "
            "whole folder from where it was trained"
        )
    if result is not None:
        _check_agreement(result, history, directory)
    return Record(
        path=directory.path,
        name=directory.path.resolve().name,
        settings=config["settings"],
        history=history,
        environment=environment_in(config),
        arguments=config.get("arguments", {}),
        result=result,
    )


def find(*paths: str | os.PathLike[str]) -> list[Record]:
    """Read all single runs in some folders and the folders below them, in the order of their names.

    Sweeps are left out, those that are still running too.

    Args:
      paths: run directories, or folders of them.

    Raises:
      FileNotFoundError: a folder does not exist.
      ValueError: a run is damaged.

    Example:
      >>> import tempfile
      >>> find(tempfile.mkdtemp())
      []
    """
    return list(_each(paths, _holds_run, read))


def find_sweeps(*paths: str | os.PathLike[str]) -> list[SweepRecord]:
    """Read all finished sweeps in some folders and those below them; a path may also be a file by `Sweep.to_csv`.

    Raises:
      FileNotFoundError: a path does not exist.
      ValueError: a sweep is damaged.
    """
    return list(_each(paths, holds_sweep, read_sweep))


def _holds_run(folder: Path) -> bool:
    return is_run(folder) and not holds_sweep(folder) and not is_unfinished_sweep(folder)


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run's; other programs have a config.json as well, as Hugging Face's models do.

    One that cannot be read may be a run's.
    """
    file = folder / "config.json"
    try:
        content = read_json(file) if file.is_file() else None
    except ValueError:
        return True
    return isinstance(content, dict) and "settings" in content


def _each(
    paths: tuple[str | os.PathLike[str], ...], wanted: Callable[[Path], bool], reader: Callable[[Path], Found]
) -> Iterator[Found]:
    seen: set[Path] = set()
    for given in paths:
        path = Path(given).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: name run directories, or folders that hold some")
        for place in _places(path):
            if place.resolve() not in seen and wanted(place):
                seen.add(place.resolve())
                yield reader(place)


def _places(path: Path) -> Iterator[Path]:
    """Yield a path and the folders below it, except those inside a run."""
    if path.is_file():
        yield path
    for folder, below, files in os.walk(path):
        yield Path(folder)
        inside_run = "config.json" in files and is_run(Path(folder))
        below[:] = [] if inside_run else sorted(name for name in below if not name.startswith("."))


def _check_agreement(result: dict[str, Any], history: History, directory: RunDirectory) -> None:
    """Raise an error for a result that its own epochs do not have, as after a copy of one file alone."""
    averaged = ("best_ema",) if "best_ema" in result else ()
    for which in ("last", "best", *averaged):
        stated = result.get(which, {})
        if stated.get("epoch", 0) - 1 not in history.epoch:
            raise damaged(directory.result_file, f"{which} is epoch {stated.get('epoch')}, which metrics.csv has not")
        row = history.epoch.index(stated["epoch"] - 1)
        for name, value in stated.items():
            measured = history.history.get(name, [None] * (row + 1))[row]
            if name != "epoch" and value is not None and not _same(value, measured):
                reason = f"{name} of epoch {stated['epoch']} is {value}, and {measured} in metrics.csv"
                raise damaged(directory.result_file, reason)


def _same(stated: float, measured: float | None) -> bool:
    """Return whether two numbers are the same: the table has nine digits of each."""
    return measured is not None and (math.isclose(stated, measured, rel_tol=1e-6) or stated != stated)
