"""Noticing that a learned value has run into a bound, where it no longer teaches anything."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

MARGIN = 0.01
"""How near to a bound counts as being there, as a part of the range."""


class BoundWatch:
    """Follows monitored values through an epoch.

    Args:
      bounds: lowest and highest possible value of each, by its name in the logs.

    Example:
      >>> watch = BoundWatch({"kd_temperature": (1.0, 21.0)})
      >>> watch.add({"kd_temperature": np.array([1.1, 1.05])})
      >>> with warnings.catch_warnings(record=True) as caught:
      ...     warnings.simplefilter("always")
      ...     watch.warn(epoch=7)
      >>> str(caught[0].message).partition(":")[0]
      'kd_temperature stayed at its lower bound, 1, through all of epoch 7'
    """

    def __init__(self, bounds: Mapping[str, tuple[float, float]]):
        self._bounds = bounds
        self._lowest = dict.fromkeys(bounds, np.inf)
        self._highest = dict.fromkeys(bounds, -np.inf)

    def add(self, logs: Mapping[str, np.ndarray]) -> None:
        """Takes the `[S]` values of a chunk of S steps."""
        for name in self._bounds:
            self._lowest[name] = min(self._lowest[name], float(np.min(logs[name])))
            self._highest[name] = max(self._highest[name], float(np.max(logs[name])))

    def to_dict(self) -> dict[str, Any]:
        """What `resume` takes up, as JSON values."""
        return {"lowest": self._lowest, "highest": self._highest}

    def resume(self, record: Mapping[str, Any]) -> None:
        """Goes on from the record of an epoch that was broken off."""
        self._lowest, self._highest = dict(record["lowest"]), dict(record["highest"])

    def warn(self, epoch: int) -> None:
        """Warns of every value that never left a bound in this epoch, counted from 1."""
        for name, (low, high) in self._bounds.items():
            near = MARGIN * (high - low)
            sides = {
                "lower": (self._highest[name] <= low + near, low),
                "upper": (self._lowest[name] >= high - near, high),
            }
            for side, (there, bound) in sides.items():
                if there:
                    warnings.warn(
                        f"{name} stayed at its {side} bound, {bound:g}, through all of epoch {epoch}: it no longer "
                        "adapts. Widen its range, weaken its curriculum or lower the weight of its loss",
                        stacklevel=2,
                    )
