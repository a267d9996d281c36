"""Decoupled knowledge distillation (DKD; Zhao et al., CVPR 2022): the true class apart from the others.

KL splits into a part for the true class against all the others (TCKD) and a part among the others (NCKD). KL weighs the
latter by the teacher's doubt, which makes it vanish where the teacher is sure; DKD gives each a weight of its own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.losses.base import HyperParameter, Loss
from jaxkd.losses.functional import kl_divergence
from jaxkd.losses.temperature import Temperature, as_temperature, temper
from jaxkd.types import Batch, Key, Outputs, Progress


def other_logits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the logits without the true class's, `[B, K], [B] -> [B, K-1]`, in their order.

    Example:
      >>> other_logits(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([1])).tolist()
      [[1.0, 3.0]]
    """
    before = jnp.arange(logits.shape[-1] - 1, dtype=labels.dtype)[None, :] < labels[:, None]
    return jnp.where(before, logits[:, :-1], logits[:, 1:])


def decoupled_divergence(
    teacher_logits: jax.Array, student_logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return TCKD and NCKD of each example, `[B, K], [B, K], [B] -> [B], [B]`.

    The true class is taken out instead of being given a very low logit: its probability would be exactly 0, and the
    slope of 0 · log 0 with respect to a learned temperature not a number.

    Example:
      >>> teacher, student = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[0.0, 0.0, 0.0]])
      >>> target, others = decoupled_divergence(teacher, student, jnp.array([0]))
      >>> [round(float(value[0]), 4) for value in (target, others)]
      [0.1233, 0.0]
    """
    others = [other_logits(logits, labels) for logits in (teacher_logits, student_logits)]
    pairs = [
        jnp.stack([jnp.take_along_axis(logits, labels[:, None], -1)[:, 0], jax.nn.logsumexp(rest, -1)], -1)
        for logits, rest in zip((teacher_logits, student_logits), others, strict=True)
    ]
    return kl_divergence(*pairs), kl_divergence(*others)


class DKD(Loss):
    """T² · (α · TCKD + β · NCKD), averaged over the batch.

    Paper: Zhao et al., *Decoupled Knowledge Distillation*, CVPR 2022.

    The published code lets the term grow over the first 20 epochs: give it the weight `losses.warmup(20)`.

    Args:
      alpha: α, the weight of the true class against the rest.
      beta: β, the weight of the rest among themselves; the paper's are between 0.5 and 8, by the pair of networks.
      temperature: T, or a temperature rule: `CurriculumTemperature()`, `ATS(correct, wrong)`.
      standardize: whether both logits are standardised first (Sun et al., CVPR 2024).

    Example:
      >>> from jaxkd import Batch, Outputs
      >>> batch = Batch(images=None, labels=jnp.array([0]), index=None)
      >>> student, teacher = Outputs(jnp.array([[0.0, 0.0, 0.0]])), Outputs(jnp.array([[4.0, 0.0, 0.0]]))
      >>> round(float(DKD()(student, teacher, batch, None, None)), 4)
      1.9726
    """

    def __init__(
        self, alpha: float = 1.0, beta: float = 2.0, temperature: float | Temperature = 4.0, standardize: bool = False
    ):
        self.alpha, self.beta = HyperParameter(jnp.float32(alpha)), HyperParameter(jnp.float32(beta))
        self.temperature = as_temperature(temperature)
        self.standardize = standardize

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        ready = temper(self.temperature, self.standardize, student, teacher, batch, progress)
        target, others = decoupled_divergence(ready.teacher, ready.student, batch.labels)
        alpha, beta = (weight[...].astype(target.dtype) for weight in (self.alpha, self.beta))
        return jnp.mean(ready.scale * (alpha * target + beta * others))
