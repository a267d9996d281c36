"""One point for each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxkd.plots.canvas import GREY, Target, axes_of, checked, finish, look_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend


def scatter(
    named: Mapping[str, tuple[ArrayLike, ArrayLike]],
    target: Target,
    labels: tuple[str, str] = ("", ""),
    title: str = "",
) -> None:
    """Points of several kinds, with the diagonal on which both values are equal.

    Args:
      named: for each name, x `[N]` and y `[N]`, in the same unit.
      target: axes to draw into, or the picture file to write.
      labels: of the horizontal and the vertical axis.
      title: above the axes.

    Raises:
      ImportError: without matplotlib.
      ValueError: for nothing to draw.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     scatter({"KD": ([1.0, 2.0], [1.1, 1.9])}, Path(folder) / "s.png", ("teacher", "student"))
    """
    axes, made = axes_of(target)
    for number, (name, (x, y)) in enumerate(checked(named).items()):
        colour, _, marker = look_of(number)
        axes.scatter(
            np.asarray(x, float), np.asarray(y, float), s=9, alpha=0.45, linewidths=0, color=colour, marker=marker,
            label=name,
        )  # fmt: skip
    axes.axline(_centre(named), slope=1, color=GREY, linewidth=1, linestyle=":", label="equal")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    for handle in _legend(axes).legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)
    finish(axes, made, target, title)


def _legend(axes: Axes) -> Legend:
    """On white, because there may be points anywhere below it."""
    return axes.legend(fontsize="small", markerscale=2, framealpha=0.85, edgecolor="none")


def _centre(named: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> tuple[float, float]:
    """A point of the diagonal that lies amid the points, so that it does not stretch the axes."""
    middle = float(np.median(np.concatenate([np.asarray(x, float) for x, _ in named.values()])))
    return middle, middle
