"""Overhaul of feature distillation (OFD; Heo et al., ICCV 2019): what the teacher's ReLUs receive, up to a margin."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.losses.base import Loss, Network
from jaxkd.losses.divergence import at_least_float32
from jaxkd.losses.projection import BatchNorm, Projection
from jaxkd.losses.shapes import name_of, taught_by

_RARE = 0.001


def expected_negative(mean: float, deviation: float) -> float:
    """E[x | x < 0] of a Gaussian, m − s · φ(m/s) / Φ(−m/s); −3s where x < 0 is rarer than one in a thousand.

    Example:
      >>> round(expected_negative(0.0, 1.0), 4)  # −√(2/π)
      -0.7979
    """
    deviation = abs(deviation)
    if deviation == 0:
        return min(mean, 0.0)
    ratio = mean / deviation
    negative = math.erfc(ratio / math.sqrt(2)) / 2
    if negative <= _RARE:
        return -3 * deviation
    return mean - deviation * math.exp(-ratio * ratio / 2) / math.sqrt(2 * math.pi) / negative


def partial_l2(student: jax.Array, teacher: jax.Array, margin: jax.Array) -> jax.Array:
    """Σ (student − max(teacher, margin))² of each example, averaged, `[B, H, W, C], [B, H, W, C], [C] -> []`.

    Where the target is not positive, a student below it costs nothing: the ReLU hides the difference.

    Example:
      >>> student, teacher = jnp.array([[[[1.0, -9.0]]]]), jnp.array([[[[3.0, -5.0]]]])
      >>> float(partial_l2(student, teacher, jnp.array([-1.0, -1.0])))
      4.0
    """
    target = jnp.maximum(teacher, margin.reshape(1, 1, 1, -1))
    hidden = (student <= target) & (target <= 0)
    return jnp.sum(jnp.where(hidden, 0.0, jnp.square(student - target))) / len(student)


class Connector(nnx.Module):
    """One stage: a 1×1 convolution and BatchNorm from the student's channels to the teacher's, and the margin."""

    def __init__(self, inputs: int, margin: np.ndarray, *, rngs: nnx.Rngs):
        self.projection = Projection(inputs, len(margin), rngs=rngs)
        self.norm = BatchNorm(len(margin))
        self.margin = nnx.Variable(jnp.asarray(margin, jnp.float32))

    def __call__(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        moved = self.norm(self.projection(at_least_float32(student)))
        return partial_l2(moved, at_least_float32(teacher), self.margin[...].astype(moved.dtype))


class OFD(Loss):
    """The sum over stages of the partial L2 distance, the last with factor 1, each one before with half of the next.

    It compares preactivations 1 and on, after the stem. The margin of each channel of the teacher is the mean of its
    negative values, as scale and shift of the BatchNorm before it tell. Published with weight 0.001, as it is summed
    over all places and channels.

    Raises:
      ValueError: at compile, where the networks return no preactivations, or maps of different sizes, or the teacher
        does not tell its `preactivation_norms()`.
    """

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        teacher = taught_by("OFD", teacher)
        positions = _stages(student, teacher)
        norms = _norms(teacher)
        self.connectors = nnx.List(
            [Connector(student.preactivation(i).shape[-1], _margins(norms[i]), rngs=rngs) for i in positions]
        )

    def __call__(self, student, teacher, batch, progress, key) -> jax.Array:
        total = jnp.float32(0.0)
        for connector, ours, theirs in zip(
            self.connectors, student.preactivations[1:], teacher.preactivations[1:], strict=True
        ):
            total = total / 2 + connector(ours, theirs)
        return total


def _margins(norm) -> np.ndarray:
    shifts, scales = (np.asarray(value[...], np.float64) for value in (norm.bias, norm.scale))
    return np.array([expected_negative(*pair) for pair in zip(shifts, scales, strict=True)])


def _norms(teacher: Network):
    norms = getattr(teacher.model, "preactivation_norms", None)
    if norms is None:
        raise ValueError(
            f"OFD takes its margins from the teacher's BatchNorms, but {name_of(teacher)} has no method "
            "preactivation_norms(), which returns the last one before each preactivation"
        )
    return norms()


def _stages(student: Network, teacher: Network) -> range:
    for network in (student, teacher):
        network.preactivation(1)
    shapes = [[entry.shape[1:3] for entry in network.outputs.preactivations] for network in (student, teacher)]
    if shapes[0][1:] != shapes[1][1:]:
        listed = [", ".join(f"{i}: {h}×{w}" for i, (h, w) in enumerate(sizes)) for sizes in shapes]
        raise ValueError(
            f"OFD needs preactivations of the same sizes after the stem, but {name_of(student)} has {listed[0]} and "
            f"{name_of(teacher)} {listed[1]}"
        )
    return range(1, len(shapes[0]))
