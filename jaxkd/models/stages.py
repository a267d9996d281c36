"""What networks of stages have in common: a preactivation after the stem and after each stage, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax

from jaxkd.base import Outputs
from jaxkd.models.layers import Linear, global_average_pool

Block = Callable[[jax.Array, bool], jax.Array]


def preactivations(stem: jax.Array, stages: Iterable[Iterable[Block]], train: bool) -> list[jax.Array]:
    """The stem and what comes out of each stage, when blocks go from one sum to the next.

    Example:
      >>> import jax.numpy as jnp
      >>> double = lambda before, train: 2 * before
      >>> [float(before) for before in preactivations(jnp.float32(1), [[double], [double, double]], train=False)]
      [1.0, 2.0, 8.0]
    """
    found = [stem]
    for stage in stages:
        before = found[-1]
        for block in stage:
            before = block(before, train)
        found.append(before)
    return found


def pooled_outputs(before: list[jax.Array], classifier: Linear) -> Outputs:
    """The outputs of a network that ends in a ReLU, a pooling and a linear layer."""
    features = [jax.nn.relu(one) for one in before]
    features.append(global_average_pool(features[-1]))
    return Outputs(classifier(features[-1]), tuple(features), tuple(before), classifier.function())
