"""A quantity over several runs: its mean and deviation, as one value or epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class Spread(NamedTuple):
    """Some values of one quantity, a value per seed. A format writes mean and deviation.

    Attributes:
      values: all of them.

    Example:
      >>> print(f"{Spread((91.0, 93.0)):.1f}, {Spread((90.0,)):.2f}")
      92.0 ± 1.4, 90.00
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float | None:
        """The sample deviation; None for a single value."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    def __format__(self, form: str) -> str:
        deviation = self.deviation
        return f"{self.mean:{form}}" + ("" if deviation is None else f" ± {deviation:{form.lstrip('0123456789')}}")


class Measured(Protocol):
    """What measured quantities epoch by epoch, such as a `History`."""

    def measured(self, name: str) -> dict[int, float]:
        """Return the values of a quantity by their epochs, counted from 1; empty where it was never measured."""

    def last(self, name: str) -> float:
        """Return the latest value; raise KeyError for a quantity that was never measured."""


class Curve(NamedTuple):
    """A quantity over the epochs, averaged over runs.

    Attributes:
      epochs: `[E]`, counted from 1: those at which all runs measured it.
      mean: `[E]` over the runs.
      deviation: `[E]`, the sample deviation; None for a single run.
    """

    epochs: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64] | None

    def after(self, epoch: int) -> Curve:
        """Return the part of the curve that comes after an epoch."""
        late = self.epochs > epoch
        return Curve(self.epochs[late], self.mean[late], None if self.deviation is None else self.deviation[late])

    def until(self, epoch: int) -> Curve:
        """Return the part of the curve up to an epoch, with it."""
        early = self.epochs <= epoch
        return Curve(self.epochs[early], self.mean[early], None if self.deviation is None else self.deviation[early])


def mean_curve(runs: Iterable[Measured], name: str) -> Curve:
    """Average a quantity over runs, epoch by epoch.

    Args:
      runs: at least one that measured it; the others are left out.
      name: the quantity.

    Returns:
      A curve of the epochs at which all of these runs measured it; it may be empty.

    Example:
      >>> from jaxkd import History
      >>> losses = ([4.0, 2.0], [2.0, 2.0])
      >>> runs = [History.from_dict({"epoch": [0, 1], "history": {"loss": values}}) for values in losses]
      >>> mean_curve(runs, "loss").mean.tolist()
      [3.0, 2.0]
    """
    tables = [table for run in runs if (table := run.measured(name))]
    epochs = sorted(set.intersection(*map(set, tables))) if tables else []
    values = np.array([[table[epoch] for epoch in epochs] for table in tables or [{}]], float)
    return Curve(np.array(epochs, int), values.mean(0), values.std(0, ddof=1) if len(values) > 1 else None)
