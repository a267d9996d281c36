"""Curves: quantities over the epochs, and one value over another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxkd.history import is_share
from jaxkd.plots.canvas import GREY, Target, axes_of, checked, finish, look_of, set_nice_ticks
from jaxkd.spread import Measured, mean_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Runs = Measured | Sequence[Measured]
"""A history, or those of several seeds."""

Style = Literal["lines", "points", "both", "steps"]


def learning_curves(
    runs: Mapping[str, Runs],
    target: Target,
    quantity: str = "val_accuracy",
    title: str = "",
    label: str = "",
) -> None:
    """Draw a quantity over the epochs, one curve per name: the mean of its runs, with a band of one deviation.

    Args:
      runs: for each name in the legend, a history or several (one per seed).
      target: axes to draw into, or the picture file to write.
      quantity: a name in the histories; accuracies are shown in percent.
      title: above the axes.
      label: of the vertical axis; by default the quantity's name in words.

    Raises:
      ImportError: without matplotlib.
      ValueError: for no runs.
      KeyError: for a quantity that a run did not measure.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from jaxkd import History
      >>> history = History.from_dict({"epoch": [0, 1], "history": {"val_accuracy": [0.25, 0.5]}})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     learning_curves({"KD": history}, Path(folder) / "curves.png")
    """
    scale = 100.0 if is_share(quantity) else 1.0
    axes, made = axes_of(target)
    # Curves that are already there keep their colours.
    for number, (name, histories) in enumerate(checked(runs).items(), start=_drawn(axes)):
        members = list(histories) if isinstance(histories, Iterable) else [histories]
        if not members:
            raise ValueError(f"{name!r} is a name without runs: leave it out")
        for run in members:
            run.last(quantity)  # raises, naming what there is, if it was never measured
        curve = mean_curve(members, quantity)
        mean = scale * curve.mean
        colour, line, _ = look_of(number)
        axes.plot(curve.epochs, mean, color=colour, linestyle=line, label=name)
        if curve.deviation is not None:
            spread = scale * curve.deviation
            axes.fill_between(curve.epochs, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("epoch")
    set_nice_ticks(axes.xaxis, integer=True)
    axes.set_ylabel(label or _words(quantity))
    finish(axes, made, target, title, legend=True)


def temperatures(runs: Mapping[str, Runs], target: Target, quantity: str = "kd_temperature", title: str = "") -> None:
    """Draw the temperature that a curriculum learned, over the epochs, with the arguments of `learning_curves`.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from jaxkd import History
      >>> history = History.from_dict({"epoch": [0, 1], "history": {"kd_temperature": [15.6, 14.9]}})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     temperatures({"CTKD": history}, Path(folder) / "temperature.png")
    """
    learning_curves(runs, target, quantity, title, label="learned temperature")


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
    """Draw one value over another, a curve per name.

    Args:
      named: for each name, x `[P]` and y `[P]`; the curve has a gap where y is NaN.
      target: axes to draw into, or the picture file to write.
      labels: of the horizontal and the vertical axis.
      title: above the axes.
      style: join the points, mark them, both, or join them by steps, each y reaching to the next x.
      deviations: for some of the names, how far y varies on both sides, `[P]`.
      logarithmic: whether to make the horizontal axis logarithmic.
      diagonal: whether to draw y = x, in grey.
      legend: whether to show the names.

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
    for number, (name, (x, y)) in enumerate(checked(named).items(), start=_drawn(axes)):
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


def _drawn(axes: Axes) -> int:
    """Return how many curves are there, without the unnamed lines of their error bars."""
    return sum(not str(line.get_label()).startswith("_") for line in axes.get_lines())


def _look(number: int, style: Style) -> dict[str, Any]:
    """Return the style of a curve by its number: a colour, and a line or marker for those who do not see it."""
    colour, line, marker = look_of(number)
    return {
        "color": colour,
        "linestyle": line if style != "points" else "",
        "marker": marker if style in ("points", "both") else "",
        "markersize": 5,
        "drawstyle": "steps-post" if style == "steps" else "default",
    }


def _make_logarithmic(axes: Axes) -> None:
    """Make the horizontal axis logarithmic with plain numbers: 1, 2, 5, 10, …"""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")


def _words(quantity: str) -> str:
    """Return a quantity of the logs as the label of an axis.

    Example:
      >>> _words("val_accuracy"), _words("kd_temperature")
      ('test accuracy (%)', 'kd temperature')
    """
    words = quantity.replace("val_", "test ").replace("_", " ")
    return f"{words} (%)" if is_share(quantity) else words
