"""The heat map of a sweep over two settings: a table whose cells are coloured."""

from __future__ import annotations

import numpy as np

from jaxkd.records import Grid, SweepRecord
from jaxkd.records.groups import text
from jaxkd.report.markup import Element, tag
from jaxkd.report.quantities import accuracy, counted, mean_text
from jaxkd.report.results import scrolling

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
