"""Figures, their axes and files, and the style that all pictures share."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from jaxkd.formats.files import atomic_write
from jaxkd.plots.scale import nice_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Target: TypeAlias = "Axes | str | os.PathLike[str]"
"""Axes to draw into, or the picture file to write."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette (2008), told apart with every common form of colour blindness."""

STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
"""Line styles, so that lines differ in a print without colours too."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Markers of points, likewise."""

GREY = "#555555"
"""Colour of references: a teacher's accuracy, a diagonal."""

_INSIDE = 6  # so many names have room among the curves

_Named = TypeVar("_Named", bound=Mapping[str, Any])


def look_of(number: int) -> tuple[str, Any, str]:
    """Return colour, line style and marker of a curve by its number; every seven, lines and markers change.

    Example:
      >>> look_of(0), look_of(7)
      (('#0072B2', '-', 'o'), ('#0072B2', '--', 's'))
    """
    turn = number + number // len(COLOURS)
    return COLOURS[number % len(COLOURS)], STYLES[turn % len(STYLES)], MARKERS[turn % len(MARKERS)]


def canvas(columns: int = 1, width: float = 5.6, height: float = 3.8, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Make a figure and its axes, row by row; `width` and `height` are those of one, in inches.

    A notebook shows the figure where it is the last line of a cell.

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

    class Picture(Figure):
        def _repr_png_(self) -> bytes:  # for notebooks, which else show figures of pyplot alone
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    # A Figure of its own, not pyplot's: no window system, and nothing that another picture could change.
    room = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.04)
    made = Picture(figsize=(columns * width, rows * height), layout=room, facecolor="white")
    return made, list(made.subplots(rows, columns, squeeze=False).ravel())


def available() -> bool:
    """Return whether matplotlib is installed, for scripts whose pictures are optional."""
    try:
        canvas()
    except ImportError:
        return False
    return True


def save(made: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure in the format its suffix names, completely or not at all; make the folder."""
    from matplotlib import rc_context

    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file, rc_context({"pdf.fonttype": 42}):  # letters as TrueType: conferences ask for it
        made.savefig(file, format=path.suffix.removeprefix(".") or None, dpi=100)


def axes_of(target: Target) -> tuple[Axes, Figure | None]:
    """Return the axes to draw into, and the figure to save where the target is a file."""
    if isinstance(target, str | os.PathLike):
        made, (axes,) = canvas()
        return axes, made
    return target, None


def finish(
    axes: Axes, made: Figure | None, target: Target, title: str = "", legend: bool = False, across: bool = False
) -> None:
    """Add a light grid, round ticks, title and legend, and write the file, where there is one.

    The grid helps to read off heights, or lengths where bars go `across`.
    """
    from matplotlib.ticker import AutoLocator

    for axis in (axes.xaxis, axes.yaxis):
        if isinstance(axis.get_major_locator(), AutoLocator):
            set_nice_ticks(axis)
    axes.grid(True, axis="x" if across else "y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        many = len(axes.get_legend_handles_labels()[1]) > _INSIDE
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if many else {}
        axes.legend(frameon=False, fontsize="small", **place)
    finish_picture(axes, made, target, title)


def finish_picture(axes: Axes, made: Figure | None, target: Target, title: str = "") -> None:
    """Add the title and write the file, as `finish` does, for maps, which have neither a grid nor a legend."""
    if title:
        axes.set_title(title, fontsize="medium")
    if made is not None and isinstance(target, str | os.PathLike):
        save(made, target)


def set_nice_ticks(axis: Axis, integer: bool = False) -> None:
    """Put ticks at multiples of 1, 2 or 5 times a power of ten; whole numbers alone on request."""
    from matplotlib.ticker import Locator

    class NiceTicks(Locator):
        def set_params(self, integer: bool = integer) -> None:
            self._integer = integer

        def tick_values(self, vmin: float, vmax: float) -> Any:
            return np.array(nice_ticks(min(vmin, vmax), max(vmin, vmax), integer=self._integer))

        def __call__(self) -> Any:
            return self.tick_values(*axis.get_view_interval())

    ticks = NiceTicks()
    ticks.set_params(integer)
    axis.set_major_locator(ticks)


def checked(named: _Named) -> _Named:
    """Return what was given, if there is anything.

    Raises:
      ValueError: otherwise.
    """
    if not named:
        raise ValueError("nothing to draw: give at least one name with its runs")
    return named
