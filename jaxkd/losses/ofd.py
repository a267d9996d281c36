"""Overhaul of feature distillation (OFD; Heo et al., ICCV 2019): the teacher's preactivations, down to a margin."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.losses.base import Loss, Network
from jaxkd.losses.features import StatelessBatchNorm, require_teacher
from jaxkd.nn.initializers import kaiming_fan_out
from jaxkd.nn.layers import BatchNorm, Linear
from jaxkd.types import Batch, Key, Outputs, Progress, at_least_float32

_RARE = 0.001


def expected_negative(mean: float, deviation: float) -> float:
    """Return E[x | x < 0] of a Gaussian, m − s · φ(m/s) / Φ(−m/s); −3s where x < 0 is rarer than one in a thousand.

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
    """Return Σ (student − max(teacher, margin))², averaged over examples, `[B, H, W, C], [B, H, W, C], [C] -> []`.

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
        self.projection = Linear(inputs, len(margin), kernel_init=kaiming_fan_out, bias=False, rngs=rngs)
        self.norm = StatelessBatchNorm(len(margin))
        self.margin = nnx.Variable(jnp.asarray(margin, jnp.float32))

    def __call__(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        moved = self.norm(self.projection(at_least_float32(student)))
        return partial_l2(moved, at_least_float32(teacher), self.margin[...].astype(moved.dtype))


class OFD(Loss):
    """The sum over stages of the partial L2 distance, the last with factor 1, each one before with half of the next.

    Paper: Heo et al., *A Comprehensive Overhaul of Feature Distillation*, ICCV 2019.

    It compares preactivations 1 and on, after the stem. The margin of each channel of the teacher is the mean of its
    negative values, computed from scale and shift of the BatchNorm before it. Published with weight 0.001, as it is
    summed over all places and channels.

    Raises:
      ValueError: at compile, where the networks return no preactivations, or maps of different sizes, or the teacher
        has no method `preactivation_norms()`.
    """

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        teacher = require_teacher(self, teacher)
        stages = range(1, _shared_preactivations(student, teacher))
        margins = _margins(teacher)
        self.connectors = nnx.List(
            [Connector(student.preactivation(i).shape[-1], margins[i], rngs=rngs) for i in stages]
        )

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        pairs = zip(student.preactivations[1:], teacher.preactivations[1:], strict=True)
        costs = jnp.stack([connector(*pair) for connector, pair in zip(self.connectors, pairs, strict=True)])
        return jnp.sum(costs * jnp.asarray(0.5 ** np.arange(len(costs))[::-1], costs.dtype))


def _shared_preactivations(student: Network, teacher: Network) -> int:
    """Return how many preactivations both networks have; after the stem they must agree in size."""
    for network in (student, teacher):
        network.preactivation(1)
    ours, theirs = ([entry.shape[1:3] for entry in network.outputs.preactivations] for network in (student, teacher))
    if ours[1:] != theirs[1:]:
        listed = [", ".join(f"{h}×{w}" for h, w in sizes[1:]) for sizes in (ours, theirs)]
        raise ValueError(
            f"OFD compares preactivations of equal size, but after the stem the student's are {listed[0]} and the "
            f"teacher's {listed[1]}; choose networks whose stages agree"
        )
    return len(ours)


def _margins(teacher: Network) -> list[np.ndarray]:
    """Return the margins `[C]` of each preactivation of the teacher."""
    norms = getattr(teacher.model, "preactivation_norms", None)
    if norms is None:
        raise ValueError(
            f"OFD takes its margins from the teacher's BatchNorms, but {type(teacher.model).__name__} does not give "
            "them: add a method preactivation_norms(), which returns the last one before each preactivation"
        )
    return [_margin(norm) for norm in norms()]


def _margin(norm: BatchNorm) -> np.ndarray:
    means, deviations = (np.asarray(value[...], np.float64) for value in (norm.bias, norm.scale))
    return np.array([expected_negative(*pair) for pair in zip(means, deviations, strict=True)])
