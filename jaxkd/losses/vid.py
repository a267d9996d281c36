"""Variational information distillation (VID; Ahn et al., CVPR 2019): a Gaussian prediction of the teacher's maps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.losses.base import Network
from jaxkd.losses.features import StageLoss, require_teacher, to_smaller
from jaxkd.nn.layers import Linear
from jaxkd.types import Batch, Key, Outputs, Progress, at_least_float32

_EPSILON = 1e-5


def gaussian_nll(mean: jax.Array, variance: jax.Array, target: jax.Array) -> jax.Array:
    """Return the negative log-likelihood of the target under a Gaussian without its constant, averaged.

    It is ½·((mean − target)² / variance + log variance), `[…, C], [C], […, C] -> []`.

    Example:
      >>> float(gaussian_nll(jnp.zeros((1, 1)), jnp.ones(1), jnp.full((1, 1), 3.0)))
      4.5
    """
    variance = variance.reshape((1,) * (mean.ndim - 1) + (-1,))
    return jnp.mean(0.5 * (jnp.square(mean - target) / variance + jnp.log(variance)))


class Regressor(nnx.Module):
    """Predict a teacher's map from a student's: three 1×1 convolutions with ReLU between, one variance per channel.

    The variance is softplus(scale) + 1e-5, trained like the convolutions.
    """

    def __init__(self, inputs: int, outputs: int, variance: float, *, rngs: nnx.Rngs):
        widths = (inputs, outputs, outputs, outputs)
        self.layers = nnx.List([Linear(*pair, bias=False, rngs=rngs) for pair in itertools.pairwise(widths)])
        trained = variance - _EPSILON
        self.scale = nnx.Param(jnp.full(outputs, trained + math.log(-math.expm1(-trained)), jnp.float32))  # softplus⁻¹

    def __call__(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        """Return the negative log-likelihood of the teacher's map."""
        student, target = to_smaller(at_least_float32(student), at_least_float32(teacher))
        first, *others = self.layers
        mean = first(student)
        for layer in others:
            mean = layer(jax.nn.relu(mean))
        return gaussian_nll(mean, jax.nn.softplus(self.scale[...]) + _EPSILON, target)


class VID(StageLoss):
    """The sum over stages of the negative log-likelihood of the teacher's maps, given the student's; usual weight 1.

    Paper: Ahn et al., *Variational Information Distillation for Knowledge Transfer*, CVPR 2019.

    The larger maps are average-pooled to the size of the smaller.

    Args:
      positions: which features; by default the outputs of all stages, see `StageLoss`.
      variance: of every channel before training.

    Raises:
      ValueError: for a variance of 1e-5 or less, and what `StageLoss` refuses.

    Example:
      >>> from jaxkd import Outputs
      >>> vid, maps = VID(positions=(0,), variance=1.0), jnp.zeros((2, 4, 4, 3))
      >>> network = Network(None, Outputs(None, (maps,)))
      >>> vid.build(network, network, nnx.Rngs(0))
      >>> round(abs(float(vid(network.outputs, Outputs(None, (maps + 2.0,)), None, None, None))), 4)  # ½ · 2²
      2.0
    """

    def __init__(self, positions: Sequence[int] | None = None, variance: float = 5.0):
        super().__init__(positions)
        if not (math.isfinite(variance) and variance > _EPSILON):
            raise ValueError(f"variance={variance!r}: give a number above {_EPSILON:g}")
        self.variance = variance

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        super().build(student, teacher, rngs)
        pairs = self.pairs(student.outputs, require_teacher(self, teacher).outputs)
        self.regressors = nnx.List(
            Regressor(ours.shape[-1], theirs.shape[-1], self.variance, rngs=rngs) for ours, theirs in pairs
        )

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        pairs = self.pairs(student, teacher)
        return jnp.stack([regressor(*pair) for regressor, pair in zip(self.regressors, pairs, strict=True)]).sum()
