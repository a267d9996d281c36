"""Axes: the range of some values and round ticks on it, for pictures by matplotlib and for SVG charts alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable


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

    def position(self, value: float) -> float:
        """Return where a value lies between the ends of the axis, from 0 to 1."""
        low, high, at = (math.log10(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return (at - low) / (high - low)


def linear(
    values: Iterable[float], count: int = 5, margin: float = 0.04, within: tuple[float, float] | None = None
) -> Scale:
    """Make an axis for some values, a little longer than their range.

    Args:
      values: at least one; what is not finite is left out.
      count: about how many ticks to have.
      margin: on both sides, as a part of the range.
      within: bounds of the axis, as percentages do not leave 0 to 100.

    Example:
      >>> linear([1.0, 9.0], margin=0.0)
      Scale(low=1.0, high=9.0, ticks=(2.0, 4.0, 6.0, 8.0), logarithmic=False)
    """
    low, high = _range(values)
    extra = margin * (high - low)
    low, high = low - extra, high + extra
    if within is not None and within[0] < high and low < within[1]:  # a metric of the user's may be no part of 1
        low, high = max(low, within[0]), min(high, within[1])
    return Scale(low, high, nice_ticks(low, high, count))


def logarithmic(values: Iterable[float]) -> Scale:
    """Make an axis for values above 0 that span orders of magnitude, with ticks at powers of ten.

    Example:
      >>> logarithmic([0.05, 0.0005]).ticks
      (0.0001, 0.001, 0.01, 0.1)
    """
    low, high = _range(values)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = max(1, round((last - first) / 5))
    return Scale(10.0**first, 10.0**last, tuple(10.0**power for power in range(first, last + 1, step)), True)


def integers(first: int, last: int, count: int = 6) -> Scale:
    """Make an axis of whole numbers that ends with them, as the epochs do.

    Example:
      >>> integers(1, 30).ticks
      (5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
      >>> integers(1, 3).ticks
      (1.0, 2.0, 3.0)
    """
    if first == last:
        return Scale(first - 0.5, last + 0.5, (float(first),))
    return Scale(float(first), float(last), nice_ticks(first, last, count, integer=True))


def nice_ticks(low: float, high: float, count: int = 5, integer: bool = False) -> tuple[float, ...]:
    """Return multiples of 1, 2 or 5 times a power of ten between two values, about `count` of them.

    Args:
      low: the lower end.
      high: the upper end, above it.
      count: about how many.
      integer: whether to leave out what is no whole number.

    Example:
      >>> nice_ticks(69.2, 73.1)
      (70.0, 71.0, 72.0, 73.0)
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.7 * raw)
    multiples = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ticks = (float(f"{multiple * step:.12g}") for multiple in multiples)
    return tuple(tick for tick in ticks if not integer or tick == int(tick))


def _range(values: Iterable[float]) -> tuple[float, float]:
    finite = [float(value) for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):
        margin = 0.05 * abs(low) or 1.0
        return low - margin, high + margin
    return low, high
