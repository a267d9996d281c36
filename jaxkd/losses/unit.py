"""Lengths and directions of vectors whose gradients are finite everywhere, also where there is no direction."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_TINY = 1e-12
"""Shorter vectors count as zero: their direction is noise, and the slope of their length would overflow."""


def length(vectors: jax.Array, axis: int = -1, keepdims: bool = False) -> jax.Array:
    """Euclidean length along an axis; a zero vector has length 0 and gradient 0.

    Example:
      >>> length(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
      [5.0, 0.0]
    """
    squared = jnp.sum(jnp.square(vectors), axis, keepdims=keepdims)
    present = squared > _TINY**2
    return jnp.where(present, jnp.sqrt(jnp.where(present, squared, 1.0)), 0.0)


def unit(vectors: jax.Array, axis: int = -1) -> jax.Array:
    """Vectors divided by their length; a zero vector becomes zero, with gradient 0.

    Example:
      >>> unit(jnp.array([[0.0, 4.0], [0.0, 0.0]])).tolist()
      [[0.0, 1.0], [0.0, 0.0]]
    """
    own = length(vectors, axis, keepdims=True)
    present = own > 0
    return jnp.where(present, vectors / jnp.where(present, own, 1.0), 0.0)
