"""Methods side by side, every run a dot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxkd.plots.canvas import COLOURS, GREY, Target, axes_of, checked, deviation, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def comparison(
    groups: Mapping[str, Sequence[float]],
    target: Target,
    reference: Mapping[str, float] | None = None,
    label: str = "test accuracy",
    title: str = "",
) -> None:
    """Methods side by side: every run a dot, their mean a bar across, with one standard deviation on both sides.

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
        colour, mean = COLOURS[place % len(COLOURS)], values.mean()
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(place + spread, values, "o", color=colour, alpha=0.6, markeredgewidth=0)
        axes.errorbar(place, mean, yerr=deviation(values), color=colour, capsize=5)
        axes.hlines(mean, place - 0.28, place + 0.28, color=colour, linewidth=2)
        axes.annotate(f"{mean:.1f}", (place + 0.3, mean), va="center", fontsize="small")
    _reference_lines(axes, {name: 100.0 * value for name, value in (reference or {}).items()})
    axes.set_xticks(range(len(groups)), [name.replace(" ", "\n") for name in groups])
    axes.set_xlim(-0.5, len(groups) - 0.3)
    axes.set_ylabel(f"{label} (%)")
    finish(axes, made, target, title)


def _reference_lines(axes: Axes, references: Mapping[str, float]) -> None:
    """Dotted horizontal lines, each with its name and value at its left end, on the side where there is more room."""
    for value in references.values():
        axes.axhline(value, color=GREY, linestyle=":", linewidth=1)
    middle = sum(axes.get_ylim()) / 2
    for name, value in references.items():
        above = value < middle
        axes.annotate(
            f"{name} {value:.1f}", (0.02, value), (0, 3 if above else -3), xycoords=axes.get_yaxis_transform(),
            textcoords="offset points", va="bottom" if above else "top", fontsize="small", color=GREY,
        )  # fmt: skip
