"""Tables: results beside the published numbers, every run, settings, environment."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from jaxkd.records import Group, Record, Spread, SweepRecord, differences, flat
from jaxkd.records.groups import text
from jaxkd.report.quantities import accuracy, counted, mean_text, signed

Placed = tuple[int, Group]
"""A configuration with its place among all, which gives it its colour."""


class Name(NamedTuple):
    """A configuration's name, shown with a piece of its line."""

    place: int
    label: str


class Cell(NamedTuple):
    """A cell that is more than its text: bold, explained by a title, or of a CSS class."""

    text: str
    bold: bool = False
    title: str | None = None
    css: str | None = None


class Row(NamedTuple):
    """A row: what it is about, and its cells."""

    heading: Name | str
    cells: Sequence[Cell | str]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      label: what it holds, for those who do not see it.
      columns: their headings, that of the rows' headings included; none are shown where there are none.
      rows: its rows.
      css: its class.
      code: whether the rows' headings are names in a program.
    """

    label: str
    columns: Sequence[Name | str]
    rows: Sequence[Row]
    css: str = "numbers"
    code: bool = False


NOTE = (
    "Test accuracy in percent; mean ± sample deviation over seeds where there are several. The last epoch is the "
    "result; the best one was chosen by looking at the test images, as some papers do. In bold: the one that the "
    "recipe's tables state."
)
_DIFFERENT = (
    "† The runs differ from the published recipe, in length, networks or settings: "
    "the two numbers do not mean the same."
)

_FIRST_TRIES = "First tries, which saw a part of the images only: these numbers are no result."

AVERAGED = "val_ema_accuracy"
"""What runs that average their weights measure of these."""

_SIDE_BY_SIDE = 7  # configurations whose settings a page of 1280 pixels has room for


def results(members: Sequence[Placed]) -> Table:
    """Return a row for each configuration: its results, its gain, and the published number."""
    gains = [_gain(group, members) for _, group in members]
    columns = ["runs", "last epoch", "best epoch"]
    columns += ["averaged weights"] * any(group.spread("last", AVERAGED) for _, group in members)
    columns += ["over the student alone"] * any(gain is not None for gain in gains)
    columns += ["published", "difference"] * any(group.published for _, group in members)
    rows: list[Row] = []
    for (place, group), gain in zip(members, gains, strict=True):
        found = _results_of(group, gain)
        cells: list[Cell | str] = [found[name] for name in columns]
        rows.append(Row(Name(place, group.label), cells))
    return Table("Results", ["configuration", *columns], rows)


def runs(members: Sequence[Placed]) -> Table:
    """Return a row for each run."""
    rows = []
    for place, group in members:
        for run in group.runs:
            seed = "–" if run.seed is None else str(run.seed)
            folder = Cell(str(run.path) if run.name == run.path.name else run.name, css="path")
            cells: list[Cell | str] = [seed, _ended(run, "last"), _ended(run, "best"), _state(run), folder]
            rows.append(Row(Name(place, group.label), cells))
    columns = ["configuration", "seed", "last epoch", "best epoch", "state", "folder"]
    return Table("Every run", columns, rows, "numbers runs")


def notes(members: Sequence[Placed]) -> list[str]:
    """Return what a reader has to know to trust the results, beside `NOTE`, which is true of all."""
    numbers = [group.published for _, group in members]
    found = [_FIRST_TRIES] if any(run.limited for _, group in members for run in group.runs) else []
    found += [_DIFFERENT] if any(number and not number.as_published for number in numbers) else []
    for _, group in members:
        unfinished = len(group.runs) - len(group.finished)
        if unfinished:
            state = "left out" if group.finished else f"shown as far as {'it is' if unfinished == 1 else 'they are'}"
            found.append(f"{group.label}: {counted(unfinished, 'run is', 'runs are')} not finished, and {state}.")
        if group.repeated:
            seeds = ", ".join(map(str, group.repeated))
            found.append(f"{group.label}: seed {seeds} is there more than once; the deviation is too small.")
    return found


def different(members: Sequence[Placed]) -> list[Table]:
    """Return the settings that are not the same everywhere, a column for each configuration.

    Many configurations are in several tables, as many side by side as a page has room for, without the settings that
    none of them has.
    """
    found = differences([group for _, group in members])
    made = []
    for start in range(0, len(members) if found else 0, _SIDE_BY_SIDE):
        part = slice(start, start + _SIDE_BY_SIDE)
        rows = [
            Row(name, [text(value) for value in values[part]])
            for name, values in found.items()
            if any(value is not None for value in values[part])
        ]
        columns: list[Name | str] = ["setting", *(Name(place, group.label) for place, group in members[part])]
        made.append(Table("Settings that differ", columns, rows, "settings", code=True))
    return made


def in_common(members: Sequence[Placed]) -> dict[str, Any]:
    """Return the settings that are the same everywhere."""
    varying = differences([group for _, group in members])
    return {name: value for name, value in members[0][1].settings.items() if name not in varying}


def of_sweep(sweep: SweepRecord) -> Table:
    """Return the settings of a sweep."""
    return pairs(f"Settings of {sweep.name}", flat(sweep.settings))


def pairs(label: str, settings: Mapping[str, Any]) -> Table:
    """Return settings with their values."""
    return Table(label, (), [Row(name, [text(value)]) for name, value in settings.items()], "settings", code=True)


def environment(of: Sequence[Record]) -> Table:
    """Return versions, devices, machines and code; where runs differ, every value with the number of runs."""
    kinds: dict[str, list[str]] = {}
    for run in of:
        for name, value in _surroundings(run):
            kinds.setdefault(name, []).append(value)
    return Table("Environment", (), [Row(name, [_counted(values)]) for name, values in kinds.items()], "settings")


def commands(of: Iterable[Record]) -> list[str]:
    """Return the command lines, each once."""
    lines = dict.fromkeys(shlex.join(map(str, run.environment.get("command", ()))) for run in of)
    return [line for line in lines if line]


def _results_of(group: Group, gain: Cell | None) -> dict[str, Cell | str]:
    """Return every cell of a configuration by the name of its column."""
    number, count, finished = group.published, len(group.runs), len(group.finished)
    cells: dict[str, Cell | str] = {"runs": str(count) if count == finished else f"{finished} of {count}"}
    ends: tuple[Literal["last", "best"], ...] = ("last", "best")
    for which in ends:
        cells[f"{which} epoch"] = Cell(_spread_text(group.spread(which)), bold=group.runs[0].reported == which)
    cells["averaged weights"] = Cell(_spread_text(group.spread("last", AVERAGED)), title="of the last epoch")
    cells["over the student alone"] = gain or "–"
    cells["published"] = cells["difference"] = "–"
    if number is not None:
        source = f"{number.paper}: {number.table}; {number.reported} epoch; recipe {number.name}"
        cells["published"] = Cell(mean_text(number.accuracy, number.deviation), title=source)
        if (spread := group.spread(number.reported)) is not None:
            cells["difference"] = signed(spread.mean - number.accuracy) + ("" if number.as_published else " †")
    return cells


def _spread_text(spread: Spread | None) -> str:
    return "–" if spread is None else mean_text(spread.mean, spread.deviation)


def _gain(group: Group, members: Sequence[Placed]) -> Cell | None:
    """By how much the last epoch is better than that of the same student alone, on the same images, for as long.

    Of several students alone the one by the closest settings counts, and none that may yet get better.
    """
    own = group.spread("last")
    if own is None or group.alone or not group.finished:
        return None
    alike = [
        (other, base)
        for _, other in members
        if other.alone and other.finished and _task(other) == _task(group) and (base := other.spread("last"))
    ]
    if not alike:
        return None
    other, base = min(alike, key=lambda one: len(_unlike(group, one[0])))
    return Cell(signed(own.mean - base.mean), title=f"over {other.label}")


def _task(group: Group) -> tuple[Any, ...]:
    """Return what makes the accuracies of two configurations comparable, whatever these learn from."""
    run = group.runs[0]
    return run.network, run.epochs, group.settings.get("data.images"), run.data_options | {"data_dir": None}


def _unlike(group: Group, alone: Group) -> list[str]:
    """Return the settings in which a student alone differs, but for those that it cannot have."""
    return [name for name in differences([group, alone]) if name.partition(".")[0] not in ("method", "teacher")]


def _ended(run: Record, which: Literal["last", "best"]) -> str:
    if not run.measured:
        return "–"
    row = run.last if which == "last" else run.best
    return f"{accuracy(row.get('val_accuracy'))} (epoch {row['epoch']})"


def _state(run: Record) -> str:
    if run.finished:
        return "finished"
    done = len(run.history.epoch)
    return f"{done} of {run.epochs} epochs" if run.epochs else counted(done, "epoch")


def _surroundings(run: Record) -> Iterable[tuple[str, str]]:
    known = run.environment
    device, machine, git = (known.get(name) or {} for name in ("device", "machine", "git"))
    if device:
        count = f"{device.get('count')} × " if device.get("count", 1) > 1 else ""
        kind, platform = device.get("kind"), device.get("platform")
        yield "device", f"{count}{kind}" if kind == platform else f"{count}{kind} ({platform})"
    if known.get("convolutions"):
        yield "convolutions", str(known["convolutions"])
    if machine:
        yield "machine", f"{machine.get('system')}, {machine.get('processors')} processors"
    for name, version in (known.get("versions") or {}).items():
        yield name, str(version)
    if known and not git:
        yield "code", "in no git repository"
    if git:
        yield "code", f"commit {str(git.get('commit'))[:10]}{', changed since' if git.get('changed') else ''}"
    if "written" in known:
        yield "begun", str(known["written"])[:10]


def _counted(values: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(values))
    if len(distinct) == 1:
        return distinct[0]
    return "; ".join(f"{value} ({values.count(value)} of {len(values)} runs)" for value in distinct)
