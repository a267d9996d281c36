"""What was measured while training, over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxkd.history import History
from jaxkd.plots.canvas import Target, axes_of, checked, deviation, finish, look_of

Runs = History | Sequence[History]

_PERCENT = ("accuracy", "top1", "top5")


def learning_curves(
    runs: Mapping[str, Runs],
    target: Target,
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
      >>> from pathlib import Path
      >>> history = History.from_dict({"epoch": [0, 1], "history": {"val_accuracy": [0.25, 0.5]}})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     learning_curves({"KD": history}, Path(folder) / "curves.png")
    """
    scale = 100.0 if quantity.endswith(_PERCENT) else 1.0
    axes, made = axes_of(target)
    # Curves that are already there keep their colours.
    for number, (name, histories) in enumerate(checked(runs).items(), start=len(axes.get_lines())):
        epochs, values = _measured(histories, quantity)
        mean, spread = scale * values.mean(0), scale * deviation(values)
        colour, line, _ = look_of(number)
        axes.plot(epochs, mean, color=colour, linestyle=line, label=name)
        if len(values) > 1:
            axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel(label or _words(quantity))
    finish(axes, made, target, title, legend=True)


def temperatures(runs: Mapping[str, Runs], target: Target, quantity: str = "kd_temperature", title: str = "") -> None:
    """The temperature that a curriculum learned, over the epochs; the arguments are those of `learning_curves`.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> history = History.from_dict({"epoch": [0, 1], "history": {"kd_temperature": [15.6, 14.9]}})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     temperatures({"CTKD": history}, Path(folder) / "temperature.png")
    """
    learning_curves(runs, target, quantity, title, label="learned temperature")


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


def _words(quantity: str) -> str:
    """A quantity of the logs as the label of an axis.

    Example:
      >>> _words("val_accuracy"), _words("kd_temperature")
      ('test accuracy (%)', 'kd temperature')
    """
    words = quantity.replace("val_", "test ").replace("_", " ")
    return f"{words} (%)" if quantity.endswith(_PERCENT) else words
