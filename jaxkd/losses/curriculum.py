"""Curriculum temperature (CTKD; Li et al., AAAI 2023): a temperature that learns to make the task harder.

The temperature is trained against the student: the gradient that reaches it is turned round and grows along a cosine
over the first epochs, so that distillation starts easy and becomes harder.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.checks import check_epoch_function
from jaxkd.losses.base import Monitor
from jaxkd.losses.temperature import Tempered, checked_temperature
from jaxkd.types import Progress


def cosine_curriculum(epochs: int = 10, low: float = -1.0) -> Callable[[jax.Array], jax.Array]:
    """λ as a function of the epoch (counted from 1): from 0 down to `low` along a half cosine, then constant.

    Args:
      epochs: how many epochs the descent takes; the paper's are 10 on CIFAR-100 and 5 on ImageNet.
      low: where it ends; −1 is full adversarial training.

    Example:
      >>> float(cosine_curriculum(10)(5))
      -0.5
    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: the curriculum takes at least one epoch")

    def value(epoch: jax.Array) -> jax.Array:
        done = jnp.minimum(jnp.asarray(epoch, jnp.float32) / epochs, 1.0)
        return low * 0.5 * (1.0 - jnp.cos(jnp.pi * done))

    return value


_PAPER = cosine_curriculum()  # one object, so that equal losses are the same program


@jax.custom_vjp
def scale_gradient(value: jax.Array, factor: jax.Array) -> jax.Array:
    """`value` itself, whose gradient is multiplied by `factor`.

    Example:
      >>> float(jax.grad(lambda x: scale_gradient(x, jnp.float32(-0.5)) ** 2)(3.0))
      -3.0
    """
    return value


scale_gradient.defvjp(lambda value, factor: (value, factor), lambda factor, g: (g * factor, jnp.zeros_like(factor)))


class LearnedTemperature(nnx.Module):
    """What temperatures that learn have in common: T = t_start + t_end · sigmoid(raw), trained through λ, and its logs.

    Args:
      t_start: the lower bound of T.
      t_end: the width of T's range.
      curriculum: λ as a function of the epoch counted from 1; the default is the paper's `cosine_curriculum(10)`.

    Raises:
      ValueError: for bounds that are no temperatures, or a curriculum that cannot be compiled.
    """

    def __init__(
        self,
        t_start: float = 1.0,
        t_end: float = 20.0,
        curriculum: Callable[[jax.Array], jax.Array] | None = None,
    ):
        self.t_start, self.t_end = checked_temperature("t_start", t_start), checked_temperature("t_end", t_end)
        initial = self.t_start + self.t_end * jax.nn.sigmoid(jnp.float32(1.0))
        self.temperature = Monitor(initial, low=self.t_start, high=self.t_start + self.t_end)
        self.lambda_ = Monitor(jnp.float32(0.0))
        self.curriculum = curriculum or _PAPER
        check_epoch_function("the curriculum", self.curriculum)

    def at(self, raw: jax.Array, student: jax.Array, teacher: jax.Array, progress: Progress) -> Tempered:
        """Both logits `[B, K]` at the temperature of `raw`, a scalar or `[B]`; the mean of T goes to the logs."""
        factor = jnp.asarray(self.curriculum(progress.epoch), student.dtype)
        value = self.t_start + self.t_end * jax.nn.sigmoid(scale_gradient(raw.astype(student.dtype), factor))
        self.temperature[...] = jax.lax.stop_gradient(jnp.mean(value)).astype(jnp.float32)
        self.lambda_[...] = factor.astype(jnp.float32)
        return Tempered.at(student, teacher, value)


class CurriculumTemperature(LearnedTemperature):
    """T = t_start + t_end · sigmoid(θ), with θ trained by a gradient multiplied by λ(epoch).

    θ starts at 1, so T starts at 15.62 and stays within 1 and 21; with `t_start=2, t_end=40`, as for standardised
    logits, at 31.24 and within 2 and 42. The gradient reaches θ through both softmaxes and through T². T and λ appear
    in the logs as `…_temperature` and `…_lambda`.

    Args:
      t_start: the lower bound of T.
      t_end: the width of T's range.
      curriculum: λ as a function of the epoch counted from 1; the default is the paper's `cosine_curriculum(10)`.

    Example:
      >>> logits = jnp.array([[15.621172, 0.0]])
      >>> progress = Progress(step=jnp.int32(0), epoch=jnp.int32(1))
      >>> CurriculumTemperature().temper(logits, logits, None, progress).student.round(4).tolist()
      [[1.0, 0.0]]
      >>> round(float(CurriculumTemperature(t_start=2.0, t_end=40.0).temperature[...]), 2)
      31.24
    """

    def __init__(
        self,
        t_start: float = 1.0,
        t_end: float = 20.0,
        curriculum: Callable[[jax.Array], jax.Array] | None = None,
    ):
        super().__init__(t_start, t_end, curriculum)
        self.raw = nnx.Param(jnp.float32(1.0))

    def temper(self, student: jax.Array, teacher: jax.Array, labels: jax.Array, progress: Progress) -> Tempered:
        return self.at(self.raw[...], student, teacher, progress)
