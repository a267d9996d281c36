"""Pure functions that losses are made of: divergences of logits, standardisation, lengths of vectors.

A divergence of a prediction from a target takes the target first, in the order of its formula: KL(p ‖ q) is
`kl_divergence(p, q)`. All other functions of two networks take the student before the teacher.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.types import at_least_float32

_TINY = 1e-12
"""Shorter vectors count as zero: their direction is noise, and the slope of their length would overflow."""


def kl_divergence(teacher_logits: jax.Array, student_logits: jax.Array) -> jax.Array:
    """Return the Kullback-Leibler divergence KL(softmax(teacher) ‖ softmax(student)) of each example.

    Args:
      teacher_logits: `[B, K]`, the target.
      student_logits: `[B, K]`.

    Returns:
      `[B]`, in nats.

    Example:
      >>> kl_divergence(jnp.zeros((1, 2)), jnp.zeros((1, 2))).tolist()
      [0.0]
    """
    target = jax.nn.log_softmax(teacher_logits)
    return jnp.sum(jnp.exp(target) * (target - jax.nn.log_softmax(student_logits)), axis=-1)


def soft_cross_entropy(teacher_logits: jax.Array, student_logits: jax.Array) -> jax.Array:
    """Return the cross-entropy −Σ softmax(teacher) · log softmax(student) of each example.

    Args:
      teacher_logits: `[B, K]`, the target.
      student_logits: `[B, K]`.

    Returns:
      `[B]`, in nats.

    Example:
      >>> round(float(soft_cross_entropy(jnp.zeros((1, 4)), jnp.zeros((1, 4)))[0]), 4)
      1.3863
    """
    return -jnp.sum(jax.nn.softmax(teacher_logits) * jax.nn.log_softmax(student_logits), axis=-1)


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Return the cross-entropy −log softmax(logits)[label] of each example.

    Args:
      logits: `[B, K]`.
      labels: `[B]` class indices.
      label_smoothing: ε; the target is 1 − ε for the label and ε / K more for every class.

    Returns:
      `[B]`, in nats.

    Example:
      >>> round(float(cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0]), 4)
      1.3863
    """
    log_probabilities = jax.nn.log_softmax(at_least_float32(logits))
    of_label = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    if not label_smoothing:
        return of_label
    return (1 - label_smoothing) * of_label - label_smoothing * jnp.mean(log_probabilities, axis=-1)


def standardize(logits: jax.Array, epsilon: float = 1e-7) -> jax.Array:
    """Return (z − mean) / (ε + std) over the classes of each example, with the unbiased deviation (Sun et al. 2024).

    It frees the student from matching the range of the teacher's logits. It goes before any temperature.

    Args:
      logits: `[B, K]` with K ≥ 2.
      epsilon: ε.

    Returns:
      `[B, K]`.

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


def length(vectors: jax.Array, axis: int = -1, keepdims: bool = False) -> jax.Array:
    """Return the Euclidean length along an axis; a zero vector has length 0 and gradient 0.

    Args:
      vectors: of any shape.
      axis: the axis of the vectors' components.
      keepdims: whether this axis stays, with size 1.

    Returns:
      The shape of the vectors without the axis.

    Example:
      >>> length(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
      [5.0, 0.0]
    """
    squared = jnp.sum(jnp.square(vectors), axis, keepdims=keepdims)
    present = squared > _TINY**2
    return jnp.where(present, jnp.sqrt(jnp.where(present, squared, 1.0)), 0.0)


def unit(vectors: jax.Array, axis: int = -1) -> jax.Array:
    """Return the vectors divided by their length; a zero vector stays zero, with gradient 0.

    Args:
      vectors: of any shape.
      axis: the axis of the vectors' components.

    Returns:
      The shape of the vectors.

    Example:
      >>> unit(jnp.array([[0.0, 4.0], [0.0, 0.0]])).tolist()
      [[0.0, 1.0], [0.0, 0.0]]
    """
    own = length(vectors, axis, keepdims=True)
    present = own > 0
    return jnp.where(present, vectors / jnp.where(present, own, 1.0), 0.0)
