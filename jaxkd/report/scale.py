"""From values to places: the range of an axis, and round numbers on it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Scale:
    """One axis.

    Attributes:
      low: the value at its beginning.
      high: the value at its end, above `low`.
      ticks: round values on it.
      logarithmic: whether equal ratios are equally far apart.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value is, from 0 to 1."""
        low, high, at = (math.log10(x) for x in (self.low, self.high, value)) if self.logarithmic else (
            self.low, self.high, value
        )  # fmt: skip
        return (at - low) / (high - low)


def linear(
    values: Iterable[float], count: int = 5, room: float = 0.04, within: tuple[float, float] | None = None
) -> Scale:
    """An axis for some values, a little longer than they reach.

    Args:
      values: at least one; what is not finite is left out.
      count: about so many ticks.
      room: on both sides, as a part of the range.
      within: the axis does not leave these bounds, as percentages do not leave 0 to 100.

    Example:
      >>> linear([1.0, 9.0], room=0.0)
      Scale(low=1.0, high=9.0, ticks=(2.0, 4.0, 6.0, 8.0), logarithmic=False)
    """
    low, high = _range(values)
    margin = room * (high - low)
    low, high = low - margin, high + margin
    if within is not None:
        low, high = max(low, within[0]), min(high, within[1])
    return Scale(low, high, _round_numbers(low, high, count))


def logarithmic(values: Iterable[float]) -> Scale:
    """An axis for values above 0 that span orders of magnitude, its ticks at powers of ten.

    Example:
      >>> logarithmic([0.05, 0.0005]).ticks
      (0.0001, 0.001, 0.01, 0.1)
    """
    low, high = _range(values)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = max(1, round((last - first) / 5))
    return Scale(10.0**first, 10.0**last, tuple(10.0**power for power in range(first, last + 1, step)), True)


def whole(first: int, last: int, count: int = 6) -> Scale:
    """An axis of whole numbers that ends with them, as the epochs do.

    Example:
      >>> whole(1, 30).ticks
      (5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
      >>> whole(1, 3).ticks
      (1.0, 2.0, 3.0)
    """
    if first == last:
        return Scale(first - 0.5, last + 0.5, (float(first),))
    ticks = tuple(tick for tick in _round_numbers(first, last, count) if tick == int(tick))
    return Scale(float(first), float(last), ticks)


def _range(values: Iterable[float]) -> tuple[float, float]:
    finite = [float(value) for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):
        margin = 0.05 * abs(low) or 1.0
        return low - margin, high + margin
    return low, high


def _round_numbers(low: float, high: float, count: int) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten, about `count` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.7 * raw)
    multiples = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return tuple(float(f"{multiple * step:.12g}") for multiple in multiples)
