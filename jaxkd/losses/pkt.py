"""Probabilistic knowledge transfer (PKT; Passalis & Tefas, ECCV 2018): similarities of embeddings as probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.losses.base import Loss, Network
from jaxkd.losses.features import require_teacher
from jaxkd.losses.functional import length
from jaxkd.types import Batch, Key, Outputs, Progress, at_least_float32

_EPSILON = 1e-7


def probabilistic_transfer(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Return the mean over all B² pairs of p·log(p/q), `[B, C], [B, D] -> []`.

    p and q are the cosine similarities of teacher and student, moved to 0…1 and divided by the sum of their row.

    Example:
      >>> round(abs(float(probabilistic_transfer(jnp.eye(2), 3.0 * jnp.eye(2)))), 6)
      0.0
    """
    p, q = _neighbours(teacher), _neighbours(student)
    # Rows of p and q both sum to one, so adding q − p changes nothing but the rounding: a sum of small positive numbers
    # instead of large ones that nearly cancel.
    more = q - p
    return jnp.mean(more - p * jnp.log1p(more / (p + _EPSILON)))


def _neighbours(embeddings: jax.Array) -> jax.Array:
    """Return the probability with which each example picks each other as its neighbour, `[B, C] -> [B, B]`."""
    embeddings = at_least_float32(embeddings.reshape(len(embeddings), -1))
    embeddings = embeddings / (length(embeddings, keepdims=True) + _EPSILON)
    # All that counts are small differences of similarities, which narrower products would blur.
    similarity = (jnp.matmul(embeddings, embeddings.T, precision="highest") + 1) / 2
    # Rounding can bring opposite vectors to just below −1, and the logarithm to NaN.
    similarity = jnp.maximum(similarity, 0.0)
    return similarity / similarity.sum(1, keepdims=True)


class PKT(Loss):
    """The mean of p·log(p/q) over all pairs of a batch, see `probabilistic_transfer`; published with weight 30000.

    Paper: Passalis, Tefas, *Learning Deep Representations with Probabilistic Knowledge Transfer*, ECCV 2018.

    The mean over B² makes it shrink with the square of the batch size: the weight belongs to batches of 64.

    Args:
      position: which feature; by default the pooled one, as RepDistiller takes it.

    Raises:
      ValueError: at compile, where a network has no feature at this position.

    Example:
      >>> from jaxkd import Outputs
      >>> student, teacher = Outputs(None, (jnp.eye(2),)), Outputs(None, (jnp.array([[1.0, 0.0], [1.0, 0.0]]),))
      >>> round(float(PKT()(student, teacher, None, None, None)), 4)
      0.0294
    """

    def __init__(self, position: int = -1):
        self.position = position

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        for network in (student, require_teacher(self, teacher)):
            network.feature(self.position)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        return probabilistic_transfer(student.features[self.position], teacher.features[self.position])
