"""What was reached beside what is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxkd.plots.canvas import COLOURS, GREY, Target, axes_of, checked, finish


def reached(
    rows: Mapping[str, tuple[float | None, Sequence[float]]],
    target: Target,
    label: str = "test accuracy",
    title: str = "",
) -> None:
    """A line for each name: its runs as dots, their mean as a stroke, the published number as an open diamond.

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
      ...     reached({"KD": (70.66, [70.5, 70.9]), "ATS": (None, [71.0])}, Path(folder) / "r.png")
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
