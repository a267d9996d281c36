"""The page as a whole: its head, its parts, and nothing that is elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files

from jaxkd.records import Group, Record, SweepRecord, groups
from jaxkd.report import charts, disagreements, tables
from jaxkd.report.disagreements import Comparison
from jaxkd.report.markup import Child, Element, html, tag
from jaxkd.report.quantities import accuracy, counted, mean_text

THEMES = ("auto", "light", "dark")


def page(
    runs: Sequence[Record],
    sweeps: Sequence[SweepRecord] = (),
    comparison: Comparison | None = None,
    title: str = "Distillation report",
) -> str:
    """A page about some runs.

    Args:
      runs: single runs, in the order in which their configurations are shown.
      sweeps: those over two settings become heat maps; the runs of the others join the single ones.
      comparison: where students and their teacher disagree, see `samples.compare`.
      title: of the page.

    Returns:
      HTML, complete in itself.
    """
    maps = [sweep for sweep in sweeps if len(sweep.axes) == 2]
    compared = groups(gathered(runs, sweeps))
    sections = list(_sections(compared, maps, comparison))
    head = tag(
        "header",
        tag("div", tag("h1", title), tag("p", _lead(compared, maps), class_="lead")),
        tag("fieldset", tag("legend", "Theme"), [_theme(name) for name in THEMES], class_="theme"),
    )
    contents = tag("nav", tag("ul", [tag("li", tag("a", name, href=f"#{key}")) for key, name, _ in sections]),
                   aria_label="Contents")  # fmt: skip
    body = tag(
        "body",
        tag(
            "div",
            head,
            contents,
            tag("main", _figures(compared), [_section(*section) for section in sections]),
            tag("footer", tag("p", f"Made by jaxkd {version('jaxkd')} from the records of these runs.")),
            class_="page",
        ),
    )
    style, script = _part("style.css") + charts.colours(), _part("script.js")
    body.append(tag("script", script))
    return "<!doctype html>\n" + html(tag("html", _head(title, style, script), body, lang="en")) + "\n"


def gathered(runs: Sequence[Record], sweeps: Sequence[SweepRecord]) -> list[Record]:
    """The runs compared one by one: single ones, and those of sweeps that are no grids; students alone come first."""
    found = [*runs, *(run for sweep in sweeps if len(sweep.axes) != 2 for run in sweep.runs)]
    return sorted(found, key=lambda run: not run.alone)


def _sections(
    compared: Sequence[Group], maps: Sequence[SweepRecord], comparison: Comparison | None
) -> list[tuple[str, str, Child]]:
    """The parts of the page that there is something to say in: key, heading, content."""
    found: list[tuple[str, str, Child]] = []
    runs = [run for group in compared for run in group.runs]
    if compared:
        found.append(("results", "Results", [
            charts.picture(compared), tables.table(compared),
            tag("details", tag("summary", counted(len(runs), "run")), tables.run_table(compared)),
        ]))  # fmt: skip
        if curves := charts.charts(compared):
            found.append(("curves", "Learning curves", [_slider(runs), tag("div", curves, class_="charts")]))
    if maps:
        found.append(("grids", "Grids", [charts.heat_map(sweep) for sweep in maps]))
    if comparison is not None:
        found.append(("disagreements", "Disagreements with the teacher", disagreements.gallery(comparison)))
    settings: list[Child] = []
    if compared:
        shared = tag("details", tag("summary", "Settings that all share"), tables.shared(compared))
        settings += [tables.different(compared), shared]
    settings += [tag("details", tag("summary", f"Settings of {s.name}"), tables.of_sweep(s)) for s in maps]
    found.append(("configuration", "Configuration", settings))
    everything = [*runs, *(sweep.runs[0] for sweep in maps)]
    lines = tag("details", tag("summary", "Command lines"), tables.commands(everything))
    found.append(("environment", "Environment", [tables.environment(everything), lines]))
    return found


def _section(key: str, name: str, content: Child) -> Element:
    return tag("section", tag("h2", name, id=f"{key}-title"), content, id=key, aria_labelledby=f"{key}-title")


def _head(title: str, style: str, script: str) -> Element:
    # Nothing is loaded, and no script runs but the page's own, whatever the runs bring along.
    policy = f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", style),
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _part(name: str) -> str:
    return files("jaxkd.report").joinpath(name).read_text(encoding="utf-8")


def _theme(name: str) -> Element:
    box = tag("input", type="radio", name="theme", id=f"theme-{name}", checked=name == THEMES[0])
    return tag("label", box, tag("span", name.capitalize()), for_=f"theme-{name}")


def _slider(runs: Sequence[Record]) -> Element:
    last = max((run.history.epoch[-1] + 1 for run in runs if run.history.epoch), default=1)
    box = tag("input", type="range", id="epoch", min=1, max=last, value=last, step=1)
    output = tag("output", "last", for_="epoch")
    return tag("p", tag("label", "Epoch", for_="epoch"), box, output, class_="epoch", hidden=True)


def _lead(compared: Sequence[Group], maps: Sequence[SweepRecord]) -> str:
    """What was compared, in a sentence."""
    runs = [run for group in compared for run in group.runs]
    everything = [*runs, *(run for sweep in maps for run in sweep.runs)]

    def names(found: list[str | None]) -> str:
        return ", ".join(dict.fromkeys(name for name in found if name))

    parts = [f"{counted(len(runs), 'run')} of {counted(len(compared), 'configuration')}"] if runs else []
    parts += [f"a grid of {counted(len(sweep.cells), 'run')}" for sweep in maps]
    sentences = [" and ".join(parts) + (f", on {data}" if (data := names([run.data for run in everything])) else "")]
    if students := names([run.network for run in everything if run.teacher]):
        teachers = names([run.teacher.get("name") for run in everything if run.teacher])
        sentences.append(f"Student {students}, teacher {teachers}")
    elif networks := names([run.network for run in everything]):
        sentences.append(f"Network {networks}")
    return "".join(f"{sentence[:1].upper()}{sentence[1:]}. " for sentence in sentences).strip()


def _figures(compared: Sequence[Group]) -> Element | None:
    """The few numbers that are looked for first."""
    teachers = {
        ((group.runs[0].teacher or {}).get("name", ""), group.runs[0].data or "", group.teacher_accuracy)
        for group in compared
        if group.teacher_accuracy is not None
    }
    tiles = [
        _tile(f"Teacher {name}", ", ".join(filter(None, ("test accuracy in percent", data))), accuracy(value))
        for name, data, value in sorted(teachers)
    ]
    ends = [(group, spread) for group in compared if (spread := group.spread("last")) is not None]
    for group, spread in ends:
        if group.alone and group.runs[0].network not in {name for name, *_ in teachers}:
            tiles.append(_tile("Without a teacher", group.label, mean_text(spread.mean, spread.deviation)))
    taught = [(group, spread) for group, spread in ends if not group.alone]
    if taught:
        group, spread = max(taught, key=lambda end: end[1].mean)
        tiles.append(_tile("Highest with a teacher", group.label, mean_text(spread.mean, spread.deviation)))
    return tag("dl", tiles, class_="figures") if tiles else None


def _tile(name: str, what: str, value: str) -> Element:
    return tag("div", tag("dt", name), tag("dd", value, tag("small", what)))
