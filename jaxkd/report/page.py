"""The page as a whole: gather what its templates show, and render them."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from jaxkd.records import AuthorsLog, Group, Record, SweepRecord, groups
from jaxkd.report import charts, tables
from jaxkd.report.disagreements import Comparison, counts_table
from jaxkd.report.quantities import accuracy, counted, mean_text
from jaxkd.report.tables import Placed

_SECTIONS = {
    "results": "Results",
    "curves": "Learning curves",
    "grids": "Grids",
    "disagreements": "Disagreements with the teacher",
    "configuration": "Configuration",
    "environment": "Environment",
}


class Part(NamedTuple):
    """The configurations of one data set, which alone can be compared with each other; first tries are apart.

    Attributes:
      name: of the data set; empty where there is one only.
      dots: the last epoch of every run; None where no test accuracy was measured.
      results: a row for each configuration.
      notes: on the results.
      size: the number of runs, in words.
      runs: a row for each run.
      charts: the learning curves.
    """

    name: str
    dots: charts.DotPlot | None
    results: tables.Table
    notes: list[str]
    size: str
    runs: tables.Table
    charts: list[charts.Chart]


class Tile(NamedTuple):
    """One of the few numbers that a reader looks for first."""

    name: str
    value: str
    what: str


def page(
    runs: Sequence[Record],
    sweeps: Sequence[SweepRecord] = (),
    comparison: Comparison | None = None,
    title: str = "Distillation report",
) -> str:
    """Return a page about some runs.

    Args:
      runs: single runs, in the order in which to show their configurations.
      sweeps: those over two settings become heat maps; the runs of the others join the single ones.
      comparison: where students and their teacher disagree, see `disagreements.compare`.
      title: of the page.

    Returns:
      HTML, complete in itself.
    """
    return render(groups(gathered(runs, sweeps)), sweeps, comparison, title)


def render(
    configurations: Sequence[Group],
    sweeps: Sequence[SweepRecord],
    comparison: Comparison | None,
    title: str,
    logs: Sequence[AuthorsLog] = (),
) -> str:
    """Return a page, as `page` does, of runs that were gathered and grouped."""
    compared = list(enumerate(configurations))
    maps = list(filter(_is_map, sweeps))
    by_data: dict[tuple[bool, str], list[Placed]] = {}
    for place, group in compared:
        by_data.setdefault((group.runs[0].limited, group.runs[0].data or ""), []).append((place, group))
    by_data = {of: _told_apart(by_data[of]) for of in sorted(by_data, key=lambda of: of[0])}
    names = [
        f"{data}, first tries".removeprefix(", ") if limited else data * (len(by_data) > 1) for limited, data in by_data
    ]
    parts = [_part(name, members, logs) for name, members in zip(names, by_data.values(), strict=True)]
    single = [run for _, group in compared for run in group.runs]
    everything = [*single, *(sweep.runs[0] for sweep in maps)]
    has_curves = any(part.charts for part in parts)
    present = {
        "results": parts,
        "curves": has_curves,
        "grids": maps,
        "disagreements": comparison,
        "configuration": True,
        "environment": True,
    }
    shared = [tables.pairs("Settings that all share", tables.in_common(compared))] if compared else []
    heat = "".join(f".h{step}{{--part:{100 * step / charts.STEPS:g}%}}" for step in range(charts.STEPS + 1))
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            title=title,
            # Our own, and the hashes in the page's policy are of these very characters: nothing in them is escaped.
            style=Markup(_text("style.css") + heat + "\n"),
            script=Markup(_text("script.js")),
            lead=_lead(len(compared), single, maps),
            contents={key: name for key, name in _SECTIONS.items() if present[key]},
            tiles=[
                tile
                for part, ((limited, _), members) in zip(parts, by_data.items(), strict=True)
                if not limited
                for tile in _tiles(members, part.name)
            ],
            parts=parts,
            note=tables.NOTE,
            last_epoch=max(run.history.epoch[-1] + 1 for run in single if run.history.epoch) if has_curves else None,
            maps=[charts.heat_map(sweep) for sweep in maps],
            comparison=comparison,
            counts=None if comparison is None else counts_table(comparison),
            different=tables.different(compared),
            alike="There is one configuration." if len(compared) == 1 else "All configurations have the same settings.",
            shared=[*shared, *(tables.of_sweep(sweep) for sweep in maps)],
            environment=tables.environment(everything),
            commands=tables.commands(everything),
            version=version("jaxkd"),
        )
        + "\n"
    )


def gathered(runs: Sequence[Record], sweeps: Sequence[SweepRecord]) -> list[Record]:
    """Return the runs to compare one by one: single ones and those of sweeps that are no grids, baselines first."""
    found = [*runs, *(run for sweep in sweeps if not _is_map(sweep) for run in sweep.runs)]
    return sorted(found, key=lambda run: not run.alone)


def _is_map(sweep: SweepRecord) -> bool:
    """Tell whether a sweep is shown as a heat map, of the test accuracy over two settings."""
    return len(sweep.axes) == 2 and all(run.measured for run in sweep.runs)


@functools.cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxkd.report"),
        autoescape=True,  # what a run brings along is text in the page, and can be nothing else
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
    )
    made.filters |= {
        "colour": lambda place: f"s{place % charts.COLOURS}" if place >= 0 else "all",
        "dash": lambda place: charts.DASHES[max(place, 0) // charts.COLOURS % len(charts.DASHES)],
        "percent": lambda part: f"{100 * part:.2f}%",
        "digest": lambda text: f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'",
    }
    return made


def _printable(value: Any) -> Any:
    """Give numbers as many digits as a picture needs, and drop characters that HTML does not have."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and not isinstance(value, Markup):
        return "".join(letter for letter in value if letter in "\t\n\r" or ord(letter) >= 32)
    return value


def _text(name: str) -> str:
    return files("jaxkd.report").joinpath("templates", name).read_text(encoding="utf-8")


def _told_apart(members: Sequence[Placed]) -> list[Placed]:
    """Return configurations with labels that tell them from each other, and not from those of other data sets."""
    labels = [group.label for group in groups(run for _, group in members for run in group.runs)]
    return [
        (place, dataclasses.replace(group, label=label)) for (place, group), label in zip(members, labels, strict=True)
    ]


def _part(name: str, members: Sequence[Placed], logs: Sequence[AuthorsLog]) -> Part:
    return Part(
        name=name,
        dots=charts.dot_plot(members),
        results=tables.results(members),
        notes=tables.notes(members),
        size=counted(sum(len(group.runs) for _, group in members), "run"),
        runs=tables.runs(members),
        charts=charts.charts(members, logs),
    )


def _lead(configurations: int, single: Sequence[Record], maps: Sequence[SweepRecord]) -> str:
    """Say in a sentence what was compared."""
    everything = [*single, *(run for sweep in maps for run in sweep.runs)]

    def names(found: Iterable[str | None]) -> str:
        return ", ".join(dict.fromkeys(name for name in found if name))

    parts = [f"{counted(len(single), 'run')} of {counted(configurations, 'configuration')}"] if single else []
    parts += [f"a grid of {counted(len(sweep.cells), 'run')}" for sweep in maps]
    data = names(run.data for run in everything)
    sentences = [" and ".join(parts) + (f", on {data}" if data else "")]
    if students := names(run.network for run in everything if run.teacher):
        teachers = names(run.teacher.get("name") for run in everything if run.teacher)
        sentences.append(f"Student {students}, teacher {teachers}")
    elif networks := names(run.network for run in everything):
        sentences.append(f"Network {networks}")
    return " ".join(f"{sentence[:1].upper()}{sentence[1:]}." for sentence in sentences)


def _tiles(members: Sequence[Placed], data: str) -> list[Tile]:
    """Return the numbers looked for first: teachers, students alone, the highest of the distilled ones."""
    teachers: dict[str, set[float]] = {}
    for _, group in members:
        if group.runs[0].teacher:
            measured = teachers.setdefault(group.runs[0].teacher.get("name", ""), set())
            if group.teacher_accuracy is not None:
                measured.add(group.teacher_accuracy)

    def tile(name: str, value: str, *what: str | None) -> Tile:
        return Tile(name, value, ", ".join(filter(None, what)))

    made = []
    for name, accuracies in sorted(teachers.items()):
        on = members[0][1].runs[0].data
        for value in sorted(accuracies):
            made.append(tile(f"Teacher {name}", accuracy(value), "test accuracy in percent", on))
        if not accuracies:
            made.append(tile(f"Teacher {name}", "–", "known when the first of its runs is finished", data))
    ends = [(group, spread) for _, group in members if (spread := group.spread("last")) is not None]
    for group, spread in ends:
        if group.alone and group.runs[0].network not in teachers:
            made.append(tile("Without a teacher", mean_text(spread.mean, spread.deviation), group.label, data))
    taught = [end for end in ends if not end[0].alone]
    if comparable := [end for end in taught if end[0].finished] or taught:
        group, spread = max(comparable, key=lambda end: end[1].mean)
        state = "" if group.finished else "not finished"
        made.append(tile("Highest with a teacher", mean_text(spread.mean, spread.deviation), group.label, state, data))
    return made
