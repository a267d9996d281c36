"""A table of accuracies as colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxkd.plots.canvas import COLOURS, Target, axes_of, finish_picture


def heat_map(
    values: np.ndarray,
    target: Target,
    rows: Sequence[str],
    columns: Sequence[str],
    labels: tuple[str, str, str] = ("", "", ""),
    title: str = "",
) -> None:
    """A table of accuracies as colours, each cell with its number, the best one framed.

    Args:
      values: `[rows, columns]`, accuracies from 0 to 1, shown in percent; NaN for what is not there yet.
      target: axes to draw into, or the picture file to write.
      rows: names of the rows, from the top.
      columns: names of the columns.
      labels: of the horizontal axis, the vertical axis and the colours.
      title: above the axes.

    Raises:
      ImportError: without matplotlib.
      ValueError: for names that are not as many as rows or columns.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     heat_map(np.array([[0.7, 0.71]]), Path(folder) / "grid.png", rows=["4"], columns=["1", "2"])
    """
    shown = 100.0 * np.asarray(values, float)
    if shown.shape != (len(rows), len(columns)):
        raise ValueError(f"values of shape {shown.shape} for {len(rows)} rows and {len(columns)} columns")
    axes, made = axes_of(target)
    image = axes.imshow(shown, cmap="viridis", aspect="auto")
    middle = (np.nanmin(shown) + np.nanmax(shown)) / 2
    for row, column in np.ndindex(shown.shape):
        value = shown[row, column]
        colour, text = "white" if value < middle else "black", "–" if np.isnan(value) else f"{value:.2f}"
        axes.text(column, row, text, ha="center", va="center", fontsize="small", color=colour)
    best_row, best_column = np.unravel_index(np.nanargmax(shown), shown.shape)
    left, top = float(best_column) - 0.5, float(best_row) - 0.5
    axes.plot([left, left + 1, left + 1, left, left], [top, top, top + 1, top + 1, top], color=COLOURS[1], linewidth=3)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.figure.colorbar(image, ax=axes, label=labels[2])
    finish_picture(axes, made, target, title)
