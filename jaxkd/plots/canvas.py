"""Where pictures are drawn: the figure and its axes, what all of them share, and the file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from jaxkd.formats.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Target: TypeAlias = "Axes | str | os.PathLike[str]"
"""Axes to draw into, or the picture file to write."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette (2008), told apart with every common form of colour blindness."""

STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
"""Of lines, so that they differ in a print without colours too."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Of points, likewise."""

GREY = "#555555"
"""Of what things are compared with: a teacher's accuracy, a diagonal."""

_INSIDE = 6
"""So many names have room amid the curves."""

_Named = TypeVar("_Named", bound=Mapping)


def look_of(number: int) -> tuple[str, Any, str]:
    """Colour, line and marker of a curve by its number: the next seven have other lines and markers in each colour.

    Example:
      >>> look_of(0), look_of(7)
      (('#0072B2', '-', 'o'), ('#0072B2', '--', 's'))
    """
    turn = number + number // len(COLOURS)
    return COLOURS[number % len(COLOURS)], STYLES[turn % len(STYLES)], MARKERS[turn % len(MARKERS)]


def canvas(columns: int = 1, width: float = 5.6, height: float = 3.8, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with axes side by side, whose parts make room for each other; `width` and `height` of one, in inches.

    Of several rows, the axes come row by row.

    Raises:
      ImportError: without matplotlib.

    Example:
      >>> made, (left, right) = canvas(columns=2)
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "jaxkd[demo]"') from error
    # A Figure of its own, not pyplot's: no window system, and nothing that another picture could change.
    room = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.04)
    made = Figure(figsize=(columns * width, rows * height), layout=room, facecolor="white")
    return made, list(made.subplots(rows, columns, squeeze=False).ravel())


def available() -> bool:
    """Whether matplotlib is installed, for scripts whose pictures are optional."""
    try:
        canvas()
    except ImportError:
        return False
    return True


def save(made: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure, in the format its suffix names; folders are made, and the file is complete or not there."""
    from matplotlib import rc_context

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file, rc_context({"pdf.fonttype": 42}):  # letters as TrueType: conferences ask for it
        made.savefig(file, format=path.suffix.removeprefix(".") or None, dpi=100)


def axes_of(target: Target) -> tuple[Axes, Figure | None]:
    """The axes to draw into, and the figure to save where the target is a file."""
    if isinstance(target, str | os.PathLike):
        made, (axes,) = canvas()
        return axes, made
    return target, None


def finish(
    axes: Axes, made: Figure | None, target: Target, title: str = "", legend: bool = False, across: bool = False
) -> None:
    """What all diagrams end with: a light grid, no box, title and legend; then the file, where there is one.

    The lines of the grid help to read off heights, or lengths where bars go `across`.
    """
    axes.grid(True, axis="x" if across else "y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        many = len(axes.get_legend_handles_labels()[1]) > _INSIDE
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if many else {}
        axes.legend(frameon=False, fontsize="small", **place)
    finish_picture(axes, made, target, title)


def finish_picture(axes: Axes, made: Figure | None, target: Target, title: str = "") -> None:
    """The same for maps, which have neither a grid nor a legend."""
    if title:
        axes.set_title(title, fontsize="medium")
    if made is not None and isinstance(target, str | os.PathLike):
        save(made, target)


def checked(named: _Named) -> _Named:
    """What was given, if there is anything.

    Raises:
      ValueError: otherwise.
    """
    if not named:
        raise ValueError("nothing to draw: give at least one name with its runs")
    return named


def deviation(values: np.ndarray) -> np.ndarray:
    """The sample standard deviation over runs, the first axis; 0 for a single one."""
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])
