"""What a loss is, and the two kinds of variable it may hold beside parameters."""

from __future__ import annotations

import jax
from flax import nnx

from jaxkd.base import Batch, Outputs, Progress


class HyperParameter(nnx.Variable):
    """A constant of a loss kept as an array, so that a sweep can run many values in one program. Never trained."""


class Monitor(nnx.Variable):
    """A value a loss computes at every step for the logs, under the name of its attribute (`kd_temperature`)."""


class Loss(nnx.Module):
    """The base of every loss; a subclass only has to be callable as below.

    `nnx.Param` attributes are trained with the student, in the same optimizer; any other variable is carried from step
    to step and saved with the run, and a `Monitor` also appears in the logs. To change a variable, assign to
    `self.name[...]`.

    Example:
      >>> import jax.numpy as jnp
      >>> class LogitL2(Loss):
      ...     '''Mean squared difference of the logits (Ba & Caruana 2014).'''
      ...     def __call__(self, student, teacher, batch, progress, key):
      ...         return jnp.mean(jnp.square(student.logits - teacher.logits))
      >>> ones, zeros = Outputs(jnp.ones((2, 3))), Outputs(jnp.zeros((2, 3)))
      >>> float(LogitL2()(ones, zeros, None, None, None))
      1.0
    """

    def __call__(
        self, student: Outputs, teacher: Outputs | None, batch: Batch, progress: Progress, key: jax.Array
    ) -> jax.Array:
        """The loss of one batch.

        Args:
          student: outputs in training mode; gradients flow through them.
          teacher: outputs in evaluation mode, constant; None where nothing teaches.
          batch: images as the student saw them, labels and indices.
          progress: steps taken so far and the epoch, counted from 1.
          key: a random key of this step's own.

        Returns:
          A float32 scalar.
        """
        raise TypeError(f"{type(self).__name__} defines no __call__(student, teacher, batch, progress, key)")
