"""Values over anything but epochs: temperatures, confidences, ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxkd.plots.canvas import GREY, Target, axes_of, checked, finish, look_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Style = Literal["lines", "points", "both", "steps"]


def curves(
    named: Mapping[str, tuple[ArrayLike, ArrayLike]],
    target: Target,
    labels: tuple[str, str] = ("", ""),
    title: str = "",
    style: Style = "lines",
    deviations: Mapping[str, ArrayLike] | None = None,
    logarithmic: bool = False,
    diagonal: bool = False,
    legend: bool = True,
) -> None:
    """One value over another, a curve per name.

    Args:
      named: for each name, x `[P]` and y `[P]`; the curve has a gap where y is NaN.
      target: axes to draw into, or the picture file to write.
      labels: of the horizontal and the vertical axis.
      title: above the axes.
      style: whether points are joined, marked, both, or joined by steps, each y reaching to the next x.
      deviations: for some of the names, how far y varies on both sides, `[P]`.
      logarithmic: whether the horizontal axis is.
      diagonal: whether y = x is drawn, in grey.
      legend: whether names are shown.

    Raises:
      ImportError: without matplotlib.
      ValueError: for no curves.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     curves({"resnet56": ([1, 2, 4], [0.1, 0.2, 0.3])}, Path(folder) / "c.png", ("temperature", "e(q)"))
    """
    axes, made = axes_of(target)
    for number, (name, (x, y)) in enumerate(checked(named).items(), start=len(axes.get_lines())):
        look = _look(number, style)
        axes.plot(np.asarray(x, float), np.asarray(y, float), label=name, **look)
        if deviations and name in deviations:
            spread = np.asarray(deviations[name], float)
            axes.errorbar(x, y, yerr=spread, fmt="none", ecolor=look["color"], capsize=3)
    if diagonal:
        axes.axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle=":", label="equal")
    if logarithmic:
        _make_logarithmic(axes)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    finish(axes, made, target, title, legend)


def _look(number: int, style: Style) -> dict[str, Any]:
    """How the curve of a number is drawn: by colour, and by line or marker for those who do not see it."""
    colour, line, marker = look_of(number)
    return {
        "color": colour,
        "linestyle": line if style != "points" else "",
        "marker": marker if style in ("points", "both") else "",
        "markersize": 5,
        "drawstyle": "steps-post" if style == "steps" else "default",
    }


def _make_logarithmic(axes: Axes) -> None:
    """A logarithmic horizontal axis with plain numbers: 1, 2, 5, 10, …"""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
