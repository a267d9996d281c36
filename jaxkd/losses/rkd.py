"""Relational knowledge distillation (RKD; Park et al., CVPR 2019): distances and angles between examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.losses.base import HyperParameter, Loss, Network
from jaxkd.losses.features import embedding_widths, require_teacher
from jaxkd.losses.functional import length, unit
from jaxkd.types import Batch, Key, Outputs, Progress, at_least_float32


def distance_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Return the mean Huber loss of the B² distances between examples, `[B, C], [B, D] -> []`.

    Each network's distances are divided by the mean of those that are not 0.

    Example:
      >>> ours, theirs = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.0], [2.0], [4.0]])
      >>> float(distance_loss(ours, theirs))
      0.0
    """
    return jnp.mean(_huber(_relative_distances(student) - _relative_distances(teacher)))


def angle_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Return the mean Huber loss of the cosines of the B³ angles between examples, `[B, C], [B, D] -> []`.

    Entry (i, j, k) is the angle at i between j and k, its cosine 0 where two of them coincide.

    Example:
      >>> straight, square = jnp.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]), jnp.array([[1.0, 0.0], [0, 0], [0, 1.0]])
      >>> round(27 * float(angle_loss(straight, square)), 4)  # at the middle 2 · ½ · 1²; at the ends 4 · ½ · (1 − √½)²
      1.1716
    """
    return jnp.mean(_huber(_cosines(student) - _cosines(teacher)))


def _differences(points: jax.Array) -> jax.Array:
    points = at_least_float32(points)
    return points[None] - points[:, None]


def _relative_distances(points: jax.Array) -> jax.Array:
    distances = length(_differences(points))
    count = jnp.maximum(jnp.sum(distances > 0), 1).astype(distances.dtype)
    mean = jnp.sum(distances) / count
    return distances / jnp.where(mean > 0, mean, 1.0)


def _cosines(points: jax.Array) -> jax.Array:
    directions = unit(_differences(points))
    return jnp.einsum("ijc,ikc->ijk", directions, directions, precision="highest")


def _huber(error: jax.Array) -> jax.Array:
    size = jnp.abs(error)
    return jnp.where(size < 1, 0.5 * jnp.square(error), size - 0.5)


class RKD(Loss):
    """`distance` × the distance loss + `angle` × the angle loss of the embeddings; published with weight 1.

    Paper: Park et al., *Relational Knowledge Distillation*, CVPR 2019.

    One or two examples have no relations that could differ: their loss is 0.

    Args:
      distance: weight of the distances.
      angle: weight of the angles.
      position: which feature; by default the pooled one.

    Raises:
      ValueError: at compile, where a network has no embedding there.

    Example:
      >>> from jaxkd import Outputs
      >>> ours, theirs = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.0], [1.0], [5.0]])
      >>> round(float(RKD()(Outputs(None, (ours,)), Outputs(None, (theirs,)), None, None, None)), 4)
      1.125
    """

    def __init__(self, distance: float = 25.0, angle: float = 50.0, position: int = -1):
        self.distance = HyperParameter(jnp.float32(distance))
        self.angle = HyperParameter(jnp.float32(angle))
        self.position = position

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        embedding_widths(self, student, require_teacher(self, teacher), self.position)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        pair = student.features[self.position], teacher.features[self.position]
        distances, angles = distance_loss(*pair), angle_loss(*pair)
        return self.distance[...].astype(distances.dtype) * distances + self.angle[...].astype(angles.dtype) * angles
