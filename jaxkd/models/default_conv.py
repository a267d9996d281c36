"""Convolutions that start where PyTorch starts them unless told otherwise, as the ShuffleNets and MobileNetV1 do."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from jaxkd.models.layers import Conv, torch_uniform


def default_conv(inputs: int, outputs: int, window: int, stride: int = 1, *, groups: int = 1, rngs: nnx.Rngs) -> Conv:
    """A `Conv` with weights drawn uniformly from ±1/sqrt(k·k·in/groups).

    Its depthwise kernels start far larger than those of a kaiming initialisation by the number of outputs.

    Example:
      >>> kernel = default_conv(64, 64, 3, groups=64, rngs=nnx.Rngs(0)).kernel
      >>> bool(0.3 < jnp.abs(kernel[...]).max() <= 1 / 3)
      True
    """
    conv = Conv(inputs, outputs, window, stride, groups=groups, rngs=rngs)
    conv.kernel[...] = torch_uniform(rngs.params(), conv.kernel.shape, jnp.float32)
    return conv
