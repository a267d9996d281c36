"""The small trained parts with which losses bring a student's feature to the teacher's width."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import Initializer, variance_scaling

from jaxkd.losses.base import Loss, Network
from jaxkd.nn.convolution import convolve

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


def average_pool(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Averages equal parts of the maps, `[B, H, W, C] -> [B, *size, C]`, as PyTorch's adaptive average pooling.

    Where H is no multiple of the new height, neighbouring parts share a row.

    Example:
      >>> average_pool(jnp.array([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1), (2, 1)).ravel().tolist()
      [1.5, 4.0]
    """
    return _resize(maps, size, _averaging)


def nearest(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Repeats or drops rows and columns, `[B, H, W, C] -> [B, *size, C]`: the new row i is row ⌊i · H / height⌋.

    Example:
      >>> nearest(jnp.array([1.0, 2.0]).reshape(1, 2, 1, 1), (4, 1)).ravel().tolist()
      [1.0, 1.0, 2.0, 2.0]
    """
    return _resize(maps, size, _choosing)


def to_smaller(ours: jax.Array, theirs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two batches of maps, each averaged down to the smaller of both heights and of both widths.

    Example:
      >>> ours, theirs = to_smaller(jnp.ones((1, 8, 8, 2)), jnp.ones((1, 4, 4, 3)))
      >>> ours.shape
      (1, 4, 4, 2)
    """
    size = min(ours.shape[1], theirs.shape[1]), min(ours.shape[2], theirs.shape[2])
    return average_pool(ours, size), average_pool(theirs, size)


def _resize(maps: jax.Array, size: tuple[int, ...], matrix: Callable[[int, int], np.ndarray]) -> jax.Array:
    if maps.shape[1:3] == size:
        return maps
    rows, columns = (jnp.asarray(matrix(*pair), maps.dtype) for pair in zip(maps.shape[1:3], size, strict=True))
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, maps, precision="highest")


def _averaging(before: int, after: int) -> np.ndarray:
    """`[after, before]`, each row the weights of one part."""
    matrix = np.zeros((after, before))
    for i in range(after):
        start, end = i * before // after, -((i + 1) * before // -after)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def _choosing(before: int, after: int) -> np.ndarray:
    """`[after, before]`, a single 1 in each row: products instead of indices, whose gradient is a slow scatter."""
    return np.eye(before)[np.arange(after) * before // after]


_unit_uniform = variance_scaling(1.0, "fan_in", "uniform")


class Fusion(nnx.Module):
    """Brings maps to a common width, weighs them against the deeper maps at each place, and predicts the teacher's.

    Args:
      inputs: channels of the student's maps.
      outputs: channels of the teacher's maps.
      width: channels of what is passed on from the deepest stage to the first.
      deepest: whether this is the last stage, which has nothing deeper to fuse with.
      rngs: where the initial values come from.
    """

    def __init__(self, inputs: int, outputs: int, width: int, *, deepest: bool, rngs: nnx.Rngs):
        self.projection = Projection(inputs, width, kernel_init=_unit_uniform, rngs=rngs)
        self.norm = BatchNorm(width)
        self.attention = None if deepest else Projection(2 * width, 2, bias=True, rngs=rngs)
        self.kernel = nnx.Param(_unit_uniform(rngs.params(), (3, 3, width, outputs), jnp.float32))
        self.out_norm = BatchNorm(outputs)

    def __call__(self, maps: jax.Array, deeper: jax.Array | None, size: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """What is compared with the teacher, `[B, *size, outputs]`, and what is passed on, `[B, *size, width]`."""
        fused = self.norm(self.projection(maps))
        if self.attention is not None:
            assert deeper is not None
            deeper = nearest(deeper, maps.shape[1:3])
            weights = jax.nn.sigmoid(self.attention(jnp.concatenate([fused, deeper], axis=-1)))
            fused = fused * weights[..., :1] + deeper * weights[..., 1:]
        fused = nearest(fused, size)
        return self.out_norm(convolve(fused, self.kernel[...].astype(fused.dtype), 1, 1)), fused
