"""The parts of a figure, which becomes a picture and a file of data."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

Record = dict[str, Any]
"""A figure's numbers, as JSON values: all that is needed to draw it again."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
      name: as on the command line, and of the files.
      about: what it shows, the first line in short.
      add_options: puts what it takes on a command line.
      smoke: makes small networks or runs on digits in a folder, and returns the arguments that show them.
      measure: from the options to the record.
      draw: from the record to a picture file.
      lines: the record's numbers in words.
      table: the record's numbers as CSV, written as NAME.csv; None for a figure that has no table.
    """

    name: str
    about: str
    add_options: Callable[[argparse.ArgumentParser], None]
    smoke: Callable[[pathlib.Path], list[str]]
    measure: Callable[[argparse.Namespace], Record]
    draw: Callable[[Record, pathlib.Path], None]
    lines: Callable[[Record], list[str]]
    table: Callable[[Record], str] | None = None


def numbers(values: Any, digits: int = 5) -> Any:
    """Return arrays as lists for JSON, rounded to some significant digits; null for NaN.

    Example:
      >>> numbers(np.array([[1 / 3, np.nan]])), numbers(2 / 3, digits=2)
      ([[0.33333, None]], 0.67)
    """
    if np.ndim(values):
        return [numbers(value, digits) for value in values]
    value = float(values)
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def array(values: Any) -> np.ndarray:
    """Return the array that `numbers` wrote, with NaN for null.

    Example:
      >>> array([1.0, None]).tolist()
      [1.0, nan]
    """
    return np.array(values, float)


def between(low: int, high: int) -> str:
    """Return from where to where a number goes, in words.

    Example:
      >>> between(1, 3), between(2, 2)
      ('1 to 3', '2')
    """
    return str(high) if low == high else f"{low} to {high}"
