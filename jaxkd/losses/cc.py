"""Correlation congruence (CC; Peng et al., ICCV 2019), in the form in which RepDistiller compares it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.losses.base import Loss, Network
from jaxkd.losses.features import embedding_widths, require_teacher
from jaxkd.nn.layers import Linear
from jaxkd.types import Batch, Key, Outputs, Progress, at_least_float32


def adjacent_congruence(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Return the mean over neighbours i, i+1 of the batch of Σ |δᵢ| |δᵢ₊₁|, δ the difference of the embeddings.

    `[B, C], [B, C] -> []`; 0 for a single example, which has no neighbour.

    Example:
      >>> float(adjacent_congruence(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.zeros((2, 2))))
      11.0
    """
    apart = jnp.abs(student - teacher)
    return jnp.sum(apart[:-1] * apart[1:]) / max(len(apart) - 1, 1)


class CC(Loss):
    """Congruence of two linear embeddings, one of each network's pooled feature; published with weight 0.02.

    Paper: Peng et al., *Correlation Congruence for Knowledge Distillation*, ICCV 2019.

    The paper compares matrices of kernel values between examples. RepDistiller, whose numbers later papers quote,
    compares neighbours in the batch instead, and so does this: the loss counts each dimension in which both differ from
    the teacher. Both embeddings are trained, the teacher's too.

    Args:
      width: dimensions of the embeddings.
      position: which feature; by default the pooled one.

    Raises:
      ValueError: at compile, where a network has no embedding at this position.
    """

    def __init__(self, width: int = 128, position: int = -1):
        if width < 1:
            raise ValueError(f"width={width!r}: an embedding has at least one dimension")
        self.width, self.position = width, position

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        ours, theirs = embedding_widths(self, student, require_teacher(self, teacher), self.position)
        self.student_embedding = Linear(ours, self.width, rngs=rngs)
        self.teacher_embedding = Linear(theirs, self.width, rngs=rngs)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        ours, theirs = (at_least_float32(network.features[self.position]) for network in (student, teacher))
        return adjacent_congruence(self.student_embedding(ours), self.teacher_embedding(theirs))
