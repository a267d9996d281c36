"""How far one distribution is from another, in log space and float32, one value per example."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.base import at_least_float32


def kl_divergence(teacher_logits: jax.Array, student_logits: jax.Array) -> jax.Array:
    """KL(softmax(teacher) ‖ softmax(student)) of each example, `[B, K], [B, K] -> [B]`.

    Example:
      >>> kl_divergence(jnp.zeros((1, 2)), jnp.zeros((1, 2))).tolist()
      [0.0]
    """
    target = jax.nn.log_softmax(teacher_logits)
    return jnp.sum(jnp.exp(target) * (target - jax.nn.log_softmax(student_logits)), axis=-1)


def soft_cross_entropy(teacher_logits: jax.Array, student_logits: jax.Array) -> jax.Array:
    """−Σ softmax(teacher) · log softmax(student) of each example, `[B, K], [B, K] -> [B]`.

    Example:
      >>> round(float(soft_cross_entropy(jnp.zeros((1, 4)), jnp.zeros((1, 4)))[0]), 4)
      1.3863
    """
    return -jnp.sum(jax.nn.softmax(teacher_logits) * jax.nn.log_softmax(student_logits), axis=-1)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """−log softmax(logits)[label] of each example, `[B, K], [B] -> [B]`.

    Example:
      >>> round(float(cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0]), 4)
      1.3863
    """
    log_probabilities = jax.nn.log_softmax(at_least_float32(logits))
    return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
