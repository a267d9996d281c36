"""Parts of a whole as stacked bars."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxkd.plots.canvas import Target, axes_of, checked, finish

# Okabe and Ito's, some of them lightened: neighbours differ in a print without colours too.
_PARTS = ("#0072B2", "#9AD4F5", "#F7EE8A", "#E69F00", "#D55E00", "#000000")
_DARK = (_PARTS[0], _PARTS[5])


def stacked_bars(named: Mapping[str, Mapping[str, float]], target: Target, label: str = "", title: str = "") -> None:
    """One horizontal bar per name, made of parts with the same names in all.

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
                colour_of_text = "white" if colour in _DARK else "black"
                axes.text(start + size / 2, place, f"{size:.1f}", ha="center", va="center", fontsize="small",
                          color=colour_of_text)  # fmt: skip
        left += width
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, max(100.0, float(left.max())))
    axes.set_xlabel(f"{label} (%)")
    # Below the label of the axis, whatever the height of the bars.
    axes.legend(frameon=False, fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=5)
    finish(axes, made, target, title, across=True)
