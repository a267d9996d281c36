"""The files that records are made of: JSON and tables of epochs."""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxkd.formats.files import atomic_write
from jaxkd.history import History

TableRow = dict[str, str]


def damaged(path: pathlib.Path, reason: object) -> ValueError:
    """Return the error for a record that cannot be what was written."""
    return ValueError(
        f"{path} is damaged ({reason}): copy it anew from where it was written, or remove the folder and run it again"
    )


def read_json(path: pathlib.Path) -> Any:
    """Read a JSON file.

    Raises:
      FileNotFoundError: where there is none.
      ValueError: with the file's name, if it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise damaged(path, error) from error


def read_mapping(path: pathlib.Path, *mappings: str) -> dict[str, Any]:
    """Read a JSON object whose entries `mappings`, as far as there are any, are objects too.

    Raises:
      FileNotFoundError, ValueError: as `read_json`, and for other JSON.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise damaged(path, f"it holds {type(content).__name__}, not an object with names")
    for name in mappings:
        if not isinstance(content.get(name, {}), dict):
            raise damaged(path, f"{name!r} is {content[name]!r}, not an object with names")
    return content


def write_json(path: pathlib.Path, content: Any, indent: int | None = 2) -> None:
    """Write a JSON file completely or not at all; `indent=None` puts all of it on one line."""
    with atomic_write(path) as file:
        file.write(f"{json.dumps(content, indent=indent, default=str)}\n".encode())


def read_table(path: pathlib.Path) -> tuple[list[str], list[TableRow]]:
    """Read the columns and rows of a CSV file with a column `epoch`.

    Raises:
      FileNotFoundError: where there is none.
      ValueError: for a table without that column, without rows, or with rows that are too long or too short.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (csv.Error, UnicodeDecodeError) as error:
        raise damaged(path, error) from error
    if "epoch" not in columns:
        raise damaged(path, "it has no column 'epoch'")
    if not rows:
        raise damaged(path, "it has no rows")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise damaged(path, f"line {number} has not one value for each of {len(columns)} columns")
    return columns, rows


def history_of(path: pathlib.Path, rows: Iterable[TableRow], quantities: Sequence[str]) -> History:
    """Return the epochs of one run; an empty field is a quantity that was not measured.

    Raises:
      ValueError: for what is no number, and for epochs that do not follow each other.
    """
    history = History()
    for row in rows:
        try:
            epoch = int(row["epoch"])
            logs = {name: float(row[name]) for name in quantities if row[name]}
        except ValueError as error:
            raise damaged(path, error) from error
        before = history.epoch[-1] + 1 if history.epoch else 0
        if epoch <= before:
            raise damaged(path, f"epoch {epoch} comes after epoch {before}")
        history.append(epoch - 1, logs)
    return history


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one, with dotted names.

    Example:
      >>> flat({"method": {"name": "kd", "weights": {"ce": 0.1}}})
      {'method.name': 'kd', 'method.weights.ce': 0.1}
    """
    found: dict[str, Any] = {}
    for name, value in nested.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
