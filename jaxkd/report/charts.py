"""Learning curves: a chart for each quantity, a line for each configuration.

Every place in a chart is a percentage of its size and every text has its own, so that a chart fits any width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from jaxkd.records import Curve, Grid, Group, Spread, SweepRecord
from jaxkd.records.groups import text
from jaxkd.report.markup import Element, scrolling, tag
from jaxkd.report.quantities import Quantity, accuracy, counted, in_order, mean_text, quantity


@dataclasses.dataclass(frozen=True)
class Scale:
    """One axis.

    Attributes:
      low: the value at its beginning.
      high: the value at its end, above `low`.
      ticks: round values on it.
      logarithmic: whether equal ratios are equally far apart.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value is, from 0 to 1."""
        low, high, at = (math.log10(x) for x in (self.low, self.high, value)) if self.logarithmic else (
            self.low, self.high, value
        )  # fmt: skip
        return (at - low) / (high - low)


def linear(
    values: Iterable[float], count: int = 5, room: float = 0.04, within: tuple[float, float] | None = None
) -> Scale:
    """An axis for some values, a little longer than they reach.

    Args:
      values: at least one; what is not finite is left out.
      count: about so many ticks.
      room: on both sides, as a part of the range.
      within: the axis does not leave these bounds, as percentages do not leave 0 to 100.

    Example:
      >>> linear([1.0, 9.0], room=0.0)
      Scale(low=1.0, high=9.0, ticks=(2.0, 4.0, 6.0, 8.0), logarithmic=False)
    """
    low, high = _range(values)
    margin = room * (high - low)
    low, high = low - margin, high + margin
    if within is not None:
        low, high = max(low, within[0]), min(high, within[1])
    return Scale(low, high, _round_numbers(low, high, count))


def logarithmic(values: Iterable[float]) -> Scale:
    """An axis for values above 0 that span orders of magnitude, its ticks at powers of ten.

    Example:
      >>> logarithmic([0.05, 0.0005]).ticks
      (0.0001, 0.001, 0.01, 0.1)
    """
    low, high = _range(values)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = max(1, round((last - first) / 5))
    return Scale(10.0**first, 10.0**last, tuple(10.0**power for power in range(first, last + 1, step)), True)


def whole(first: int, last: int, count: int = 6) -> Scale:
    """An axis of whole numbers that ends with them, as the epochs do.

    Example:
      >>> whole(1, 30).ticks
      (5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
      >>> whole(1, 3).ticks
      (1.0, 2.0, 3.0)
    """
    if first == last:
        return Scale(first - 0.5, last + 0.5, (float(first),))
    ticks = tuple(tick for tick in _round_numbers(first, last, count) if tick == int(tick))
    return Scale(float(first), float(last), ticks)


def _range(values: Iterable[float]) -> tuple[float, float]:
    finite = [float(value) for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):
        margin = 0.05 * abs(low) or 1.0
        return low - margin, high + margin
    return low, high


def _round_numbers(low: float, high: float, count: int) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten, about `count` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.7 * raw)
    multiples = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return tuple(float(f"{multiple * step:.12g}") for multiple in multiples)


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


Row = tuple[int, Group, Spread]
"""The place of a configuration among all, itself, and the test accuracies of its runs."""


def picture(groups: Sequence[Group]) -> Element | None:
    """The last epoch of every run; None where no test accuracy was measured."""
    rows = [(place, group, spread) for place, group in enumerate(groups) if (spread := group.spread("last"))]
    if not rows:
        return None
    others = [value for _, group, _ in rows for value in (group.teacher_accuracy, _stated(group)) if value is not None]
    reach = [spread.mean + side * (spread.deviation or 0.0) for *_, spread in rows for side in (-1, 1)]
    values = [*(value for *_, spread in rows for value in spread.values), *reach, *others]
    scale = linear([100 * value for value in values], room=0.08, within=(0.0, 100.0))
    key = tag("p", _key(rows), class_="note")
    return tag("div", [_row(row, scale) for row in rows], _axis(scale), key, class_="strips")


def _row(row: Row, scale: Scale) -> Element:
    place, group, spread = row
    text = mean_text(spread.mean, spread.deviation)
    marks = [_upright("grid", scale, tick / 100) for tick in scale.ticks]
    if group.teacher_accuracy is not None:
        marks.append(_upright("teacher", scale, group.teacher_accuracy, f"teacher: {accuracy(group.teacher_accuracy)}"))
    if spread.deviation is not None:
        low, high = (_x(scale, spread.mean + side * spread.deviation) for side in (-1, 1))
        marks.append(tag("line", class_=f"deviation {colour(place)}", x1=low, x2=high, y1="50%", y2="50%"))
    for run in group.compared:
        if (value := run.last.get("val_accuracy")) is not None:
            name = tag("title", f"{run.name}: {accuracy(value)}")
            marks.append(tag("circle", name, class_=f"dot {colour(place)}", cx=_x(scale, value), cy="50%", r=4))
    marks.append(_upright(f"mean {colour(place)}", scale, spread.mean, ends=("18%", "82%")))
    if (stated := _stated(group)) is not None:
        name = tag("title", f"published: {accuracy(stated)}")
        marks.append(tag("circle", name, class_="published", cx=_x(scale, stated), cy="50%", r=6))
    return tag(
        "div",
        named(place, group.label),
        tag("svg", marks, class_="strip", role="img", aria_label=f"{group.label}: {text} percent"),
        tag("span", text, class_="value"),
        class_="row",
    )


def _axis(scale: Scale) -> Element:
    ticks = [
        tag("text", f"{tick:g}", class_="tick", x=_x(scale, tick / 100), y="1.1em", text_anchor="middle")
        for tick in scale.ticks
    ]
    drawing = tag("svg", ticks, class_="ticks", aria_hidden="true")
    return tag("div", tag("span"), drawing, tag("span"), class_="row axis")


def _key(rows: Sequence[Row]) -> str:
    parts = ["Test accuracy in percent at the last epoch: a dot is a run"]
    if any(spread.deviation is not None for *_, spread in rows):
        parts.append("the upright bar the mean, the line across one deviation on both sides")
    if any(group.teacher_accuracy is not None for _, group, _ in rows):
        parts.append("the dashed line the teacher")
    if any(_stated(group) is not None for _, group, _ in rows):
        parts.append("the ring the published number")
    return ", ".join(parts) + "."


def _stated(group: Group) -> float | None:
    """The published accuracy, where it is that of the last epoch as everything in the picture is."""
    number = group.published
    return number.accuracy if number is not None and number.reported == "last" else None


def _upright(
    of_class: str, scale: Scale, value: float, title: str | None = None, ends: tuple[str, str] = ("0", "100%")
) -> Element:
    named = None if title is None else tag("title", title)
    x = _x(scale, value)
    return tag("line", named, class_=of_class, x1=x, x2=x, y1=ends[0], y2=ends[1])


def _x(scale: Scale, value: float) -> str:
    return percent(min(1.0, max(0.0, scale.place(100 * value))))


STEPS = 20
"""How many colours there are between the lowest and the highest value."""

Colour = tuple[int, int, int]

_RAMPS: tuple[tuple[Colour, Colour], ...] = (((237, 243, 250), (8, 66, 127)), ((29, 40, 54), (168, 214, 255)))
"""The colours of the lowest and the highest value, on a light and on a dark page."""

_SYMBOLS = {"correct": "τ₁, correct class", "wrong": "τ₂, wrong classes"}


def heat_map(sweep: SweepRecord) -> Element:
    """The last test accuracy over the two settings that vary, the highest mean framed."""
    grid = sweep.grid()
    low, high = float(np.nanmin(grid.mean)), float(np.nanmax(grid.mean))
    across, down = (_SYMBOLS.get(name, name) for name in reversed(grid.names))
    head = [
        tag("tr", tag("td", class_="corner"), tag("th", across, scope="colgroup", colspan=len(grid.columns))),
        tag("tr", tag("th", down, scope="col", class_="down"), [tag("th", text(v), scope="col") for v in grid.columns]),
    ]
    places = range(len(grid.columns))
    rows = [
        tag("tr", tag("th", text(value), scope="row"), [_cell(grid, (row, column), low, high) for column in places])
        for row, value in enumerate(grid.rows)
    ]
    title = f"{sweep.name}: test accuracy in percent at the last epoch"
    best = np.unravel_index(np.nanargmax(grid.mean), grid.mean.shape)
    found = f"{_short(down)} {text(grid.rows[best[0]])}, {_short(across)} {text(grid.columns[best[1]])}"
    spread = mean_text(high, None if np.isnan(grid.deviation[best]) else float(grid.deviation[best]))
    note = f"Highest: {spread} at {found}, chosen on the test images. "
    note += f"Mean over {counted(grid.runs, 'seed')} in each cell." if grid.runs > 1 else "One seed in each cell."
    ramp = (tag("span", accuracy(low)), tag("span", class_="ramp"), tag("span", accuracy(high)))
    return tag(
        "figure",
        scrolling(title, tag("table", tag("caption", title), tag("thead", head), tag("tbody", rows), class_="heat")),
        tag("div", ramp, class_="scale", aria_hidden="true"),
        tag("figcaption", note, class_="note"),
    )


def _short(axis: str) -> str:
    return axis.partition(",")[0]


def _cell(grid: Grid, place: tuple[int, int], low: float, high: float) -> Element:
    mean, deviation = grid.mean[place], grid.deviation[place]
    if np.isnan(mean):
        return tag("td", "–")
    step = round(STEPS * (mean - low) / (high - low)) if high > low else STEPS
    highest = " highest" if mean == high else ""
    said = None if np.isnan(deviation) else f"± {accuracy(float(deviation))}"
    return tag("td", accuracy(float(mean)), class_=f"h{step}{highest}", title=said)


def colours() -> str:
    """The style of the cells, from one end of the ramp to the other, in both themes; the text is black or white."""
    rules = []
    for step in range(STEPS + 1):
        light, dark = (_between(*ends, step / STEPS) for ends in _RAMPS)
        rules.append(
            f".h{step}{{background:light-dark({_hex(light)},{_hex(dark)});"
            f"color:light-dark({_readable(light)},{_readable(dark)})}}"
        )
    ends = (f"light-dark({_hex(light)},{_hex(dark)})" for light, dark in zip(*_RAMPS, strict=True))
    return "\n".join([*rules, f".ramp{{background:linear-gradient(to right,{','.join(ends)})}}"])


def _between(low: Colour, high: Colour, part: float) -> Colour:
    red, green, blue = (round(one + part * (other - one)) for one, other in zip(low, high, strict=True))
    return red, green, blue


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def _readable(background: Colour) -> str:
    """Black or white, whichever stands out more (WCAG 2's relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in background)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#fff"
