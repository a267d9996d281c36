"""Charts: learning curves, the last epoch of every run, grids. Places in a chart are parts of its size, from 0 to 1."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxkd.plots.scale import Scale, integers, linear, logarithmic
from jaxkd.records import AuthorsLog, SweepRecord
from jaxkd.records.groups import text
from jaxkd.report.quantities import Quantity, accuracy, counted, in_order, mean_text, quantity
from jaxkd.report.tables import Cell, Name, Placed
from jaxkd.spread import Curve, mean_curve

COLOURS, DASHES = 8, ("none", "6 3", "2 3", "8 3 2 3")
STEPS = 20
"""The number of colours of a heat map between the lowest and the highest value."""

_LONG = 40  # epochs, from which on the last quarter gets a chart of its own
_FEW = 6  # lines whose names and values have room below a small chart
_SINGLE = 12  # epochs up to which each is a dot, so that a single one is seen
_ORDERS = 1000  # from the least to the largest, beyond which a loss that explodes would press all others flat
_UNIT = 1000  # the size of the coordinates in which lines are drawn

_SYMBOLS = {"correct": "τ₁, correct class", "wrong": "τ₂, wrong classes"}


class Line(NamedTuple):
    """A configuration in a chart of learning curves.

    Attributes:
      place: among all configurations.
      label: its name.
      points: the mean over its runs, as SVG has the points of a line.
      band: an outline one deviation above and below it; None for a single run.
      dots: the places of the epochs, while there are few.
      epochs: counted from 1, with commas between them.
      texts: the values at these epochs.
      end: where it ends, in words.
      theirs: whether it is a log of the authors, in the colour of the configuration that it belongs to.
    """

    place: int
    label: str
    points: str
    band: str | None
    dots: list[tuple[float, float]]
    epochs: str
    texts: list[str]
    end: str
    theirs: bool


class Chart(NamedTuple):
    """A quantity over the epochs; `spoken` is it in words, `main` a large one, `unfolded` one whose legend is open."""

    title: str
    spoken: str
    epochs: Scale
    values: Scale
    lines: list[Line]
    main: bool
    unfolded: bool


class Mark(NamedTuple):
    """A mark in a dot plot: its place, and what it is."""

    x: float
    title: str


class Dots(NamedTuple):
    """A configuration in a dot plot.

    Attributes:
      name: the configuration.
      text: mean and deviation.
      mean: the place of the mean.
      deviation: the places of one deviation below and above it; None for a single run.
      runs: the last epoch of each.
      teacher: its accuracy, where it was measured.
      published: the published number, where there is one.
      best: whether that number is of the best epoch, unlike everything else in the picture.
    """

    name: Name
    text: str
    mean: float
    deviation: tuple[float, float] | None
    runs: list[Mark]
    teacher: Mark | None
    published: Mark | None
    best: bool


class DotPlot(NamedTuple):
    """The last epoch of every run, a row for each configuration; `key` says what the marks mean."""

    rows: list[Dots]
    scale: Scale
    key: str


class HeatMap(NamedTuple):
    """The last test accuracy over two settings: names of the axes, values, cells row by row, both ends of the scale."""

    title: str
    across: str
    down: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    low: str
    high: str
    note: str


class _Measured(NamedTuple):
    """Measurements of a configuration, with its place and label; or those of the authors' log of the same."""

    place: int
    label: str
    curve: Curve
    theirs: bool = False


def charts(members: Sequence[Placed], logs: Sequence[AuthorsLog] = ()) -> list[Chart]:
    """Make a chart for everything that any configuration measured, the most important first.

    Args:
      members: the configurations.
      logs: of authors; each is drawn beside the configuration of its method, networks and data, as far as that came.
    """
    names = in_order(name for _, group in members for run in group.runs for name in run.history.history)
    made: list[Chart] = []
    for name in names:
        of = quantity(name)
        curves = [
            _Measured(place, group.label, curve) for place, group in members if (curve := group.curve(name)) is not None
        ]
        if not curves:
            continue
        curves = _with_theirs(curves, members, logs, name)
        made.append(_chart(of, _as_one(curves), main=not made))
        if name == "val_accuracy" and (late := _last_quarter(curves)):
            made.append(_chart(dataclasses.replace(of, title=f"{of.title}: last quarter"), late, main=True))
    return made


def dot_plot(members: Sequence[Placed]) -> DotPlot | None:
    """Show the last epoch of every run; None where no test accuracy was measured."""
    measured = [(place, group, spread) for place, group in members if (spread := group.spread("last"))]
    if not measured:
        return None
    values: list[float | None] = []
    for _, group, spread in measured:
        reach = spread.deviation or 0.0
        values += [*spread.values, spread.mean - reach, spread.mean + reach]
        values += [group.teacher_accuracy, group.published.accuracy if group.published else None]
    scale = linear([100 * value for value in values if value is not None], margin=0.08, within=(0.0, 100.0))

    def x(value: float) -> float:
        return min(1.0, max(0.0, scale.position(100 * value)))

    rows = []
    for place, group, (mean, deviation) in ((place, group, (s.mean, s.deviation)) for place, group, s in measured):
        teacher, number = group.teacher_accuracy, group.published
        ends = [(run, run.last.get("val_accuracy")) for run in group.compared]
        of_best = number is not None and number.reported == "best"
        stated = f"published{', best epoch' if of_best else ''}: {accuracy(number.accuracy)}" if number else ""
        rows.append(
            Dots(
                name=Name(place, group.label),
                text=mean_text(mean, deviation),
                mean=x(mean),
                deviation=None if deviation is None else (x(mean - deviation), x(mean + deviation)),
                runs=[Mark(x(end), f"{run.name}: {accuracy(end)}") for run, end in ends if end is not None],
                teacher=None if teacher is None else Mark(x(teacher), f"teacher: {accuracy(teacher)}"),
                published=Mark(x(number.accuracy), stated) if number else None,
                best=of_best,
            )
        )
    return DotPlot(rows, scale, _key(rows))


def heat_map(sweep: SweepRecord) -> HeatMap:
    """Show the last test accuracy over the two settings that vary, the highest mean framed."""
    grid = sweep.grid()
    low, high = float(np.nanmin(grid.mean)), float(np.nanmax(grid.mean))
    down, across = (_SYMBOLS.get(name, name) for name in grid.names)

    def cell(mean: float, deviation: float) -> Cell:
        if math.isnan(mean):
            return Cell("–")
        step = round(STEPS * (mean - low) / (high - low)) if high > low else STEPS
        said = None if math.isnan(deviation) else f"± {accuracy(deviation)}"
        return Cell(accuracy(mean), title=said, css=f"h{step}{' highest' if mean == high else ''}")

    cells = [list(map(cell, *row)) for row in zip(grid.mean.tolist(), grid.deviation.tolist(), strict=True)]
    row, column = np.unravel_index(np.nanargmax(grid.mean), grid.mean.shape)
    deviation = float(grid.deviation[row, column])
    spread = mean_text(high, None if math.isnan(deviation) else deviation)
    found = f"{_short(down)} {text(grid.rows[row])}, {_short(across)} {text(grid.columns[column])}"
    seeds = counted(grid.runs, "seed") if grid.fewest == grid.runs else f"{grid.fewest} to {grid.runs} seeds"
    runs = f"Mean over {seeds} in each cell." if grid.runs > 1 else "One seed in each cell."
    return HeatMap(
        title=f"{sweep.name}: test accuracy in percent at the last epoch",
        across=across,
        down=down,
        columns=list(map(text, grid.columns)),
        rows=list(zip(map(text, grid.rows), cells, strict=True)),
        low=accuracy(low),
        high=accuracy(high),
        note=f"Highest: {spread} at {found}, chosen on the test images. {runs}",
    )


def _chart(of: Quantity, curves: Sequence[_Measured], main: bool) -> Chart:
    first, last = min(int(line.curve.epochs[0]) for line in curves), max(int(line.curve.epochs[-1]) for line in curves)
    epochs, values = integers(first, last), _value_scale(of, curves)

    def points(at: Iterable[Any], measured: Iterable[Any]) -> list[tuple[float, float]]:
        pairs = zip(at, measured, strict=True)
        return [(epochs.position(x), 1 - values.position(of.number(y))) for x, y in pairs if math.isfinite(y)]

    lines = []
    for place, label, (at, mean, deviation), theirs in curves:
        middle, band = points(at, mean), None
        if deviation is not None and not values.logarithmic:
            band = _svg([*points(at, mean + deviation), *reversed(points(at, mean - deviation))])
        texts = [of.text(value) for value in mean]
        lines.append(
            Line(
                place=place,
                label=label,
                points=_svg(middle),
                band=band,
                dots=middle if len(at) <= _SINGLE else [],
                epochs=",".join(map(str, at)),
                texts=texts,
                end=f"{label}: {texts[-1]} at epoch {at[-1]}",
                theirs=theirs,
            )
        )
    ends = "; ".join(f"{line.label} ends at {line.texts[-1]}" for line in lines)
    spoken = f"{of.title} over the epochs: {ends}"
    return Chart(of.title, spoken, epochs, values, lines, main, unfolded=main or len(lines) <= _FEW)


def _svg(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_UNIT * x:.1f},{_UNIT * y:.1f}" for x, y in points)


def _with_theirs(
    curves: Sequence[_Measured], members: Sequence[Placed], logs: Sequence[AuthorsLog], name: str
) -> list[_Measured]:
    """Add the authors' curves of the same method, networks and data, each below ours and as long as the longest."""
    reached = max(int(line.curve.epochs[-1]) for line in curves)
    of_place = dict(members)
    found: list[_Measured] = []
    for line in curves:
        found.append(line)
        log = next((log for log in logs if log.is_of(of_place[line.place].runs[0])), None)
        if log is not None and len((curve := mean_curve([log.history], name).until(reached)).epochs):
            found.append(_Measured(line.place, f"{line.label}: the authors' log", curve, theirs=True))
    return found


def _last_quarter(curves: Sequence[_Measured]) -> list[_Measured]:
    """Return the end of long runs, where configurations are closer together than ever before."""
    last = max((int(line.curve.epochs[-1]) for line in curves), default=0)
    late = [line._replace(curve=line.curve.after(3 * last // 4)) for line in curves]
    return [line for line in late if len(line.curve.epochs)] if last >= _LONG else []


def _as_one(curves: Sequence[_Measured]) -> list[_Measured]:
    """Make one line, that belongs to none, of what all configurations share, as the learning rate often is."""
    longest = max((line.curve for line in curves), key=lambda curve: len(curve.epochs))
    values = dict(zip(longest.epochs.tolist(), longest.mean.tolist(), strict=True))
    same = (
        math.isclose(value, values.get(epoch, math.nan), rel_tol=1e-6)
        for line in curves
        for epoch, value in zip(line.curve.epochs.tolist(), line.curve.mean.tolist(), strict=True)
    )
    return [_Measured(-1, "all configurations", longest)] if len(curves) > 1 and all(same) else list(curves)


def _value_scale(of: Quantity, curves: Sequence[_Measured]) -> Scale:
    ranges = [
        line.curve.mean + side * (0.0 if line.curve.deviation is None else line.curve.deviation)
        for line in curves
        for side in (-1.0, 0.0, 1.0)
    ]
    finite = [of.number(float(value)) for value in np.concatenate(ranges) if math.isfinite(value)] or [0.0]
    orders = 9 if of.name == "learning_rate" else _ORDERS
    if not of.percent and min(finite) > 0 and max(finite) > orders * min(finite):
        return logarithmic(finite)
    if of.name == "images_per_second":
        finite.append(0.0)
    return linear(finite, within=(0.0, 100.0) if of.percent else None)


def _key(rows: Sequence[Dots]) -> str:
    parts = ["Test accuracy in percent at the last epoch: a dot is a run"]
    if any(row.deviation for row in rows):
        parts.append("the upright bar the mean, the line across one deviation on both sides")
    if any(row.teacher for row in rows):
        parts.append("the dashed line the teacher")
    if any(row.published and not row.best for row in rows):
        parts.append("the ring the published number")
    if any(row.published and row.best for row in rows):
        parts.append("the dashed ring a published number that is its paper's best epoch, to compare with ours below")
    return ", ".join(parts) + "."


def _short(axis: str) -> str:
    return axis.partition(",")[0]
