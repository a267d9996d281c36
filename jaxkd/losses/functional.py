"""Pure functions that losses are made of: divergences of logits, standardisation, lengths of vectors.

A divergence of a prediction from a target takes the target first, in the order of its formula: KL(p ‖ q) is
`kl_divergence(p, q)`. All other functions of two networks take the student before the teacher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    # Equal logits must give a zero gradient, where the root's would be NaN and that of a division by ε, ten million.
    flat = variance == 0
    return jnp.where(flat, 0.0, centred / (epsilon + jnp.sqrt(jnp.where(flat, 1.0, variance))))


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


# The gradient of `tempered_kl` for the temperature: the derivative by T has a part from T² and parts from both
# softmaxes, which cancel. At T = 15 what remains is a thousandth of either or less, and autodiff in float32 leaves it
# wrong by percents; a learned temperature has no other gradient. Here the parts are combined on paper, in the small
# quantity a = (teacher − student) / T, centred under p = softmax(teacher / T), so that what cancels is never computed.
# With u the teacher's logits, centred likewise, and E the mean under p,
#
#     d/dT T²·KL = (T · (E[s] + 2h + E[a·r]) − E[u·a]·m − E[u·r]) / (1 + m)
#
# where r = e⁻ᵃ − 1 + a, s = 2r − a², m = E[r] and h = (1 + m)·log(1 + m) − m.

FAR = 8.0
"""The largest |a| for which the combined form is taken."""

Triple = tuple[jax.Array, jax.Array, jax.Array]


@jax.custom_vjp
def tempered_kl(student: jax.Array, teacher: jax.Array, temperature: jax.Array) -> jax.Array:
    """Return T² · KL(softmax(teacher / T) ‖ softmax(student / T)) of each example.

    Its gradient for the temperature is exact in float32, also where the networks nearly agree.

    Args:
      student: `[B, K]` logits, not yet divided.
      teacher: `[B, K]` likewise.
      temperature: T, a scalar or one for each example `[B]`.

    Returns:
      `[B]`.

    Example:
      >>> student, teacher = jnp.array([[1.0, 0.0]]), jnp.array([[3.0, 0.0]])
      >>> round(float(tempered_kl(student, teacher, jnp.float32(4.0))[0]), 4)
      0.4585
    """
    columns = _column(temperature)
    return jnp.square(temperature) * kl_divergence(teacher / columns, student / columns)


def _forward(student: jax.Array, teacher: jax.Array, temperature: jax.Array) -> tuple[jax.Array, Triple]:
    return tempered_kl(student, teacher, temperature), (student, teacher, temperature)


def _backward(saved: Triple, cotangent: jax.Array) -> Triple:
    student, teacher, temperature = saved
    scale = _column(temperature)
    log_p, log_q = jax.nn.log_softmax(teacher / scale), jax.nn.log_softmax(student / scale)
    p, weight = jnp.exp(log_p), scale * cotangent[:, None]
    ratio = log_p - log_q
    kl = jnp.sum(p * ratio, -1)
    to_teacher = weight * p * (ratio - kl[:, None])
    to_student = weight * (jnp.exp(log_q) - p)
    to_temperature = cotangent * _by_temperature(student, teacher, scale, p, kl)
    return to_student, to_teacher, to_temperature if jnp.ndim(temperature) else jnp.sum(to_temperature)


tempered_kl.defvjp(_forward, _backward)


def _by_temperature(student: jax.Array, teacher: jax.Array, scale: jax.Array, p: jax.Array, kl: jax.Array) -> jax.Array:
    """Return d/dT of each example."""

    def mean(values: jax.Array) -> jax.Array:
        return jnp.sum(p * values, -1, keepdims=True)

    a = (teacher - student) / scale
    a, u = a - mean(a), teacher - mean(teacher)
    # Far apart nothing cancels, and e⁻ᵃ could overflow: there the sum of the parts is taken as it is.
    near = jnp.max(jnp.abs(a), -1, keepdims=True) < FAR
    q = jax.nn.softmax(student / scale)
    parts = 2.0 * scale * kl[:, None] - mean(u * a) + jnp.sum((p - q) * student, -1, keepdims=True)

    a = jnp.where(near, a, 0.0)
    r, s = _second_order(a), _third_order(a)
    m = mean(r)
    combined = scale * (mean(s) + 2.0 * _log_remainder(m) + mean(a * r)) - mean(u * a) * m - mean(u * r)
    return jnp.where(near, combined / (1.0 + m), parts)[:, 0]


def _second_order(a: jax.Array) -> jax.Array:
    """Return e⁻ᵃ − 1 + a."""
    small = jnp.abs(a) < 0.5
    x = jnp.where(small, a, 0.0)
    series = x * x * _series(x, [(-1) ** n / math.factorial(n + 2) for n in range(12)])
    return jnp.where(small, series, jnp.expm1(-a) + a)


def _third_order(a: jax.Array) -> jax.Array:
    """Return 2 · (e⁻ᵃ − 1 + a) − a²."""
    small = jnp.abs(a) < 0.5
    x = jnp.where(small, a, 0.0)
    series = x * x * x * _series(x, [2 * (-1) ** (n + 1) / math.factorial(n + 3) for n in range(12)])
    return jnp.where(small, series, 2.0 * (jnp.expm1(-a) + a) - a * a)


def _log_remainder(m: jax.Array) -> jax.Array:
    """Return (1 + m) · log(1 + m) − m, for m ≥ 0."""
    small = m < 0.1
    x = jnp.where(small, m, 0.0)
    series = x * x * _series(x, [(-1) ** n / ((n + 1) * (n + 2)) for n in range(14)])
    return jnp.where(small, series, (1.0 + m) * jnp.log1p(m) - m)


def _series(x: jax.Array, coefficients: Sequence[float]) -> jax.Array:
    total = jnp.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total


def _column(temperature: jax.Array) -> jax.Array:
    return temperature[:, None] if jnp.ndim(temperature) else temperature
