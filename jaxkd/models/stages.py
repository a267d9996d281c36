"""What networks of stages have in common: a preactivation after the stem and after each stage, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import jax

from jaxkd.nn.layers import Linear, Preactivation, global_average_pool
from jaxkd.types import Outputs

Map = TypeVar("Map", jax.Array, Preactivation)


def preactivations(stem: Map, stages: Iterable[Iterable[Callable[[Map, bool], Map]]], train: bool) -> list[Map]:
    """Return the stem and what comes out of each stage, when blocks go from one sum to the next.

    Example:
      >>> import jax.numpy as jnp
      >>> double = lambda before, train: Preactivation.of(2 * before.value)
      >>> found = preactivations(Preactivation.of(jnp.float32(1)), [[double], [double, double]], train=False)
      >>> [float(before.value) for before in found]
      [1.0, 2.0, 8.0]
    """
    found = [stem]
    for stage in stages:
        before = found[-1]
        for block in stage:
            before = block(before, train)
        found.append(before)
    return found


def pooled_outputs(before: list[Preactivation], classifier: Linear) -> Outputs:
    """Return the outputs of a network that ends in a ReLU, a pooling and a linear layer."""
    features = [one.relu() for one in before]
    features.append(global_average_pool(features[-1]))
    values = tuple(one.value for one in before)
    return Outputs(classifier(features[-1]), tuple(features), values, classifier.function())
