"""Maps: tables and matrices as colours, points in the plane."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxkd.plots.canvas import (
    COLOURS,
    GREY,
    MARKERS,
    Target,
    axes_of,
    canvas,
    checked,
    finish,
    finish_picture,
    look_of,
    save,
)


def heat_map(
    values: np.ndarray,
    target: Target,
    rows: Sequence[str],
    columns: Sequence[str],
    labels: tuple[str, str, str] = ("", "", ""),
    title: str = "",
) -> None:
    """Draw a table of accuracies as colours, each cell with its number, the best one framed.

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


def matrices(
    named: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    labels: tuple[str, str, str] = ("", "", ""),
    title: str = "",
) -> None:
    """Draw square matrices as heat maps without numbers, on one scale of colours; NaN stays white.

    Args:
      named: for each name, a matrix `[K, K]` of values of at least 0.
      path: the picture file to write.
      labels: of the horizontal axis, the vertical axis and the colours.
      title: above all.

    Raises:
      ImportError: without matplotlib.
      ValueError: for no matrices.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     matrices({"KD": np.eye(3)}, Path(folder) / "difference.png", ("class", "class", "difference"))
    """
    highest = max(float(np.nanmax(values)) for values in checked(named).values())
    made, places = canvas(columns=len(named), width=3.8, height=3.8)
    for place, (axes, (name, values)) in enumerate(zip(places, named.items(), strict=True)):
        image = axes.imshow(values, cmap="cividis_r", vmin=0.0, vmax=highest, interpolation="nearest")
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel(labels[0])
        if place == 0:
            axes.set_ylabel(labels[1])
    made.colorbar(image, ax=places, label=labels[2], shrink=0.85)
    if title:
        made.suptitle(title, fontsize="medium")
    save(made, path)


def scatter(
    named: Mapping[str, tuple[ArrayLike, ArrayLike]],
    target: Target,
    labels: tuple[str, str] = ("", ""),
    title: str = "",
) -> None:
    """Draw points of several kinds, with the diagonal on which both values are equal.

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
        look: dict[str, Any] = {"s": 9, "alpha": 0.45, "linewidths": 0, "color": colour, "marker": marker}
        axes.scatter(np.asarray(x, float), np.asarray(y, float), label=name, **look)
    # Through a point that lies among the others, so that the line does not stretch the axes.
    centre = float(np.median(np.concatenate([np.asarray(x, float) for x, _ in named.values()])))
    axes.axline((centre, centre), slope=1, color=GREY, linewidth=1, linestyle=":", label="equal")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    # On white, because there may be points anywhere below it.
    legend = axes.legend(fontsize="small", markerscale=2, framealpha=0.85, edgecolor="none")
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)
    finish(axes, made, target, title)


def clusters(
    points: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    target: Target,
    title: str = "",
    embedding: str = "t-SNE",
) -> None:
    """Draw points in the plane, a colour and a marker for each class, the class's name at its median.

    The axes of an embedding have no unit and carry no numbers.

    Args:
      points: `[N, 2]`.
      labels: `[N]`.
      class_names: of all classes; those without points are left out.
      target: axes to draw into, or the picture file to write.
      title: above the axes.
      embedding: what the axes are dimensions of.

    Raises:
      ImportError: without matplotlib.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     clusters(np.eye(2), np.array([0, 1]), ("cat", "dog"), Path(folder) / "c.png")
    """
    axes, made = axes_of(target)
    for number, label in enumerate(np.unique(labels)):
        own = points[labels == label]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
        axes.scatter(own[:, 0], own[:, 1], s=10, alpha=0.6, linewidths=0, color=colour, marker=marker)
        name, middle = class_names[label].replace("_", " "), np.median(own, axis=0)
        frame = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
        axes.annotate(name, tuple(middle), ha="center", va="center", fontsize="small", bbox=frame)
    axes.margins(0.12)  # room for names at the rim
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"{embedding}, first dimension")
    axes.set_ylabel(f"{embedding}, second dimension")
    finish_picture(axes, made, target, title)
