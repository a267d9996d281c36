"""Variational information distillation (VID; Ahn et al., CVPR 2019): predicting the teacher's maps, and how surely."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.base import Outputs
from jaxkd.losses.base import Loss, Network
from jaxkd.losses.divergence import at_least_float32
from jaxkd.losses.projection import Projection
from jaxkd.losses.resize import to_smaller
from jaxkd.losses.stages import check_stages, stages, taught

_EPSILON = 1e-5


def gaussian_surprise(mean: jax.Array, variance: jax.Array, target: jax.Array) -> jax.Array:
    """Mean of ½·((mean − target)² / variance + log variance), `[…, C], [C], […, C] -> []`.

    It is the negative log-likelihood of the target under a Gaussian, without the constant.

    Example:
      >>> float(gaussian_surprise(jnp.zeros((1, 1)), jnp.ones(1), jnp.full((1, 1), 3.0)))
      4.5
    """
    variance = variance.reshape((1,) * (mean.ndim - 1) + (-1,))
    return jnp.mean(0.5 * (jnp.square(mean - target) / variance + jnp.log(variance)))


class Regressor(nnx.Module):
    """Predicts a teacher's map from a student's: three 1×1 convolutions with ReLU between, one variance per channel.

    The variance is softplus(scale) + 1e-5, trained like the convolutions.
    """

    def __init__(self, inputs: int, outputs: int, variance: float, *, rngs: nnx.Rngs):
        widths = (inputs, outputs, outputs, outputs)
        self.layers = nnx.List([Projection(*pair, rngs=rngs) for pair in itertools.pairwise(widths)])
        trained = variance - _EPSILON
        self.scale = nnx.Param(jnp.full(outputs, trained + math.log(-math.expm1(-trained))))  # softplus⁻¹

    def __call__(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        """How surprising the teacher's map is."""
        student, target = to_smaller(at_least_float32(student), at_least_float32(teacher))
        first, *others = self.layers
        mean = first(student)
        for layer in others:
            mean = layer(jax.nn.relu(mean))
        return gaussian_surprise(mean, jax.nn.softplus(self.scale[...]) + _EPSILON, target)


class VID(Loss):
    """The sum over the stages of how surprising the teacher's maps are, given the student's; published with weight 1.

    Where maps differ in size, the larger are averaged down to the smaller.

    Args:
      positions: which features; by default every stage after the stem, as in RepDistiller: 1 to 3 of a CIFAR ResNet.
      variance: of every channel before training.

    Raises:
      ValueError: for a variance of 1e-5 or less; at compile, where the networks have no maps at these positions or
        different numbers of stages.

    Example:
      >>> from jaxkd import Outputs
      >>> vid, maps = VID(positions=(0,), variance=1.0), jnp.zeros((2, 4, 4, 3))
      >>> network = Network(None, Outputs(None, (maps,)))
      >>> vid.build(network, network, nnx.Rngs(0))
      >>> round(abs(float(vid(network.outputs, Outputs(None, (maps + 2.0,)), None, None, None))), 4)  # ½ · 2²
      2.0
    """

    def __init__(self, positions: Sequence[int] | None = None, variance: float = 5.0):
        if not (math.isfinite(variance) and variance > _EPSILON):
            raise ValueError(f"variance={variance!r}: give a number above {_EPSILON:g}")
        self.positions = None if positions is None else tuple(positions)
        self.variance = variance

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        teacher = taught(self, teacher)
        check_stages(self, student, teacher, self.positions)
        self.regressors = nnx.List(
            Regressor(ours.shape[-1], theirs.shape[-1], self.variance, rngs=rngs)
            for ours, theirs in self._pairs(student.outputs, teacher.outputs)
        )

    def _pairs(self, student: Outputs, teacher: Outputs) -> Iterator[tuple[jax.Array, jax.Array]]:
        return zip(*(stages(network.features, self.positions) for network in (student, teacher)), strict=True)

    def __call__(self, student, teacher, batch, progress, key) -> jax.Array:
        pairs = self._pairs(student, teacher)
        return jnp.stack([regressor(*pair) for regressor, pair in zip(self.regressors, pairs, strict=True)]).sum()
