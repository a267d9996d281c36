"""Measurements of training, epoch by epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from jaxkd.tables import html_table, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Mode = Literal["auto", "max", "min"]


class History:
    """One value per quantity and epoch, with the attributes Keras users know; `fit` returns it.

    Every list is as long as `epoch`. `None` stands where a quantity was not measured (validation that runs every few
    epochs, a metric added later), so lists stay aligned; NaN stands only where NaN was measured.

    Attributes:
      epoch: the epochs, counted from 0 as Keras does.
      history: for each quantity, its value in each of these epochs.

    Example:
      >>> record = History()
      >>> record.append(0, {"loss": 2.0})
      >>> record.append(1, {"loss": 1.5, "val_accuracy": 0.6})
      >>> record.history
      {'loss': [2.0, 1.5], 'val_accuracy': [None, 0.6]}
      >>> record.best("loss"), record.last("val_accuracy")
      ((2, 1.5), 0.6)
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float | None]] = {}

    def append(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Record the logs of an epoch, counted from 0.

        Drops the records of this epoch and of later ones first, so that training which resumed from an earlier state
        has each epoch once.
        """
        keep = sum(earlier < epoch for earlier in self.epoch)
        self.epoch = [*self.epoch[:keep], epoch]
        for name in [*self.history, *(name for name in logs if name not in self.history)]:
            values = self.history.get(name, [None] * keep)[:keep]
            self.history[name] = [*values, float(logs[name]) if name in logs else None]

    def last(self, name: str) -> float:
        """Return the latest value measured, NaN included.

        Raises:
          KeyError: for a quantity that was never measured, with those that were.
        """
        return self._measured(name)[-1][1]

    def best(self, name: str, mode: Mode = "auto") -> tuple[int, float]:
        """Return the epoch of the best value, counted from 1, and the value: the earliest of equals, never NaN.

        Args:
          name: the quantity.
          mode: whether `"max"` or `"min"` is best; `"auto"` knows accuracies and losses by name.

        Raises:
          KeyError: for a quantity that was never measured, with those that were.
          ValueError: when `"auto"` cannot tell, or every value is NaN.
        """
        sign = 1.0 if direction(name, mode) == "max" else -1.0
        numbers = [(epoch, value) for epoch, value in self._measured(name) if not math.isnan(value)]
        if not numbers:
            raise ValueError(f"every value of {name!r} is NaN: there is no best one")
        return max(numbers, key=lambda pair: sign * pair[1])

    def to_dict(self) -> dict[str, Any]:
        """Return a copy made of dicts, lists and numbers, for JSON."""
        return {"epoch": list(self.epoch), "history": {name: list(values) for name, values in self.history.items()}}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> History:
        """Return the history that `to_dict` described.

        Raises:
          ValueError: when a list is not as long as `epoch`.

        Example:
          >>> History.from_dict({"epoch": [0], "history": {"loss": [2.0]}}).last("loss")
          2.0
        """
        made = cls()
        made.epoch = [int(epoch) for epoch in record["epoch"]]
        for name, values in record["history"].items():
            if len(values) != len(made.epoch):
                raise ValueError(f"{name!r} has {len(values)} values for {len(made.epoch)} epochs: not a whole history")
            made.history[name] = [None if value is None else float(value) for value in values]
        return made

    def __repr__(self) -> str:
        return f"History({len(self.epoch)} epochs: {', '.join(self.history) or 'nothing yet'})"

    def table(self, latest: int | None = None) -> tuple[list[str], list[list[str]], range]:
        """Return the names of the columns, a row of text for each epoch, and which columns are numbers.

        Args:
          latest: so many epochs at most; all by default.
        """
        shown = range(len(self.epoch))[-latest:] if latest else range(len(self.epoch))
        columns = ["epoch", *self.history]
        rows = [[str(self.epoch[i] + 1), *(number(values[i]) for values in self.history.values())] for i in shown]
        return columns, rows, range(len(columns))

    def _repr_html_(self) -> str:
        """Return a table, a row for each epoch, for notebooks."""
        return html_table(*self.table()) if self.epoch else "History: nothing yet"

    def plot(self, quantities: Sequence[str] | None = None) -> Figure:
        """Draw quantities over the epochs, one beside the other, training and validation in the same axes.

        Args:
          quantities: names without `val_`, which is drawn along; by default loss and accuracy.

        Returns:
          A figure of matplotlib, which notebooks show and whose `savefig` writes it.

        Raises:
          ImportError: without matplotlib.
          KeyError: for a quantity that was never measured, or where there is none yet.

        Example:
          >>> figure = History.from_dict({"epoch": [0, 1], "history": {"loss": [2.0, 1.0]}}).plot()
          >>> [axes.get_ylabel() for axes in figure.axes]
          ['loss']
        """
        from jaxkd import plots

        wanted = [quantities] if isinstance(quantities, str) else quantities
        names = [name for name in ("loss", "accuracy") if name in self.history] if wanted is None else list(wanted)
        if not names:
            raise KeyError(f"nothing to draw; there are: {', '.join(self.history) or 'no records yet'}")
        figure, panels = plots.canvas(columns=len(names), width=4.0, height=3.0)
        for name, axes in zip(names, panels, strict=True):
            plots.learning_curves({"training": self}, axes, name)
            if f"val_{name}" in self.history:
                plots.learning_curves({"validation": self}, axes, f"val_{name}", label=axes.get_ylabel())
        return figure

    def measured(self, name: str) -> dict[int, float]:
        """Return the values of a quantity by their epochs, counted from 1; empty where it was never measured.

        Example:
          >>> History.from_dict({"epoch": [0, 1], "history": {"val_loss": [None, 0.5]}}).measured("val_loss")
          {2: 0.5}
        """
        pairs = zip(self.epoch, self.history.get(name, []), strict=False)
        return {epoch + 1: value for epoch, value in pairs if value is not None}

    def _measured(self, name: str) -> list[tuple[int, float]]:
        measured = list(self.measured(name).items())
        if not measured:
            raise KeyError(
                f"{name!r} was never measured; give one of {', '.join(self.history) or 'those of a trained epoch'}"
            )
        return measured


def is_share(name: str) -> bool:
    """Return whether a quantity is a part of 1, which is shown in percent, by its name in the logs.

    Example:
      >>> is_share("val_accuracy"), is_share("top3"), is_share("loss")
      (True, True, False)
    """
    return re.search(r"(accuracy|hits|(^|_)top\d+)$", name) is not None


def direction(name: str, mode: Mode = "auto") -> Literal["max", "min"]:
    """Return whether high ("max") or low ("min") values of a quantity are good.

    Args:
      name: as in the logs, for example `"val_accuracy"`.
      mode: `"max"` and `"min"` are returned as they are; `"auto"` decides by the name: accuracies and `top…` up,
        losses, errors and cross-entropies down.

    Raises:
      ValueError: for another mode, or a name that does not tell.

    Example:
      >>> direction("val_top5"), direction("loss"), direction("crossentropy")
      ('max', 'min', 'min')
    """
    if mode in ("max", "min"):
        return mode
    if mode != "auto":
        raise ValueError(f"mode is {mode!r}; it must be 'auto', 'max' or 'min'")
    if re.search(r"(^|_)(acc|accuracy|top\d+)(_|$)", name):
        return "max"
    if re.search(r"(^|_)(loss|error|ce|(cross)?entropy)(_|$)", name):
        return "min"
    raise ValueError(f"mode='auto' cannot tell whether high or low {name!r} is good: say mode='max' or mode='min'")
