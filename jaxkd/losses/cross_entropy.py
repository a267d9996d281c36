"""Cross-entropy with the labels, the loss without a teacher."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.losses.base import Loss
from jaxkd.losses.functional import cross_entropy
from jaxkd.types import Batch, Key, Outputs, Progress


class CrossEntropy(Loss):
    """The mean over the batch of −log softmax(logits)[label].

    Example:
      >>> from jaxkd import Batch, Outputs
      >>> batch = Batch(images=None, labels=jnp.array([0, 1]), index=None)
      >>> round(float(CrossEntropy()(Outputs(jnp.zeros((2, 2))), None, batch, None, None)), 4)
      0.6931
    """

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        return jnp.mean(cross_entropy(student.logits, batch.labels))
