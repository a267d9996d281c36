"""Distillation through a token of its own (DeiT; Touvron et al., ICML 2021)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.losses.base import Loss
from jaxkd.losses.functional import cross_entropy
from jaxkd.losses.temperature import check_comparable
from jaxkd.types import Batch, Key, Outputs, Progress


class HardLabel(Loss):
    """Cross-entropy with the teacher's answer, its likeliest class, as if that were the label.

    Example:
      >>> student, teacher = Outputs(jnp.array([[2.0, 0.0]])), Outputs(jnp.array([[0.0, 9.0]]))
      >>> round(float(HardLabel()(student, teacher, None, None, None)), 4)
      2.1269
    """

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        check_comparable(student, teacher)
        return jnp.mean(cross_entropy(student.logits, jnp.argmax(teacher.logits, axis=-1)))


class DeiT(Loss):
    """A loss on the logits of the distillation token; in networks without one, on their only logits.

    Paper: Touvron et al., *Training Data-Efficient Image Transformers & Distillation through Attention*, ICML 2021.

    The paper adds it to the cross-entropy of the class token, half and half.

    Args:
      loss: a loss on logits; by default the paper's `HardLabel()`. `KD(3.0)` is its soft distillation.

    Example:
      >>> student = Outputs(jnp.array([[9.0, 0.0]]), distillation_logits=jnp.array([[2.0, 0.0]]))
      >>> round(float(DeiT()(student, Outputs(jnp.array([[0.0, 9.0]])), None, None, None)), 4)
      2.1269
    """

    def __init__(self, loss: Loss | None = None):
        self.loss = HardLabel() if loss is None else loss

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        return self.loss(_of_token(student), teacher, batch, progress, key)


def _of_token(outputs: Outputs) -> Outputs:
    strong = None if outputs.strong is None else _of_token(outputs.strong)
    logits = outputs.logits if outputs.distillation_logits is None else outputs.distillation_logits
    return outputs._replace(logits=logits, strong=strong)
