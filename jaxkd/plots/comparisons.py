"""Methods side by side: accuracies of runs, shares of a whole, results beside published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxkd.plots.canvas import COLOURS, GREY, Target, axes_of, checked, finish
from jaxkd.spread import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def comparison(
    groups: Mapping[str, Sequence[float]],
    target: Target,
    reference: Mapping[str, float] | None = None,
    label: str = "test accuracy",
    title: str = "",
) -> None:
    """Draw methods side by side: every run a dot, their mean a bar across, one standard deviation on both sides.

    Args:
      groups: for each name, the accuracy (0 to 1) of each run.
      target: axes to draw into, or the picture file to write.
      reference: horizontal lines by name, such as the teacher's accuracy.
      label: of the vertical axis; the unit, percent, is added.
      title: above the axes.

    Raises:
      ImportError: without matplotlib.
      ValueError: for no groups, or one without runs.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     comparison({"alone": [0.84, 0.85], "KD": [0.93]}, Path(folder) / "c.png", reference={"teacher": 0.98})
    """
    axes, made = axes_of(target)
    for place, (name, given) in enumerate(checked(groups).items()):
        values = 100.0 * np.asarray(given, float)
        if not values.size:
            raise ValueError(f"{name!r} has no runs: leave it out")
        colour, spread = COLOURS[place % len(COLOURS)], Spread(tuple(values))
        mean = spread.mean
        beside = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(place + beside, values, "o", color=colour, alpha=0.6, markeredgewidth=0)
        axes.errorbar(place, mean, yerr=spread.deviation or 0.0, color=colour, capsize=5)
        axes.hlines(mean, place - 0.28, place + 0.28, color=colour, linewidth=2)
        axes.annotate(f"{mean:.1f}", (place + 0.3, mean), va="center", fontsize="small")
    _reference_lines(axes, {name: 100.0 * value for name, value in (reference or {}).items()})
    axes.set_xticks(range(len(groups)), [name.replace(" ", "\n") for name in groups])
    axes.set_xlim(-0.5, len(groups) - 0.3)
    axes.set_ylabel(f"{label} (%)")
    finish(axes, made, target, title)


def _reference_lines(axes: Axes, references: Mapping[str, float]) -> None:
    """Draw dotted horizontal lines, each with name and value at its left end, on the side with more room."""
    for value in references.values():
        axes.axhline(value, color=GREY, linestyle=":", linewidth=1)
    middle = sum(axes.get_ylim()) / 2
    for name, value in references.items():
        above = value < middle
        axes.annotate(
            f"{name} {value:.1f}",
            (0.02, value),
            (0, 3 if above else -3),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            va="bottom" if above else "top",
            fontsize="small",
            color=GREY,
        )


# Okabe and Ito's, some of them lightened: neighbours differ in a print without colours too.
_PARTS = ("#0072B2", "#9AD4F5", "#F7EE8A", "#E69F00", "#D55E00", "#000000")
_DARK = (_PARTS[0], _PARTS[5])


def stacked_bars(named: Mapping[str, Mapping[str, float]], target: Target, label: str = "", title: str = "") -> None:
    """Draw one horizontal bar per name, made of parts that have the same names in all.

    Args:
      named: for each bar, from the top, its parts from 0 to 1 by name, at most six; shown in percent.
      target: axes to draw into, or the picture file to write.
      label: of the horizontal axis; the unit, percent, is added.
      title: above the axes.

    Raises:
      ImportError: without matplotlib.
      ValueError: for no bars.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     stacked_bars({"KD": {"right": 0.7, "wrong": 0.3}}, Path(folder) / "b.png", "test images")
    """
    axes, made = axes_of(target)
    names = list(checked(named))
    left = np.zeros(len(names))
    for part, colour in zip(next(iter(named.values())), _PARTS, strict=False):
        width = 100.0 * np.array([named[name][part] for name in names])
        axes.barh(range(len(names)), width, left=left, color=colour, label=part, edgecolor="white", linewidth=0.8)
        for place, (start, size) in enumerate(zip(left, width, strict=True)):
            if size >= 5:  # narrower ones have no room for a number
                ink, middle = "white" if colour in _DARK else "black", start + size / 2
                axes.text(middle, place, f"{size:.1f}", ha="center", va="center", fontsize="small", color=ink)
        left += width
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, max(100.0, float(left.max())))
    axes.set_xlabel(f"{label} (%)")
    # Below the label of the axis, whatever the height of the bars.
    axes.legend(frameon=False, fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=5)
    finish(axes, made, target, title, across=True)


def published_vs_ours(
    rows: Mapping[str, tuple[float | None, Sequence[float]]],
    target: Target,
    label: str = "test accuracy",
    title: str = "",
) -> None:
    """Draw a line for each name: its runs as dots, their mean as a stroke, the published number as an open diamond.

    Args:
      rows: for each name, the published accuracy in percent (None where there is none) and that of each run.
      target: axes to draw into, or the picture file to write.
      label: of the horizontal axis; the unit, percent, is added.
      title: above the axes.

    Raises:
      ImportError: without matplotlib.
      ValueError: for no rows.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     published_vs_ours({"KD": (70.66, [70.5, 70.9]), "ATS": (None, [71.0])}, Path(folder) / "r.png")
    """
    axes, made = axes_of(target)
    for place, (published, given) in enumerate(checked(rows).values()):
        values = np.asarray(given, float)
        if published is not None:
            axes.plot(published, place, "D", markerfacecolor="none", markeredgecolor=GREY, markersize=8)
        axes.plot(values, np.full(len(values), place), "o", color=COLOURS[0], alpha=0.6, markeredgewidth=0)
        if len(values):
            axes.vlines(values.mean(), place - 0.3, place + 0.3, color=COLOURS[0], linewidth=2)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"{label} (%)")
    compared = any(published is not None for published, _ in rows.values())
    if compared:
        axes.plot([], [], "D", markerfacecolor="none", markeredgecolor=GREY, label="published")
        axes.plot([], [], "o", color=COLOURS[0], label="here")
    finish(axes, made, target, title, legend=compared, across=True)
