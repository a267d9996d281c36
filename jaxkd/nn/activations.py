"""Activations other than the ReLU, of what a convolution and its BatchNorm, or any layer, put out."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxkd.nn.layers import Preactivation

Activation = Callable[[Preactivation], jax.Array]
"""From what comes before an activation to what comes after it."""


def relu(before: Preactivation) -> jax.Array:
    """Return the positive part, in one pass with what comes before."""
    return before.relu()


def silu(before: Preactivation) -> jax.Array:
    """Return `x · sigmoid(x)`, also called swish (Ramachandran et al. 2017)."""
    return jax.nn.silu(before.value)


def hard_swish(before: Preactivation) -> jax.Array:
    """Return `x · min(max(x + 3, 0), 6) / 6`, which is like `silu` and made of straight pieces (Howard et al. 2019)."""
    return jax.nn.hard_swish(before.value)
