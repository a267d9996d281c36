"""The small trained parts with which losses bring a student's feature to the teacher's width."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, variance_scaling

from jaxkd.losses.base import Loss, Network

_uniform = variance_scaling(1 / 3, "fan_in", "uniform")  # within ±1/sqrt(inputs)


class Projection(nnx.Module):
    """A linear map of the last axis, `[…, inputs] -> […, outputs]`: a 1×1 convolution where the others are B, H, W.

    Weights and bias start uniform within ±1/sqrt(inputs), as in PyTorch, unless `kernel_init` draws the weights.

    Args:
      inputs: channels it takes.
      outputs: channels it gives.
      bias: whether it also adds a trained constant.
      kernel_init: draws the weights.
      rngs: where the initial values come from.

    Example:
      >>> Projection(3, 5, rngs=nnx.Rngs(0))(jnp.ones((2, 4, 4, 3))).shape
      (2, 4, 4, 5)
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = False, kernel_init: Initializer = _uniform, rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (inputs, outputs), jnp.float32))
        bound = inputs**-0.5
        self.bias = (
            nnx.Param(jax.random.uniform(rngs.params(), (outputs,), minval=-bound, maxval=bound)) if bias else None
        )

    def __call__(self, features: jax.Array) -> jax.Array:
        out = features @ self.kernel[...].astype(features.dtype)
        if self.bias is None:
            return out
        return out + jnp.broadcast_to(self.bias[...].astype(out.dtype), out.shape)


class BatchNorm(nnx.Module):
    """Batch normalisation of the last axis with the statistics of the batch at hand (Ioffe & Szegedy 2015).

    Losses are computed in training only, so it keeps no running statistics.

    Args:
      channels: size of the last axis.
      epsilon: added to the variance.

    Example:
      >>> BatchNorm(1)(jnp.array([[1.0], [3.0]])).round(3).tolist()
      [[-1.0], [1.0]]
    """

    def __init__(self, channels: int, *, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.epsilon = epsilon

    def __call__(self, features: jax.Array) -> jax.Array:
        axes = tuple(range(features.ndim - 1))
        centred = features - features.mean(axes, keepdims=True)
        variance = jnp.square(centred).mean(axes, keepdims=True)
        scale, bias = (
            jnp.broadcast_to(value[...].astype(features.dtype), variance.shape) for value in (self.scale, self.bias)
        )
        return centred * (scale * jax.lax.rsqrt(variance + self.epsilon)) + bias


def embedding_widths(loss: Loss, student: Network, teacher: Network, position: int) -> tuple[int, int]:
    """The channels of both networks' embeddings `[B, C]` at one position.

    Raises:
      ValueError: where a network has no feature there, or has a map instead of a vector; it names what there is.
    """
    found = student.feature(position).shape, teacher.feature(position).shape
    for whose, shape in zip(("student", "teacher"), found, strict=True):
        if len(shape) != 2:
            raise ValueError(
                f"{type(loss).__name__} compares embeddings [C], but the {whose}'s feature {position} has the shape "
                f"{list(shape[1:])}; choose the pooled one, usually the last"
            )
    return found[0][-1], found[1][-1]
