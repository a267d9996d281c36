"""Pictures of runs: learning curves, learned temperatures, methods side by side.

Each function draws what it is given into the axes or the file it is given, and touches no global state. They need
matplotlib, which is imported only here and only when something is drawn: `pip install "jaxkd[demo]"`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxkd.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Runs = History | Sequence[History]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette (2008), told apart with every common form of colour blindness."""

_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
_PERCENT = ("accuracy", "top1", "top5")


def learning_curves(
    runs: Mapping[str, Runs],
    target: Axes | str | os.PathLike[str],
    quantity: str = "val_accuracy",
    title: str = "",
    label: str = "",
) -> None:
    """A quantity over the epochs, one curve per name; of several runs the mean, with a band of one deviation.

    Args:
      runs: for each name in the legend, a history or several (one per seed).
      target: axes to draw into, or the picture file to write.
      quantity: a name in the histories; accuracies are shown in percent.
      title: above the axes.
      label: of the vertical axis; by default the quantity's name in words.

    Raises:
      ImportError: without matplotlib.
      ValueError: for no runs.
      KeyError: for a quantity that a run did not measure.

    Example:
      >>> import tempfile
      >>> history = History.from_dict({"epoch": [0, 1], "history": {"val_accuracy": [0.25, 0.5]}})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     learning_curves({"KD": history}, Path(folder) / "curves.png")
    """
    scale = 100.0 if quantity.endswith(_PERCENT) else 1.0
    axes, made = _axes_of(target)
    # Curves that are already there keep their colours.
    for number, (name, histories) in enumerate(_checked(runs).items(), start=len(axes.get_lines())):
        epochs, values = _measured(histories, quantity)
        mean, deviation = scale * values.mean(0), scale * _deviation(values)
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(epochs, mean, color=colour, linestyle=_STYLES[number % len(_STYLES)], label=name)
        if len(values) > 1:
            axes.fill_between(epochs, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel(label or _words(quantity))
    _finish(axes, made, target, title, legend=True)


def temperatures(
    runs: Mapping[str, Runs], target: Axes | str | os.PathLike[str], quantity: str = "kd_temperature", title: str = ""
) -> None:
    """The temperature that a curriculum learned, over the epochs; the arguments are those of `learning_curves`.

    Example:
      >>> import tempfile
      >>> history = History.from_dict({"epoch": [0, 1], "history": {"kd_temperature": [15.6, 14.9]}})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     temperatures({"CTKD": history}, Path(folder) / "temperature.png")
    """
    learning_curves(runs, target, quantity, title, label="learned temperature")


def comparison(
    groups: Mapping[str, Sequence[float]],
    target: Axes | str | os.PathLike[str],
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
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     comparison({"alone": [0.84, 0.85], "KD": [0.93]}, Path(folder) / "c.png", reference={"teacher": 0.98})
    """
    axes, made = _axes_of(target)
    for place, (name, given) in enumerate(_checked(groups).items()):
        values = 100.0 * np.asarray(given, float)
        if not values.size:
            raise ValueError(f"{name!r} has no runs: leave it out")
        colour, mean = COLOURS[place % len(COLOURS)], values.mean()
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(place + spread, values, "o", color=colour, alpha=0.6, markeredgewidth=0)
        axes.errorbar(place, mean, yerr=_deviation(values), color=colour, capsize=5)
        axes.hlines(mean, place - 0.28, place + 0.28, color=colour, linewidth=2)
        axes.annotate(f"{mean:.1f}", (place + 0.3, mean), va="center", fontsize="small")
    for name, value in (reference or {}).items():
        axes.axhline(100.0 * value, color="#555555", linestyle=":", linewidth=1)
        axes.annotate(
            f"{name} {100 * value:.1f}", (-0.4, 100.0 * value), (0, -3), textcoords="offset points", va="top",
            fontsize="small", color="#555555",
        )  # fmt: skip
    axes.set_xticks(range(len(groups)), [name.replace(" ", "\n") for name in groups])
    axes.set_xlim(-0.5, len(groups) - 0.3)
    axes.set_ylabel(f"{label} (%)")
    _finish(axes, made, target, title, legend=False)


def heat_map(
    values: np.ndarray,
    target: Axes | str | os.PathLike[str],
    rows: Sequence[str],
    columns: Sequence[str],
    labels: tuple[str, str, str] = ("", "", ""),
    title: str = "",
) -> None:
    """A table of accuracies as colours, each cell with its number, the best one framed.

    Args:
      values: `[rows, columns]`, accuracies from 0 to 1, shown in percent.
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
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     heat_map(np.array([[0.7, 0.71]]), Path(folder) / "grid.png", rows=["4"], columns=["1", "2"])
    """
    shown = 100.0 * np.asarray(values, float)
    if shown.shape != (len(rows), len(columns)):
        raise ValueError(f"values of shape {shown.shape} for {len(rows)} rows and {len(columns)} columns")
    axes, made = _axes_of(target)
    image = axes.imshow(shown, cmap="viridis", aspect="auto")
    middle = (np.nanmin(shown) + np.nanmax(shown)) / 2
    for row, column in np.ndindex(shown.shape):
        colour = "white" if shown[row, column] < middle else "black"
        axes.text(column, row, f"{shown[row, column]:.2f}", ha="center", va="center", fontsize="small", color=colour)
    best_row, best_column = np.unravel_index(np.nanargmax(shown), shown.shape)
    left, top = float(best_column) - 0.5, float(best_row) - 0.5
    axes.plot([left, left + 1, left + 1, left, left], [top, top, top + 1, top + 1, top], color=COLOURS[1], linewidth=3)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.figure.colorbar(image, ax=axes, label=labels[2])
    if title:
        axes.set_title(title, fontsize="medium")
    if made is not None and isinstance(target, str | os.PathLike):
        save(made, target)


def canvas(columns: int = 1, width: float = 5.6, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    """A figure with axes side by side, whose parts make room for each other; `width` and `height` of one, in inches.

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
    room = ConstrainedLayoutEngine(w_pad=0.08, wspace=0.04)
    made = Figure(figsize=(columns * width, height), layout=room, facecolor="white")
    return made, list(np.atleast_1d(made.subplots(1, columns)))


def available() -> bool:
    """Whether matplotlib is installed, for scripts whose pictures are optional."""
    try:
        canvas()
    except ImportError:
        return False
    return True


def save(made: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure, in the format its suffix names; folders are made, and the file is complete or not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".part-{path.name}")
    made.savefig(unfinished, dpi=100)
    unfinished.replace(path)


def _axes_of(target: Axes | str | os.PathLike[str]) -> tuple[Axes, Figure | None]:
    """The axes to draw into, and the figure to save where the target is a file."""
    if isinstance(target, str | os.PathLike):
        made, (axes,) = canvas()
        return axes, made
    return target, None


def _finish(axes: Axes, made: Figure | None, target: Axes | str | os.PathLike[str], title: str, legend: bool) -> None:
    axes.grid(True, axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title, fontsize="medium")
    if legend:
        axes.legend(frameon=False, fontsize="small")
    if made is not None and isinstance(target, str | os.PathLike):
        save(made, target)


def _checked(named: Mapping) -> Mapping:
    if not named:
        raise ValueError("nothing to draw: give at least one name with its runs")
    return named


def _measured(histories: Runs, quantity: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs counted from 1, `[E]`, that all runs measured, and the values there, `[runs, E]`."""
    runs = [histories] if isinstance(histories, History) else list(histories)
    tables = []
    for run in runs:
        run.last(quantity)  # says what there is, if it was never measured
        pairs = zip(run.epoch, run.history[quantity], strict=True)
        tables.append({epoch + 1: value for epoch, value in pairs if value is not None})
    if not tables:
        raise ValueError("a name without runs: leave it out")
    epochs = sorted(set.intersection(*(set(table) for table in tables)))
    return np.asarray(epochs), np.asarray([[table[epoch] for epoch in epochs] for table in tables], float)


def _deviation(values: np.ndarray) -> np.ndarray:
    """The sample standard deviation over runs, 0 for a single one."""
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def _words(quantity: str) -> str:
    """A quantity of the logs as the label of an axis.

    Example:
      >>> _words("val_accuracy"), _words("kd_temperature")
      ('test accuracy (%)', 'kd temperature')
    """
    words = quantity.replace("val_", "test ").replace("_", " ")
    return f"{words} (%)" if quantity.endswith(_PERCENT) else words
