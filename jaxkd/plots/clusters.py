"""Points in the plane by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxkd.plots.canvas import COLOURS, MARKERS, Target, axes_of, finish_picture


def clusters(
    points: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    target: Target,
    title: str = "",
    embedding: str = "t-SNE",
) -> None:
    """Points in the plane, a colour and a marker for each class, the class's name at its median.

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
        axes.scatter(
            own[:, 0], own[:, 1], s=10, alpha=0.6, linewidths=0, color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number // len(COLOURS) % len(MARKERS)],
        )  # fmt: skip
        name, middle = class_names[label].replace("_", " "), np.median(own, axis=0)
        frame = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
        axes.annotate(name, tuple(middle), ha="center", va="center", fontsize="small", bbox=frame)
    axes.margins(0.12)  # room for names at the rim
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"{embedding}, first dimension")
    axes.set_ylabel(f"{embedding}, second dimension")
    finish_picture(axes, made, target, title)
