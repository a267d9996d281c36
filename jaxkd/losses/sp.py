"""Similarity-preserving distillation (SP; Tung & Mori, ICCV 2019): similarities between the examples of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.losses.base import Loss, Network
from jaxkd.losses.features import require_teacher
from jaxkd.losses.functional import unit
from jaxkd.types import Batch, Key, Outputs, Progress, at_least_float32


def similarity_preservation(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Return ‖Gₜ − Gₛ‖² / B², G = FFᵀ with rows at length one and F the flattened features, `[B, …], [B, …] -> []`.

    Example:
      >>> float(similarity_preservation(jnp.eye(2), 3.0 * jnp.eye(2)))
      0.0
    """
    return jnp.mean(jnp.square(_similarities(teacher) - _similarities(student)))


def _similarities(features: jax.Array) -> jax.Array:
    """Return G, `[B, …] -> [B, B]`."""
    flat = at_least_float32(features.reshape(len(features), -1))
    # All that counts are small differences of similarities, which narrower products would blur.
    return unit(jnp.matmul(flat, flat.T, precision="highest"))


class SP(Loss):
    """The mean squared difference of the two similarity matrices of a batch; published with weight 3000.

    Paper: Tung, Mori, *Similarity-Preserving Knowledge Distillation*, ICCV 2019.

    Args:
      position: which feature; by default the last map before pooling, as RepDistiller takes it.

    Raises:
      ValueError: at compile, where a network has no feature at this position.

    Example:
      >>> from jaxkd import Outputs
      >>> student, teacher = Outputs(None, (jnp.eye(2), None)), Outputs(None, (jnp.ones((2, 3)), None))
      >>> round(float(SP()(student, teacher, None, None, None)), 4)  # ((1 − 1/√2)² + 1/2) / 2
      0.2929
    """

    def __init__(self, position: int = -2):
        self.position = position

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        for network in (student, require_teacher(self, teacher)):
            network.feature(self.position)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        return similarity_preservation(student.features[self.position], teacher.features[self.position])
