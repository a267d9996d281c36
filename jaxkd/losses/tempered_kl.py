"""T² · KL between two softmaxes at one temperature, with a gradient for the temperature that is exact in float32.

The derivative by T has a part from T² and parts from both softmaxes, which cancel: at T = 15 what remains is a
thousandth of either or less, and autodiff in float32 leaves it wrong by percents. A learned temperature has no other
gradient. Here the parts are combined on paper, in the small quantity a = (teacher − student) / T, centred under
p = softmax(teacher / T), so that what cancels is never computed. With u the teacher's logits, centred likewise, and
E the mean under p,

    d/dT T²·KL = (T · (E[s] + 2h + E[a·r]) − E[u·a]·m − E[u·r]) / (1 + m)

where r = e⁻ᵃ − 1 + a, s = 2r − a², m = E[r] and h = (1 + m)·log(1 + m) − m.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxkd.losses.functional import kl_divergence
from jaxkd.losses.temperature import Tempered

FAR = 8.0
"""The largest |a| for which the combined form is taken."""

Triple = tuple[jax.Array, jax.Array, jax.Array]


def scaled_kl(ready: Tempered) -> jax.Array:
    """Return the divergence of each example times its scale, `[B]`; by `tempered_kl` where both share a temperature."""
    if ready.shared is None:
        return ready.scale * kl_divergence(ready.teacher, ready.student)
    return tempered_kl(*ready.shared)


@jax.custom_vjp
def tempered_kl(student: jax.Array, teacher: jax.Array, temperature: jax.Array) -> jax.Array:
    """Return T² · KL(softmax(teacher / T) ‖ softmax(student / T)) of each example.

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
