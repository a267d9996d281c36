"""Initial weights, as `jax.nn.initializers` draws them, for all shapes by the same few compiled programs.

JAX compiles a draw anew for each shape, which takes longer than all else when a network is created: seconds for its
dozens of shapes. Here numbers are drawn in rows of a few lengths and cut to shape. They are the same ones, since JAX
begins a longer row with the numbers of a shorter one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer

LENGTHS = tuple(4**power for power in range(8, 12))
"""Of the rows that shapes are cut from, 65,536 to 4,194,304 numbers; what is longer is drawn by itself."""

Draw = Callable[..., jax.Array]
"""Called as `(key, shape, dtype=…)`, as functions of `jax.random` are; each number is independent of the others."""


def drawn(draw: Draw, key: jax.Array, shape: Sequence[int], scale: float = 1.0) -> jax.Array:
    """Return `scale * draw(key, shape)` in float32.

    Example:
      >>> key = jax.random.key(0)
      >>> bool((drawn(jax.random.normal, key, (3, 5), 0.5) == 0.5 * jax.random.normal(key, (3, 5))).all())
      True
    """
    count = math.prod(shape)
    length = next((length for length in LENGTHS if length >= count), count)
    return _cut(draw(key, shape=(length,), dtype=jnp.float32), np.float32(scale), tuple(shape))


@functools.partial(jax.jit, static_argnames="shape")
def _cut(row: jax.Array, scale: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return scale * row[: math.prod(shape)].reshape(shape)


def uniform(key: jax.Array, shape: Sequence[int], bound: float) -> jax.Array:
    """Return numbers uniform within ±`bound`."""
    return drawn(functools.partial(jax.random.uniform, minval=-bound, maxval=bound), key, shape)


def normal(deviation: float) -> Initializer:
    """Return an initializer that draws normal numbers."""
    return _initializer(jax.random.normal, lambda shape: deviation)


def variance_scaling(
    scale: float, fan: Literal["fan_in", "fan_out"], distribution: Literal["normal", "uniform"]
) -> Initializer:
    """Return an initializer for kernels `[…, in, out]` that draws numbers of variance `scale` / fan.

    Args:
      scale: the variance times the fan.
      fan: the number of inputs that an output is computed from, or of outputs that an input is in, both times the size
        of the window.
      distribution: of the numbers.
    """

    def deviation(shape: Sequence[int]) -> float:
        variance = np.float32(scale / math.prod((*shape[:-2], shape[-2] if fan == "fan_in" else shape[-1])))
        return float(np.sqrt(variance if distribution == "normal" else np.float32(3) * variance))

    if distribution == "normal":
        return _initializer(jax.random.normal, deviation)
    return _initializer(functools.partial(jax.random.uniform, minval=-1.0), deviation)


def _initializer(draw: Draw, scale: Callable[[Sequence[int]], float]) -> Initializer:
    def initialize(
        key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None
    ) -> jax.Array:
        return drawn(draw, key, shape, scale(shape)).astype(dtype)

    return initialize


kaiming_fan_in = variance_scaling(2.0, "fan_in", "normal")
"""Normal with variance 2 / (k·k·in), PyTorch's `kaiming_normal_` (He et al. 2015): the DenseNets."""

kaiming_fan_out = variance_scaling(2.0, "fan_out", "normal")
"""Normal with variance 2 / (k·k·out): the initial convolutions of the CIFAR ResNets, WRNs and VGGs (He et al. 2015)."""

torch_uniform = variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within ±1/sqrt(fan_in), PyTorch's default for the weights of linear layers and convolutions."""
