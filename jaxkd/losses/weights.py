"""Loss weights that change over the epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Warmup:
    """A weight that rises linearly and then stays constant; see `warmup`."""

    epochs: int
    weight: float

    def __post_init__(self) -> None:
        if isinstance(self.epochs, bool) or not isinstance(self.epochs, int) or self.epochs < 1:
            raise ValueError(f"epochs={self.epochs!r}: a warm-up takes a whole number of epochs, at least one")
        if not math.isfinite(self.weight):
            raise ValueError(f"weight={self.weight!r}: give a finite number")

    def __call__(self, epoch: jax.Array) -> jax.Array:
        return self.weight * jnp.minimum(jnp.asarray(epoch, jnp.float32) / self.epochs, 1.0)


def warmup(epochs: int = 20, weight: float = 1.0) -> Warmup:
    """Return the function weight · min(epoch / epochs, 1) of the epoch, counted from 1.

    With 20 epochs it is how DKD (Zhao et al., CVPR 2022) starts its term. Equal warm-ups compare equal, so runs that
    use them share one compiled program.

    Args:
      epochs: the length of the rise.
      weight: the weight after it.

    Raises:
      ValueError: for fewer than one epoch, or a weight that is not finite.

    Example:
      >>> [float(warmup(20)(epoch)) for epoch in (1, 10, 20, 100)]
      [0.05000000074505806, 0.5, 1.0, 1.0]
    """
    return Warmup(epochs, weight)
