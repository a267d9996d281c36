"""Temperature rules, which soften the logits of teacher and student before a divergence compares them.

A rule has one method, `temper(student, teacher, labels, progress) -> Tempered`. Any loss on logits takes any rule, so
a new rule works with every one of them. A temperature is fixed, or it is trained against the student (CTKD; Li et al.,
AAAI 2023): all examples share it (`CurriculumTemperature`) or each has its own (`InstanceTemperature`). Its gradient is
reversed and grows along a cosine over the first epochs, so that distillation starts easy and becomes harder.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.checks import check_epoch_function, warn_caller
from jaxkd.losses.base import HyperParameter, Monitor, Network
from jaxkd.losses.functional import kl_divergence, tempered_kl
from jaxkd.losses.functional import standardize as standardized
from jaxkd.nn.initializers import torch_uniform
from jaxkd.schedules import remembered
from jaxkd.types import Batch, Outputs, Progress, at_least_float32


class Tempered(NamedTuple):
    """Logits ready to be compared.

    Attributes:
      student: `[B, K]` the student's logits, divided by its temperature.
      teacher: `[B, K]` the teacher's likewise.
      scale: what the divergence is multiplied by so that gradients keep their size (T²): a scalar, or `[B]`.
      shared: the logits of student and teacher before they were divided and the one temperature of both, where they
        share one: from these the temperature's gradient can be taken without cancellation.
    """

    student: jax.Array
    teacher: jax.Array
    scale: jax.Array
    shared: tuple[jax.Array, jax.Array, jax.Array] | None = None

    @classmethod
    def at(cls, student: jax.Array, teacher: jax.Array, temperature: jax.Array) -> Tempered:
        """Divide both by one temperature T, a scalar or `[B]`; the scale is T²."""
        divisor = temperature[:, None] if jnp.ndim(temperature) else temperature
        return cls(student / divisor, teacher / divisor, jnp.square(temperature), (student, teacher, temperature))


def scaled_kl(ready: Tempered) -> jax.Array:
    """Return the divergence of each example times its scale, `[B]`; by `tempered_kl` where both share a temperature."""
    if ready.shared is None:
        return ready.scale * kl_divergence(ready.teacher, ready.student)
    return tempered_kl(*ready.shared)


class Temperature(Protocol):
    """Anything with a `temper` method."""

    def temper(self, student: jax.Array, teacher: jax.Array, labels: jax.Array, progress: Progress) -> Tempered:
        """Soften `[B, K]` logits."""
        ...


class FixedTemperature(nnx.Module):
    """One temperature T for teacher and student (Hinton et al. 2015); the divergence is multiplied by T².

    Example:
      >>> logits = jnp.array([[2.0, 4.0]])
      >>> FixedTemperature(2.0).temper(logits, logits, None, None).student.tolist()
      [[1.0, 2.0]]
    """

    def __init__(self, value: float):
        self.value = HyperParameter(jnp.float32(checked_temperature("temperature", value)))

    def temper(self, student: jax.Array, teacher: jax.Array, labels: jax.Array, progress: Progress) -> Tempered:
        return Tempered.at(student, teacher, self.value[...].astype(student.dtype))


def checked_temperature(name: str, value: float) -> float:
    """Return a temperature that is a positive finite number; raise a ValueError that names any other."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r}: give a positive number")
    return float(value)


def as_temperature(temperature: float | Temperature) -> Temperature:
    """Return a rule, made from a number or as it is.

    Raises:
      ValueError: for a number that is not positive and finite.
    """
    if hasattr(temperature, "temper") and not isinstance(temperature, type):
        return cast(Temperature, temperature)
    try:
        return FixedTemperature(cast(float, temperature))
    except ValueError as error:
        raise ValueError(f"{error}, or a rule such as losses.CurriculumTemperature()") from None


def temper(
    rule: Temperature, standardize: bool, student: Outputs, teacher: Outputs | None, batch: Batch, progress: Progress
) -> Tempered:
    """Prepare logits as every loss on logits does: to float32, standardise if asked, then the temperature rule.

    Raises:
      ValueError: if there is no teacher, or it has another number of classes.
    """
    ours, theirs = map(at_least_float32, check_comparable(student, teacher))
    if standardize:
        if ours.shape[-1] == 2:
            warn_caller(
                "two standardised logits are ±1/√2 whatever a network says, so that this loss teaches nothing: leave "
                "standardize out where there are two classes"
            )
        ours, theirs = standardized(ours), standardized(theirs)
    return rule.temper(ours, theirs, batch.labels, progress)


def check_comparable(student: Outputs, teacher: Outputs | None) -> tuple[jax.Array, jax.Array]:
    """Return the logits `[B, K]` of student and teacher.

    Raises:
      ValueError: if there is no teacher, or it has another number of classes.
    """
    if teacher is None:
        raise ValueError("a loss on logits compares with a teacher: use jaxkd.Distiller, which has one")
    if student.logits.shape != teacher.logits.shape:
        raise ValueError(
            f"student logits {student.logits.shape} and teacher logits {teacher.logits.shape} differ: give networks of "
            "the same classes"
        )
    return student.logits, teacher.logits


@remembered
def cosine_curriculum(epochs: float = 10, low: float = -1.0) -> Callable[[jax.Array], jax.Array]:
    """Return λ as a function of the epoch (counted from 1): from 0 down to `low` along a half cosine, then constant.

    Args:
      epochs: the length of the descent, a whole number; the paper's are 10 on CIFAR-100 and 5 on ImageNet.
      low: λ at its end; −1 is full adversarial training.

    Raises:
      ValueError: for no whole number of epochs.

    Example:
      >>> float(cosine_curriculum(10)(5))
      -0.5
    """
    if not (epochs >= 1 and float(epochs).is_integer()):
        raise ValueError(f"epochs={epochs}: the curriculum takes a whole number of epochs, one or more")

    def value(epoch: jax.Array) -> jax.Array:
        done = jnp.minimum(jnp.asarray(epoch, jnp.float32) / epochs, 1.0)
        return low * 0.5 * (1.0 - jnp.cos(jnp.pi * done))

    return value


@jax.custom_vjp
def scale_gradient(value: jax.Array, factor: jax.Array) -> jax.Array:
    """Return `value` itself, whose gradient is multiplied by `factor`.

    Example:
      >>> float(jax.grad(lambda x: scale_gradient(x, jnp.float32(-0.5)) ** 2)(3.0))
      -3.0
    """
    return value


scale_gradient.defvjp(lambda value, factor: (value, factor), lambda factor, g: (g * factor, jnp.zeros_like(factor)))


class LearnedTemperature(nnx.Module):
    """Base of learned temperatures: T = t_start + t_end · sigmoid(raw), its gradient multiplied by λ, and its logs.

    Args:
      t_start: the lower bound of T.
      t_end: the width of T's range.
      curriculum: λ as a function of the epoch counted from 1; the default is the paper's `cosine_curriculum(10)`.

    Raises:
      ValueError: for bounds that are no temperatures, or a curriculum that cannot be compiled.
    """

    def __init__(
        self, t_start: float = 1.0, t_end: float = 20.0, curriculum: Callable[[jax.Array], jax.Array] | None = None
    ):
        self.t_start, self.t_end = checked_temperature("t_start", t_start), checked_temperature("t_end", t_end)
        initial = self.t_start + self.t_end * jax.nn.sigmoid(jnp.float32(1.0))
        self.temperature = Monitor(initial, low=self.t_start, high=self.t_start + self.t_end)
        self.lambda_ = Monitor(jnp.float32(0.0))
        self.curriculum = curriculum or cosine_curriculum()
        check_epoch_function("the curriculum", self.curriculum)

    def at(self, raw: jax.Array, student: jax.Array, teacher: jax.Array, progress: Progress) -> Tempered:
        """Divide both logits `[B, K]` by the temperature of `raw`, a scalar or `[B]`, and log the mean of T."""
        factor = jnp.asarray(self.curriculum(progress.epoch), student.dtype)
        value = self.t_start + self.t_end * jax.nn.sigmoid(scale_gradient(raw.astype(student.dtype), factor))
        self.temperature[...] = jax.lax.stop_gradient(jnp.mean(value)).astype(jnp.float32)
        self.lambda_[...] = factor.astype(jnp.float32)
        return Tempered.at(student, teacher, value)


class CurriculumTemperature(LearnedTemperature):
    """T = t_start + t_end · sigmoid(θ), with θ trained by a gradient multiplied by λ(epoch).

    Paper: Li et al., *Curriculum Temperature for Knowledge Distillation* (CTKD), AAAI 2023.

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
        self, t_start: float = 1.0, t_end: float = 20.0, curriculum: Callable[[jax.Array], jax.Array] | None = None
    ):
        super().__init__(t_start, t_end, curriculum)
        self.raw = nnx.Param(jnp.float32(1.0))

    def temper(self, student: jax.Array, teacher: jax.Array, labels: jax.Array, progress: Progress) -> Tempered:
        return self.at(self.raw[...], student, teacher, progress)


class InstanceTemperature(LearnedTemperature):
    """T = t_start + t_end · sigmoid(MLP(student, teacher)), one for each example.

    Paper: Li et al., *Curriculum Temperature for Knowledge Distillation* (CTKD), AAAI 2023.

    The network has two layers and reads both logits, those of the student first, as they come (standardised, where the
    loss standardises). No gradient flows back through them, so that student and teacher do not learn to steer the
    temperature. The network's own gradient is multiplied by λ(epoch), as that of
    `CurriculumTemperature`. Its last bias starts at 1, so that all T start around the 15.62 of that class.

    The batch's mean T and λ appear in the logs as `…_temperature` and `…_lambda`.

    Args:
      hidden: units between the layers.
      t_start: the lower bound of T.
      t_end: the width of T's range.
      curriculum: λ as a function of the epoch counted from 1; the default is the paper's `cosine_curriculum(10)`.

    Raises:
      ValueError: for fewer than one unit, or bounds that are no temperatures.

    Example:
      >>> from jaxkd import Outputs
      >>> logits = jnp.array([[2.0, 0.0], [0.0, 3.0]])
      >>> rule = InstanceTemperature(hidden=4)
      >>> network = Network(rule, Outputs(logits))
      >>> rule.build(network, network, nnx.Rngs(0))
      >>> progress = Progress(step=jnp.int32(0), epoch=jnp.int32(1))
      >>> rule.temper(logits, logits, None, progress).scale.shape
      (2,)
    """

    def __init__(
        self,
        hidden: int = 128,
        t_start: float = 1.0,
        t_end: float = 20.0,
        curriculum: Callable[[jax.Array], jax.Array] | None = None,
    ):
        if isinstance(hidden, bool) or not isinstance(hidden, int) or hidden < 1:
            raise ValueError(f"hidden={hidden!r}: the network has a whole number of hidden units, at least one")
        super().__init__(t_start, t_end, curriculum)
        self.hidden = hidden

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        """Make the network for the number of classes.

        Raises:
          ValueError: without a teacher.
        """
        if teacher is None:
            raise ValueError("InstanceTemperature reads a teacher's predictions: use jaxkd.Distiller, which has one")
        inputs = student.outputs.logits.shape[-1] + teacher.outputs.logits.shape[-1]
        self.first = nnx.Param(torch_uniform(rngs.params(), (inputs, self.hidden), jnp.float32))
        self.first_bias = nnx.Param(jnp.zeros(self.hidden, jnp.float32))
        self.second = nnx.Param(torch_uniform(rngs.params(), (self.hidden, 1), jnp.float32))
        self.second_bias = nnx.Param(jnp.ones(1, jnp.float32))

    def temper(self, student: jax.Array, teacher: jax.Array, labels: jax.Array, progress: Progress) -> Tempered:
        predictions = jax.lax.stop_gradient(jnp.concatenate([student, teacher], -1))
        return self.at(self._raw(predictions), student, teacher, progress)

    def _raw(self, predictions: jax.Array) -> jax.Array:
        """Return what the sigmoid takes, `[B, 2K] -> [B]`."""
        if not hasattr(self, "first"):
            raise ValueError("InstanceTemperature has no network yet: compile() makes it, or call build(…) first")
        first, first_bias, second, second_bias = (
            parameter[...].astype(predictions.dtype)
            for parameter in (self.first, self.first_bias, self.second, self.second_bias)
        )
        hidden = jax.nn.relu(predictions @ first + first_bias[None, :])
        return (hidden @ second + second_bias[None, :])[:, 0]
