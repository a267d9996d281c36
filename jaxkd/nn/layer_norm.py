"""Layer normalisation (Ba et al. 2016), over the channels of each pixel or token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxkd.types import at_least_float32

TORCH_EPSILON = 1e-5
"""PyTorch's own; vision transformers take 1e-6 in most places."""


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, `[…, C] -> […, C]`; mean and variance are float32 at least.

    Args:
      channels: C.
      epsilon: added to the variance. PyTorch's own is 1e-5; vision transformers take 1e-6.

    Example:
      >>> LayerNorm(2)(jnp.array([[1.0, 3.0]])).round(3).tolist()
      [[-1.0, 1.0]]
    """

    def __init__(self, channels: int, *, epsilon: float = 1e-6):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.epsilon = epsilon

    def __call__(self, values: jax.Array) -> jax.Array:
        wide = at_least_float32(values)
        centred = wide - wide.mean(-1, keepdims=True)
        unit = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        scale, bias = (value[...].reshape((1,) * (values.ndim - 1) + (-1,)) for value in (self.scale, self.bias))
        return (unit * scale + bias).astype(values.dtype)
