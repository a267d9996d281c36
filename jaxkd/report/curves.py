"""Learning curves: a chart for each quantity, a line for each configuration.

Every place in a chart is a percentage of its size and every text has its own, so that a chart fits any width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from jaxkd.records import Curve, Group
from jaxkd.report.markup import Element, tag
from jaxkd.report.quantities import Quantity, in_order, quantity
from jaxkd.report.scale import Scale, linear, logarithmic, whole

COLOURS, DASHES = 8, ("none", "6 3", "2 3", "8 3 2 3")

_LONG = 40  # epochs
_FEW = 6  # lines whose names and values have room below a small chart
_ORDERS = 1000  # from the least to the largest, beyond which a loss that explodes would press all others flat
_UNIT = 1000  # the size of the coordinates in which lines are drawn

Line = tuple[int, str, Curve]
"""The place of a configuration among all, its label, what it measured."""


def charts(groups: Sequence[Group]) -> list[Element]:
    """A chart for everything that any group measured, the most important first."""
    names = in_order(name for group in groups for run in group.runs for name in run.history.history)
    made: list[Element] = []
    for name in names:
        measured = [(place, group.label, group.curve(name)) for place, group in enumerate(groups)]
        lines = [(place, label, curve) for place, label, curve in measured if curve is not None]
        if lines:
            made.append(chart(quantity(name), _as_one(lines), main=not made))
        if name == "val_accuracy" and (late := _last_quarter(lines)):
            of = quantity(name)
            made.append(chart(dataclasses.replace(of, title=f"{of.title}: last quarter"), late, main=True))
    return made


def chart(of: Quantity, lines: Sequence[Line], main: bool = False) -> Element:
    """One quantity over the epochs.

    Args:
      of: the quantity.
      lines: at least one.
      main: whether it is the large one.
    """
    epochs = whole(min(int(curve.epochs[0]) for *_, curve in lines), max(int(curve.epochs[-1]) for *_, curve in lines))
    values = _value_scale(of, lines)
    ends = "; ".join(f"{label} ends at {of.text(curve.mean[-1])}" for _, label, curve in lines)
    drawing = tag(
        "svg",
        [_grid_line(values, tick) for tick in values.ticks],
        [_epoch_tick(epochs, tick) for tick in epochs.ticks],
        tag(
            "svg",
            [_band(of, epochs, values, line) for line in lines],
            [_line(of, epochs, values, line) for line in lines],
            viewBox=f"0 0 {_UNIT} {_UNIT}", preserveAspectRatio="none", width="100%", height="100%",
        ),
        [_dots(of, epochs, values, line) for line in lines],
        tag("line", class_="cursor", y1="0", y2="100%", visibility="hidden"),
        class_="plot", role="img", aria_label=f"{of.title} over the epochs: {ends}",
    )  # fmt: skip
    return tag(
        "figure",
        tag("figcaption", tag("strong", of.title), " ", tag("span", "last epoch", class_="when")),
        tag("div", drawing, class_="frame"),
        _legend(of, lines, open_=main or len(lines) <= _FEW),
        class_="chart main" if main else "chart", data_low=epochs.low, data_high=epochs.high,
    )  # fmt: skip


def swatch(place: int) -> Element:
    """A short piece of the line of a configuration."""
    line = tag("line", x1=1, x2=21, y1=6, y2=6, stroke_dasharray=_dash(place))
    return tag("svg", line, class_=f"swatch {colour(place)}", width=22, height=12, aria_hidden="true")


def named(place: int, label: str) -> Element:
    """A configuration's name with its line."""
    return tag("span", swatch(place), tag("span", label, class_="label"), class_="name")


def colour(place: int) -> str:
    """The class that gives a configuration its colour."""
    return f"s{place % COLOURS}" if place >= 0 else "all"


def percent(part: float) -> str:
    """A place in a chart, from 0 to 1."""
    return f"{100 * part:.2f}%"


def _last_quarter(lines: Sequence[Line]) -> list[Line]:
    """The end of long runs, where configurations are closer together than they ever were before."""
    last = max((int(curve.epochs[-1]) for *_, curve in lines), default=0)
    late = [(place, label, curve.after(3 * last // 4)) for place, label, curve in lines]
    return [line for line in late if len(line[2].epochs)] if last >= _LONG else []


def _as_one(lines: Sequence[Line]) -> list[Line]:
    """What is the same for all configurations, as the learning rate often is, is one line and belongs to none."""
    *_, longest = max(lines, key=lambda line: len(line[2].epochs))
    values = dict(zip(longest.epochs.tolist(), longest.mean.tolist(), strict=True))
    same = (
        math.isclose(value, values.get(epoch, math.nan), rel_tol=1e-6)
        for *_, curve in lines
        for epoch, value in zip(curve.epochs.tolist(), curve.mean.tolist(), strict=True)
    )
    return [(-1, "all configurations", longest)] if len(lines) > 1 and all(same) else list(lines)


def _value_scale(of: Quantity, lines: Sequence[Line]) -> Scale:
    ranges = [
        curve.mean + side * (0.0 if curve.deviation is None else curve.deviation)
        for *_, curve in lines
        for side in (-1.0, 0.0, 1.0)
    ]
    finite = [of.number(float(value)) for value in np.concatenate(ranges) if math.isfinite(value)] or [0.0]
    orders = 9 if of.name == "learning_rate" else _ORDERS
    if not of.percent and min(finite) > 0 and max(finite) > orders * min(finite):
        return logarithmic(finite)
    if of.name == "images_per_second":
        finite.append(0.0)
    return linear(finite, within=(0.0, 100.0) if of.percent else None)


def _grid_line(values: Scale, tick: float) -> tuple[Element, Element]:
    y = percent(1 - values.place(tick))
    return (
        tag("line", class_="grid", x1="0", x2="100%", y1=y, y2=y),
        tag("text", f"{tick:g}", class_="tick", x="0", y=y, dx=-8, dy="0.32em", text_anchor="end"),
    )


def _epoch_tick(epochs: Scale, tick: float) -> tuple[Element, Element]:
    x = percent(epochs.place(tick))
    return (
        tag("line", class_="grid faint", x1=x, x2=x, y1="0", y2="100%"),
        tag("text", f"{tick:g}", class_="tick", x=x, y="100%", dy="1.5em", text_anchor="middle"),
    )


def _points(of: Quantity, epochs: Scale, values: Scale, at: np.ndarray, of_values: np.ndarray) -> list[str]:
    return [
        f"{_UNIT * epochs.place(epoch):.1f},{_UNIT * (1 - values.place(of.number(value))):.1f}"
        for epoch, value in zip(at, of_values, strict=True)
        if math.isfinite(value)
    ]


def _line(of: Quantity, epochs: Scale, values: Scale, line: Line) -> Element:
    place, label, curve = line
    points = _points(of, epochs, values, curve.epochs, curve.mean)
    end = f"{label}: {of.text(curve.mean[-1])} at epoch {curve.epochs[-1]}"
    return tag(
        "polyline", tag("title", end), class_=f"curve {colour(place)}", points=" ".join(points),
        stroke_dasharray=_dash(place), vector_effect="non-scaling-stroke",
    )  # fmt: skip


def _band(of: Quantity, epochs: Scale, values: Scale, line: Line) -> Element | None:
    place, _, curve = line
    if curve.deviation is None or values.logarithmic:
        return None
    above = _points(of, epochs, values, curve.epochs, curve.mean + curve.deviation)
    below = _points(of, epochs, values, curve.epochs, curve.mean - curve.deviation)
    return tag("polygon", class_=f"band {colour(place)}", points=" ".join([*above, *reversed(below)]))


def _dots(of: Quantity, epochs: Scale, values: Scale, line: Line) -> Iterable[Element]:
    """Epochs as dots while there are few of them, so that a single one is seen."""
    place, _, curve = line
    for epoch, value in zip(curve.epochs, curve.mean, strict=True):
        if len(curve.epochs) <= 12 and math.isfinite(value):
            x, y = percent(epochs.place(epoch)), percent(1 - values.place(of.number(value)))
            yield tag("circle", class_=f"dot {colour(place)}", cx=x, cy=y, r=2.5)


def _legend(of: Quantity, lines: Sequence[Line], open_: bool) -> Element:
    """The configurations with their values; folded where it would be longer than the chart is high."""
    entries = tag("ul", [_entry(of, line) for line in lines], class_="legend")
    return entries if open_ else tag("details", tag("summary", "values"), entries)


def _entry(of: Quantity, line: Line) -> Element:
    """A configuration in the legend, with its value at the last epoch; the script shows that at another."""
    place, label, curve = line
    shown = [of.text(value) for value in curve.mean]
    return tag(
        "li", swatch(place), tag("span", label, class_="label"), " ", tag("span", shown[-1], class_="value"),
        data_epochs=",".join(map(str, curve.epochs)), data_values=",".join(shown),
    )  # fmt: skip


def _dash(place: int) -> str:
    return DASHES[max(place, 0) // COLOURS % len(DASHES)]
