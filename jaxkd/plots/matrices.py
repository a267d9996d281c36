"""Large matrices side by side, on one scale of colours."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from jaxkd.plots.canvas import canvas, checked, save


def matrices(
    named: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    labels: tuple[str, str, str] = ("", "", ""),
    title: str = "",
) -> None:
    """Square matrices as heat maps without numbers, the same colour for the same value in all; NaN stays white.

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
