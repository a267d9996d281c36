"""Knowledge distillation (Hinton et al. 2015): the student matches the teacher's softened class distribution."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.losses.base import Loss
from jaxkd.losses.temperature import Temperature, as_temperature, scaled_kl, temper
from jaxkd.types import Batch, Key, Outputs, Progress


class KD(Loss):
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), averaged over the batch.

    Paper: Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, 2015.

    Args:
      temperature: T, or a temperature rule: `CurriculumTemperature()`, `ATS(correct, wrong)`.
      standardize: whether both logits are standardised first (Sun et al., CVPR 2024). The paper then uses T=2 and
        weight 9.

    Example:
      >>> from jaxkd import Batch, Outputs
      >>> batch = Batch(images=None, labels=jnp.array([0]), index=None)
      >>> student, teacher = Outputs(jnp.array([[1.0, 0.0]])), Outputs(jnp.array([[3.0, 0.0]]))
      >>> round(float(KD(temperature=4.0)(student, teacher, batch, None, None)), 4)
      0.4585
    """

    def __init__(self, temperature: float | Temperature = 4.0, standardize: bool = False):
        self.temperature = as_temperature(temperature)
        self.standardize = standardize

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        ready = temper(self.temperature, self.standardize, student, teacher, batch, progress)
        return jnp.mean(scaled_kl(ready))
