"""Cross-entropy with the labels, the loss without a teacher."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.checks import check_number
from jaxkd.losses.base import Loss
from jaxkd.losses.functional import cross_entropy
from jaxkd.types import Batch, Key, Outputs, Progress


class CrossEntropy(Loss):
    """The mean over the batch of −log softmax(logits)[label].

    Args:
      label_smoothing: ε, which is taken from the label and spread over all K classes, its own included (Szegedy et al.,
        CVPR 2016), as PyTorch has it.

    Raises:
      ValueError: for ε outside of 0 to below 1.

    Example:
      >>> from jaxkd import Batch, Outputs
      >>> batch = Batch(images=None, labels=jnp.array([0, 1]), index=None)
      >>> round(float(CrossEntropy()(Outputs(jnp.zeros((2, 2))), None, batch, None, None)), 4)
      0.6931
      >>> student = Outputs(jnp.array([[2.0, 0.0], [0.0, 2.0]]))
      >>> round(float(CrossEntropy(label_smoothing=0.1)(student, None, batch, None, None)), 4)
      0.2269
    """

    def __init__(self, label_smoothing: float = 0.0):
        check_number("label_smoothing", label_smoothing, below=1.0)
        self.label_smoothing = float(label_smoothing)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        return jnp.mean(cross_entropy(student.logits, batch.labels, self.label_smoothing))
