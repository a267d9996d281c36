"""A table of a paper, written as it is printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Published(NamedTuple):
    """A number of a table, in percent.

    Attributes:
      accuracy: top-1, the mean over runs.
      deviation: over runs, where the table states one.
      top5: top-5, where the table states it.
    """

    accuracy: float
    deviation: float | None = None
    top5: float | None = None

    def __str__(self) -> str:
        deviation = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.accuracy:.2f}{deviation}" + ("" if self.top5 is None else f", top-5 {self.top5:.2f}")


@dataclasses.dataclass(frozen=True)
class Table:
    """A paper's table, or the part of one whose rows were trained alike.

    Attributes:
      paper: whose.
      title: which.
      training: the name of the schedule.
      columns: `teacher-student`, or a network that is trained alone.
      rows: the numbers of each method in the order of the columns.
      data: the data set.
    """

    paper: str
    title: str
    training: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Published, ...]]
    data: str


def table(
    paper: str, title: str, training: str, columns: str, rows: Mapping[str, str], data: str = "cifar100"
) -> Table:
    """A table from text.

    Columns and numbers are separated by blanks; `71.16±.08` is a mean with its deviation, `71.70/90.41` are top-1 and
    top-5.

    Example:
      >>> [str(number) for number in table("", "", "", "a-b c-d", {"kd": "71.16±.08 71.70/90.41"}).rows["kd"]]
      ['71.16 ± 0.08', '71.70, top-5 90.41']
    """
    numbers = {method: tuple(map(_published, row.split())) for method, row in rows.items()}
    return Table(paper, title, training, tuple(columns.split()), MappingProxyType(numbers), data)


def _published(text: str) -> Published:
    first, _, top5 = text.partition("/")
    accuracy, _, deviation = first.partition("±")
    return Published(float(accuracy), float(deviation) if deviation else None, float(top5) if top5 else None)
