"""The rows of a published table that are to be run, and what was reached beside them: Markdown, CSV and a picture."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxkd import plots, recipes
from jaxkd.convert import ConversionError
from jaxkd.convert.checkpoint import read_manifest
from jaxkd.records import Record, Spread

SMOKE_TEACHER, SMOKE_STUDENT = "resnet14", "resnet8"


@dataclass(frozen=True)
class Row:
    """One method for one pair of networks.

    Attributes:
      method: its name.
      teacher: the network that teaches; None for a student alone.
      student: the network that is trained.
      recipe: the published number it belongs to; None where there is none.
      like: a published number of the same pair, for data and schedule where there is none of its own.
    """

    method: str
    teacher: str | None
    student: str
    recipe: recipes.Recipe | None = None
    like: recipes.Recipe | None = None

    @property
    def pair(self) -> str:
        """The name of the pair, as columns of tables have it."""
        return f"{self.teacher}-{self.student}" if self.teacher else self.student

    @property
    def arguments(self) -> list[str]:
        """The arguments of jaxkd distill for it."""
        if self.recipe is not None:
            return ["--recipe", self.recipe.name]
        own = ["--method", self.method, "--student", self.student]
        return own if self.like is None else [*own, "--recipe", self.like.training.name, "--data", self.like.data]


def rows_of(names: Sequence[str], methods: Sequence[str] | None, also: Sequence[str]) -> list[Row]:
    """Return all rows that go by some names, each once.

    Args:
      names: recipes (`kd/resnet56-resnet20`), methods (`ctkd`: every pair it is published for), pairs
        (`resnet56-resnet20`: every method, and the student alone) or trainings (`standardization`).
      methods: only these; None takes all.
      also: methods to run for the same pairs although no table has them.

    Raises:
      ValueError: for a name that is nothing of it, or a method that does not exist.

    Example:
      >>> [row.method for row in rows_of(["wrn_40_2-wrn_16_2"], ["ce", "kd", "dkd"], ["ats"])]
      ['ce', 'kd', 'dkd', 'ats']
    """
    for method in [*(methods or ()), *also]:
        recipes.get_method(method)
    found = dict.fromkeys(name for wanted in names for name in _recipes_of(wanted))
    rows = [_row(recipes.get(name)) for name in found]
    first: dict[str, Row] = {}
    for row in rows:
        if row.teacher:
            first.setdefault(row.pair, row)
    rows += [_also(method, row) for method in also for row in first.values()]
    wanted = [row for row in rows if methods is None or row.method in methods or row.method in also]
    return list({(row.method, row.pair): row for row in wanted}.values())


def _also(method: str, beside: Row) -> Row:
    """Return a method for the pair of a row: its published number where it has one."""
    name = f"{method}/{beside.pair}"
    if name in recipes.list():
        return _row(recipes.get(name))
    return Row(method, beside.teacher, beside.student, like=beside.recipe)


def on_digits(rows: Iterable[Row]) -> list[Row]:
    """Return the same methods for two small networks that digits train in seconds, each once.

    Example:
      >>> [row.pair for row in on_digits(rows_of(["ctkd"], None, []))]
      ['resnet14-resnet8']
    """
    methods = dict.fromkeys((row.method, row.teacher is not None) for row in rows)
    return [Row(method, SMOKE_TEACHER if needs_teacher else None, SMOKE_STUDENT) for method, needs_teacher in methods]


def _recipes_of(wanted: str) -> list[str]:
    names = recipes.list()
    if wanted in names:
        return [wanted]
    parts = [(name, *name.split("/")) for name in names]
    found = [name for name, method, pair in parts if wanted in (method, pair)]
    found = found or [name for name in names if recipes.get(name).training.name == wanted]
    if not found:
        raise ValueError(
            f"{wanted!r} is not a recipe, method, pair or training with published numbers: a pair is written as "
            "resnet56-resnet20, and jaxkd distill --list-recipes prints all"
        )
    student = wanted.rpartition("-")[2]
    alone = [f"ce/{student}"] if any(pair == wanted for _, _, pair in parts) and f"ce/{student}" in names else []
    return [*(name for name in alone if name not in found), *found]


def _row(recipe: recipes.Recipe) -> Row:
    return Row(recipe.method.name, recipe.teacher, recipe.student, recipe)


_WAYS = ("{name}/model", "{name}", "{name}.pth", "cifar100_{name}.pth", "{name}.safetensors", "{name}_vanilla/*.pth")


def teacher_file(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Return where the weights of a teacher are: a folder that jaxkd wrote, or a file, called after the network.

    Args:
      folder: to look in.
      name: of the network.

    Raises:
      FileNotFoundError: there is none; the error says under which names it was looked for.
    """
    for way in _WAYS:
        found = sorted(folder.glob(way.format(name=name)))
        found = [path for path in found if path.is_file() or _holds_weights(path)]
        if found:
            return found[0]
    ways = ", ".join(way.format(name=name) for way in _WAYS)
    raise FileNotFoundError(
        f"--teachers {folder} has no {name} (looked for {ways}): train it by jaxkd train --model {name} "
        f"--output {folder / name}, or copy its published weights there"
    )


def _holds_weights(folder: pathlib.Path) -> bool:
    try:
        read_manifest(folder)
    except ConversionError:
        return False
    return True


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

    def accuracies(self, which: str) -> Spread:
        """Return test accuracy in percent, of the last or the best epoch of each run."""
        return Spread(tuple(100 * getattr(run, which)["val_accuracy"] for run in self.runs))

    @property
    def reported(self) -> str:
        """The epoch that the published number means."""
        return self.row.recipe.reported if self.row.recipe else "last"

    @property
    def as_published(self) -> bool:
        """Tell whether all runs kept to the recipe, so that the numbers mean the same."""
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
            found[which] = round(accuracies.mean, 2)
            if (deviation := accuracies.deviation) is not None:
                found[f"{which} deviation"] = round(deviation, 2)
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
            list(entry.accuracies(entry.reported).values),
        )
        for entry in table
    }


def _mean(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return NONE
    return f"{mean:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")
