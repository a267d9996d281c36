"""Where each configuration ended, as a picture: a row for each, a dot for every run."""

from __future__ import annotations

from collections.abc import Sequence

from jaxkd.records import Group, Spread
from jaxkd.report.curves import colour, named, percent
from jaxkd.report.markup import Element, tag
from jaxkd.report.quantities import accuracy, mean_text
from jaxkd.report.scale import Scale, linear

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
