"""Temperature rules, which soften the logits of teacher and student before a divergence compares them.

A rule has one method, `temper(student, teacher, labels, progress) -> Tempered`. Any loss on logits takes any rule, so
a new rule works with every one of them.
"""

from __future__ import annotations

import math
import numbers
from typing import NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.losses.base import HyperParameter
from jaxkd.losses.functional import standardize as standardized
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
        raise ValueError(f"{name}={value!r}: a temperature is a positive number")
    return float(value)


def as_temperature(temperature: float | Temperature) -> Temperature:
    """Return a rule, made from a number or as it is.

    Raises:
      ValueError: for a number that is not positive and finite.
    """
    if hasattr(temperature, "temper") and not isinstance(temperature, type):
        return cast(Temperature, temperature)
    return FixedTemperature(cast(float, temperature))  # which refuses what is no number


def temper(
    rule: Temperature, standardize: bool, student: Outputs, teacher: Outputs | None, batch: Batch, progress: Progress
) -> Tempered:
    """Prepare logits as every loss on logits does: to float32, standardise if asked, then the temperature rule.

    Raises:
      ValueError: if there is no teacher, or it has another number of classes.
    """
    if teacher is None:
        raise ValueError("this loss compares with a teacher: use jaxkd.Distiller, which has one")
    ours, theirs = at_least_float32(student.logits), at_least_float32(teacher.logits)
    if ours.shape != theirs.shape:
        raise ValueError(f"student logits {ours.shape} and teacher logits {theirs.shape} differ in shape")
    if standardize:
        ours, theirs = standardized(ours), standardized(theirs)
    return rule.temper(ours, theirs, batch.labels, progress)
