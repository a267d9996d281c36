"""Results as tables: configurations beside the published numbers, and every single run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from jaxkd.records import Group, PublishedNumber, Record
from jaxkd.report.curves import named
from jaxkd.report.markup import Element, tag
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


def scrolling(label: str, table: Element) -> Element:
    """A table that may be wider than the page, with the keys to move in it."""
    return tag("div", table, class_="scroll", role="region", aria_label=label, tabindex=0)


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
