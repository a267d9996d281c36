"""Relational knowledge distillation (Park et al., CVPR 2019): distances and angles between examples carry over."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.losses.base import HyperParameter, Loss, Network
from jaxkd.losses.divergence import at_least_float32
from jaxkd.losses.stages import taught
from jaxkd.losses.unit import length, unit


def distance_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Huber loss of all B² distances between examples, each network's in units of its own mean positive distance.

    Args:
      student: `[B, C]` embeddings.
      teacher: `[B, C']`.

    Example:
      >>> points = jnp.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
      >>> float(distance_loss(points, 7 * points))
      0.0
    """
    return jnp.mean(_huber(_relative_distances(student) - _relative_distances(teacher)))


def angle_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Huber loss of the cosines of all B³ angles, the corner at each example; points that coincide span none.

    Args:
      student: `[B, C]` embeddings.
      teacher: `[B, C']`.

    Example:
      >>> right, flat = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), jnp.array([[0.0], [1.0], [2.0]])
      >>> float(angle_loss(right, right)) < 0.01 < float(angle_loss(right, flat))
      True
    """
    return jnp.mean(_huber(_cosines(student) - _cosines(teacher)))


def _differences(points: jax.Array) -> jax.Array:
    points = at_least_float32(points)
    return points[None] - points[:, None]


def _relative_distances(points: jax.Array) -> jax.Array:
    distances = length(_differences(points))
    positive = distances > 0
    # Where all examples coincide, the mean of no distances: any unit will do.
    mean = jnp.sum(distances) / jnp.maximum(jnp.sum(positive), 1).astype(distances.dtype)
    return distances / jnp.where(mean > 0, mean, 1.0)


def _cosines(points: jax.Array) -> jax.Array:
    directions = unit(_differences(points))
    return jnp.einsum("ijc,ikc->ijk", directions, directions, precision="highest")


def _huber(error: jax.Array) -> jax.Array:
    size = jnp.abs(error)
    return jnp.where(size < 1, 0.5 * jnp.square(error), size - 0.5)


class RKD(Loss):
    """`distance` · distance loss + `angle` · angle loss of the pooled embeddings. Usual weight: 1.

    A batch of one or two examples has no relations and a loss of 0.

    Args:
      distance: weight of the distances.
      angle: weight of the angles.

    Example:
      >>> from jaxkd import Outputs
      >>> student, teacher = Outputs(None, (jnp.array([[0.0], [1.0]]),)), Outputs(None, (jnp.array([[5.0], [9.0]]),))
      >>> float(RKD()(student, teacher, None, None, None))
      0.0
    """

    def __init__(self, distance: float = 25.0, angle: float = 50.0):
        self.distance = HyperParameter(jnp.float32(distance))
        self.angle = HyperParameter(jnp.float32(angle))

    def build(self, student: Network, teacher: Network | None, rngs) -> None:
        for network in (student, taught(self, teacher)):
            network.feature(-1)

    def __call__(self, student, teacher, batch, progress, key) -> jax.Array:
        ours, theirs = (at_least_float32(net.features[-1]) for net in (student, teacher))
        distance, angle = (weight[...].astype(ours.dtype) for weight in (self.distance, self.angle))
        return distance * distance_loss(ours, theirs) + angle * angle_loss(ours, theirs)
