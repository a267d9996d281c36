"""Results as tables: configurations beside the published numbers, and every single run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from jaxkd.records import Group, PublishedNumber, Record, SweepRecord, differences, flat
from jaxkd.records.groups import text
from jaxkd.report.charts import named
from jaxkd.report.markup import Element, scrolling, tag
from jaxkd.report.quantities import accuracy, counted, mean_text, signed

_NOTE = (
    "Test accuracy in percent; mean ± sample deviation over seeds where there are several. The last epoch is the "
    "result; the best one was chosen by looking at the test images, as some papers do. In bold: the one that the "
    "recipe's tables state."
)
_DIFFERENT = (
    "† The runs differ from the published recipe, in length, networks or settings: "
    "the two numbers do not mean the same."
)


def table(groups: Sequence[Group]) -> Element:
    """A row for each configuration."""
    numbers = [group.published for group in groups]
    columns = ["runs", "last epoch", "best epoch"]
    columns += ["over the student alone"] * any(gain(group, groups) is not None for group in groups)
    columns += ["published", "difference"] * any(numbers)
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in ("configuration", *columns)]))
    rows = tag("tbody", [_row(place, group, groups, columns) for place, group in enumerate(groups)])
    notes = [_NOTE, *([_DIFFERENT] if any(n and not n.as_published for n in numbers) else []), *remarks(groups)]
    return tag(
        "div",
        scrolling("Results", tag("table", head, rows, class_="numbers")),
        [tag("p", note, class_="note") for note in notes],
    )


def run_table(groups: Sequence[Group]) -> Element:
    """A row for each run."""
    rows = [
        tag(
            "tr",
            tag("th", named(place, group.label), scope="row"),
            tag("td", "–" if run.seed is None else str(run.seed)),
            tag("td", _ended(run, "last")),
            tag("td", _ended(run, "best")),
            tag("td", _state(run)),
            tag("td", str(run.path) if run.name == run.path.name else run.name, class_="path"),
        )
        for place, group in enumerate(groups)
        for run in group.runs
    ]
    names = ("configuration", "seed", "last epoch", "best epoch", "state", "folder")
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in names]))
    return scrolling("Every run", tag("table", head, tag("tbody", rows), class_="numbers runs"))


def gain(group: Group, groups: Sequence[Group]) -> float | None:
    """By how much the last epoch is better than that of the same student alone, on the same data, for as long."""
    own = group.spread("last")
    if own is None or group.alone or not group.finished:
        return None
    for other in groups:
        one, two = group.runs[0], other.runs[0]
        alike = (one.network, one.data, one.epochs) == (two.network, two.data, two.epochs)
        if alike and other.alone and (base := other.spread("last")) is not None:
            return own.mean - base.mean
    return None


def remarks(groups: Sequence[Group]) -> Iterable[str]:
    """What a reader has to know to trust the numbers."""
    for group in groups:
        unfinished = len(group.runs) - len(group.finished)
        if unfinished:
            state = "left out" if group.finished else "shown as far as it is"
            yield f"{group.label}: {counted(unfinished, 'run is', 'runs are')} not finished, and {state}."
        if group.repeated:
            seeds = ", ".join(map(str, group.repeated))
            yield f"{group.label}: seed {seeds} is there more than once; the deviation is too small."


def _row(place: int, group: Group, groups: Sequence[Group], columns: Sequence[str]) -> Element:
    number, own_gain, runs, finished = group.published, gain(group, groups), len(group.runs), len(group.finished)
    cells = {"runs": str(runs) if runs == finished else f"{finished} of {runs}"}
    ends: tuple[Literal["last", "best"], ...] = ("last", "best")
    for which in ends:
        spread = group.spread(which)
        cells[f"{which} epoch"] = "–" if spread is None else mean_text(spread.mean, spread.deviation)
    cells["over the student alone"] = "–" if own_gain is None else signed(own_gain)
    cells["published"] = "–" if number is None else mean_text(number.accuracy, number.deviation)
    spread = None if number is None else group.spread(number.reported)
    cells["difference"] = "–"
    if number is not None and spread is not None:
        cells["difference"] = signed(spread.mean - number.accuracy) + ("" if number.as_published else " †")
    stated = f"{group.runs[0].reported} epoch"
    shown = {name: tag("b", cells[name]) if name == stated else cells[name] for name in columns}
    values = [tag("td", value, title=_source(number, name)) for name, value in shown.items()]
    return tag("tr", tag("th", named(place, group.label), scope="row"), values)


def _source(number: PublishedNumber | None, column: str) -> str | None:
    if number is None or column != "published":
        return None
    return f"{number.paper}: {number.table}; {number.reported} epoch; recipe {number.name}"


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


def different(groups: Sequence[Group]) -> Element:
    """A row for each setting that is not the same everywhere, a column for each configuration."""
    found = differences(groups)
    if not found:
        what = "There is one configuration." if len(groups) == 1 else "All configurations have the same settings."
        return tag("p", what)
    head = tag("tr", tag("th", "setting", scope="col"),
               [tag("th", named(place, group.label), scope="col") for place, group in enumerate(groups)])  # fmt: skip
    rows = [
        tag("tr", tag("th", tag("code", name), scope="row"), [tag("td", text(value)) for value in values])
        for name, values in found.items()
    ]
    return scrolling("Settings that differ", tag("table", tag("thead", head), tag("tbody", rows), class_="settings"))


def shared(groups: Sequence[Group]) -> Element:
    """The settings that are the same everywhere."""
    varying = differences(groups)
    same = {name: value for name, value in groups[0].settings.items() if name not in varying} if groups else {}
    return _pairs("Settings that all share", same)


def of_sweep(sweep: SweepRecord) -> Element:
    """The settings of a sweep."""
    return _pairs(f"Settings of {sweep.name}", flat(sweep.settings))


def environment(runs: Sequence[Record]) -> Element:
    """Versions, devices, machines and code; where runs differ, every value with the number of runs."""
    kinds: dict[str, list[str]] = {}
    for run in runs:
        for name, value in _surroundings(run):
            kinds.setdefault(name, []).append(value)
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", _counted(values))) for name, values in kinds.items()]
    table = tag("table", tag("tbody", rows), class_="settings")
    return scrolling("Environment", table) if rows else tag("p", "It was not recorded.")


def commands(runs: Iterable[Record]) -> Element:
    """The command lines, each once."""
    lines = dict.fromkeys(shlex.join(map(str, run.environment.get("command", ()))) for run in runs)
    return tag("ul", [tag("li", tag("code", line)) for line in lines if line], class_="commands")


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


def _pairs(label: str, settings: Mapping[str, Any]) -> Element:
    rows = [
        tag("tr", tag("th", tag("code", name), scope="row"), tag("td", text(value))) for name, value in settings.items()
    ]
    return scrolling(label, tag("table", tag("tbody", rows), class_="settings"))
