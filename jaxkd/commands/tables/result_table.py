"""What was reached beside what is published: as Markdown, CSV and a picture."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxkd import plots, recipes
from jaxkd.commands.tables.rows import Row
from jaxkd.records import Record

COLUMNS = (
    *("method", "pair", "published", "published deviation", "reported epoch", "seeds", "last", "last deviation"),
    *("best", "best deviation", "difference", "epochs", "as published"),
)

SHOWN, NONE = ("published", "last", "best"), "–"


@dataclass(frozen=True)
class PublishedVsOurs:
    """A row with its runs.

    Attributes:
      row: what was run.
      runs: the finished ones, one per seed.
    """

    row: Row
    runs: Sequence[Record]

    def accuracies(self, which: str) -> np.ndarray:
        """Return test accuracy in percent, of the last or the best epoch of each run."""
        return np.array([100 * getattr(run, which)["val_accuracy"] for run in self.runs])

    @property
    def reported(self) -> str:
        """The epoch that the published number means."""
        return self.row.recipe.reported if self.row.recipe else "last"

    @property
    def as_published(self) -> bool:
        """Whether all runs kept to the recipe, so that the numbers mean the same."""
        return bool(self.runs) and all(run.published is not None and run.published.as_published for run in self.runs)

    def values(self) -> dict[str, Any]:
        """Return the row's values by the names of the columns; None where there is nothing."""
        published = self.row.recipe.published if self.row.recipe else None
        found: dict[str, Any] = dict.fromkeys(COLUMNS)
        found |= {"method": self.row.method, "pair": self.row.pair, "seeds": len(self.runs)}
        found["reported epoch"] = self.reported
        if published is not None:
            found |= {"published": published.accuracy, "published deviation": published.deviation}
        if not self.runs:
            return found
        for which in ("last", "best"):
            accuracies = self.accuracies(which)
            found[which] = round(float(accuracies.mean()), 2)
            if len(accuracies) > 1:
                found[f"{which} deviation"] = round(float(accuracies.std(ddof=1)), 2)
        if published is not None and self.as_published:  # a shortened run is no reproduction to be compared
            found["difference"] = round(found[self.reported] - published.accuracy, 2)
        lengths = sorted({len(run.history.epoch) for run in self.runs})
        return found | {"epochs": "/".join(map(str, lengths)), "as published": "yes" if self.as_published else "no"}


def markdown(table: Sequence[PublishedVsOurs], caption: str) -> str:
    """Return the table for a page; columns in which no row has anything are left out."""
    rows = []
    for entry in table:
        values = entry.values()
        published, last, best = (_mean(values[name], values.get(f"{name} deviation")) for name in SHOWN)
        rows.append(
            {
                "method": recipes.get_method(values["method"]).title,
                "pair": values["pair"],
                "published": published if values["published"] is None else f"{published} ({entry.reported})",
                "last epoch": last,
                "best epoch": best,
                "difference": NONE if values["difference"] is None else f"{values['difference']:+.2f}",
                "seeds": str(values["seeds"]),
                "epochs": values["epochs"] or NONE,
            }
        )
    columns = [name for name in rows[0] if any(row[name] != NONE for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    return "\n".join([caption, "", *(f"| {' | '.join(cells)} |" for cells in lines)]) + "\n"


def comma_separated(table: Sequence[PublishedVsOurs]) -> str:
    """Return the table as data; fields are empty where there is nothing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(entry.values() for entry in table)
    return text.getvalue()


def draw(table: Sequence[PublishedVsOurs], path: pathlib.Path, caption: str) -> None:
    """Draw every row's runs as dots beside the published number, a panel for each pair of networks."""
    by_pair: dict[str, list[PublishedVsOurs]] = {}
    for entry in table:
        by_pair.setdefault(entry.row.pair if entry.row.teacher else "", []).append(entry)
    alone = by_pair.pop("", [])
    parts = by_pair or {"students alone": alone}
    height = 1.2 + 0.34 * max(len(part) + len(alone) * bool(by_pair) for part in parts.values())
    figure, axes = plots.canvas(columns=len(parts), width=5.2, height=height)
    for place, (pair, part) in zip(axes, parts.items(), strict=True):
        own = [entry for entry in alone if by_pair and pair.endswith(f"-{entry.row.student}")]
        plots.published_vs_ours(_named([*own, *part]), place, title=pair)
    figure.suptitle(caption, fontsize="small")
    plots.save(figure, path)


def _named(table: Sequence[PublishedVsOurs]) -> Mapping[str, tuple[float | None, list[float]]]:
    """Return published number and own accuracies by the title of the method."""
    return {
        recipes.get_method(entry.row.method).title: (
            entry.row.recipe.published.accuracy if entry.row.recipe else None,
            entry.accuracies(entry.reported).tolist(),
        )
        for entry in table
    }


def _mean(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return NONE
    return f"{mean:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")
