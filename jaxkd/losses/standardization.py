"""Logit standardisation (Sun et al., CVPR 2024): every example's logits at mean 0 and deviation 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.base import at_least_float32


def standardize(logits: jax.Array, epsilon: float = 1e-7) -> jax.Array:
    """(z − mean) / (ε + std) over the classes of each example, with the unbiased deviation.

    It frees the student from matching the teacher's logit range, so it goes before any temperature.

    Args:
      logits: `[B, K]` with K ≥ 2.
      epsilon: added to the deviation.

    Example:
      >>> standardize(jnp.array([[1.0, 2.0, 3.0]])).round(4).tolist()
      [[-1.0, 0.0, 1.0]]
    """
    logits = at_least_float32(logits)
    centred = logits - logits.mean(-1, keepdims=True)
    variance = jnp.sum(jnp.square(centred), -1, keepdims=True) / (logits.shape[-1] - 1)
    # The root has no slope at 0: equal logits must give a zero gradient, not a NaN.
    flat = variance == 0
    deviation = jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, variance)))
    return centred / (epsilon + deviation)
