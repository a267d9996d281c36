"""Asymmetric temperature scaling (ATS; Li et al., NeurIPS 2022): a larger temperature for the teacher's true class.

Large teachers are over-confident: one temperature for all classes leaves the wrong ones too much alike to teach
anything. A second, smaller temperature for the wrong classes keeps them apart.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.losses.base import HyperParameter, Loss
from jaxkd.losses.functional import soft_cross_entropy
from jaxkd.losses.temperature import Tempered, checked_temperature, temper
from jaxkd.types import Batch, Key, Outputs, Progress


def asymmetric_scaling(logits: jax.Array, labels: jax.Array, correct: jax.Array, wrong: jax.Array) -> jax.Array:
    """Divide the true class's logit by `correct` and the others by `wrong`, `[B, K], [B] -> [B, K]`.

    Example:
      >>> asymmetric_scaling(jnp.array([[4.0, 4.0]]), jnp.array([0]), 4.0, 2.0).tolist()
      [[1.0, 2.0]]
    """
    is_true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return logits / jnp.where(is_true, correct, wrong)


class ATS(Loss):
    """τₛ² · cross-entropy(softmax(teacher / τ), softmax(student / τₛ)), τ = τ₁ for the true class, else τ₂.

    Paper: Li et al., *Asymmetric Temperature Scaling Makes Larger Networks Teach Well Again*, NeurIPS 2022.

    It is a loss (a cross-entropy, as the authors train with) and also a temperature rule for any other loss on logits,
    `KD(temperature=ATS(4.0, 2.0))`.

    Args:
      correct: τ₁.
      wrong: τ₂.
      student: τₛ, the student's own temperature.
      standardize: whether both logits are standardised first.

    Example:
      >>> from jaxkd import Batch, Outputs
      >>> batch = Batch(images=None, labels=jnp.array([0]), index=None)
      >>> student, teacher = Outputs(jnp.array([[1.0, 0.0]])), Outputs(jnp.array([[4.0, 0.0]]))
      >>> round(float(ATS(correct=4.0, wrong=2.0)(student, teacher, batch, None, None)), 4)
      0.5822
    """

    def __init__(self, correct: float = 4.0, wrong: float = 2.0, student: float = 1.0, standardize: bool = False):
        self.correct = HyperParameter(jnp.float32(checked_temperature("correct", correct)))
        self.wrong = HyperParameter(jnp.float32(checked_temperature("wrong", wrong)))
        self.student = HyperParameter(jnp.float32(checked_temperature("student", student)))
        self.standardize = standardize

    def temper(self, student: jax.Array, teacher: jax.Array, labels: jax.Array, progress: Progress) -> Tempered:
        correct, wrong, own = (value[...].astype(student.dtype) for value in (self.correct, self.wrong, self.student))
        softened = asymmetric_scaling(teacher, labels, correct, wrong)
        return Tempered(student / own, softened, jnp.square(own))

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        ready = temper(self, self.standardize, student, teacher, batch, progress)
        return jnp.mean(ready.scale * soft_cross_entropy(ready.teacher, ready.student))
