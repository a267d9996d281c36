"""Squeeze-and-excitation (Hu et al. 2018): channels are scaled by what the whole map shows."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx

from jaxkd.nn.activations import Activation, relu
from jaxkd.nn.layers import Conv, Preactivation, global_average_pool


class SqueezeExcite(nnx.Module):
    """Average each map, pass the means through two 1×1 convolutions, and scale each map by the result, from 0 to 1.

    Args:
      channels: of the maps.
      hidden: channels between the two convolutions.
      names: the attributes of the two, as in the published network.
      activation: between the two.
      gate: after the second.
      rngs: keys of the initial weights.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        names: tuple[str, str] = ("fc1", "fc2"),
        activation: Activation = relu,
        gate: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid,
        rngs: nnx.Rngs,
    ):
        setattr(self, names[0], Conv(channels, hidden, 1, bias=True, rngs=rngs))
        setattr(self, names[1], Conv(hidden, channels, 1, bias=True, rngs=rngs))
        self.names = names
        self.activation = activation
        self.gate = gate

    def __call__(self, images: jax.Array) -> jax.Array:
        reduce, expand = (getattr(self, name) for name in self.names)
        means = global_average_pool(images).astype(images.dtype)[:, None, None]
        hidden = self.activation(Preactivation.of(reduce(means)))
        return images * self.gate(expand(hidden))
