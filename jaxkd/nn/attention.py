"""The parts of vision transformers: normalisation, attention, perceptron and the block of both.

A. Dosovitskiy et al., ICLR 2021. Tokens are `[B, N, C]`. Attributes have timm's names, so that the keys of its files
fit.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import zeros

from jaxkd.checks import check_number
from jaxkd.nn.initializers import normal
from jaxkd.nn.layers import Linear
from jaxkd.nn.operations import attend, gelu, layer_norm, saved

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
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, values: jax.Array) -> jax.Array:
        return layer_norm(values, self.scale[...], self.bias[...], self.epsilon)


class Rate(nnx.Variable[jax.Array]):
    """A probability that a layer was made with: a variable, so that blocks of different rates are stacked as equals."""


class DropPath(nnx.Module):
    """Leave out a branch, `[B, …] -> [B, …]`: zero for an example with a given probability, larger for all others.

    Stochastic depth (Huang et al. 2016). Evaluation takes the branch as it is. The random keys are variables of the
    network, with a count that grows with each draw. So the engine carries them along like running statistics: they are
    saved, restored and stacked, and a resumed run draws what an uninterrupted one would.

    Args:
      rate: the probability of leaving it out, from 0 to below 1.
      rngs: its stream `dropout` gives the key of the draws.

    Raises:
      ValueError: for a rate outside [0, 1).

    Example:
      >>> drop = DropPath(0.5, rngs=nnx.Rngs(0))
      >>> sorted(set(drop(jnp.ones((64, 1)), train=True).ravel().tolist()))
      [0.0, 2.0]
    """

    keeps_statistics: bool = False  # as of BatchNorm: true of a layer that is frozen

    def __init__(self, rate: float, *, rngs: nnx.Rngs):
        check_number("drop_path", rate, below=1.0)
        self.rate = Rate(jnp.float32(rate))
        self.stream = rngs.dropout.fork()

    def __call__(self, branch: jax.Array, train: bool) -> jax.Array:
        if not train or self.keeps_statistics:
            return branch
        keep = 1 - self.rate[...]
        kept = jax.random.bernoulli(self.stream(), keep, (len(branch),) + (1,) * (branch.ndim - 1))
        return branch * (kept.astype(keep.dtype) / keep).astype(branch.dtype)


def drop_paths(rate: float, depth: int, *, rngs: nnx.Rngs) -> list[DropPath | None]:
    """Return one `DropPath` for each block of a network, of rates that grow from 0 to `rate`; None where it is 0.

    Raises:
      ValueError: for a rate that is not from 0 to below 1.

    Example:
      >>> [drop.rate[...].round(2).item() for drop in drop_paths(0.5, 3, rngs=nnx.Rngs(0))]
      [0.0, 0.25, 0.5]
      >>> drop_paths(0.0, 2, rngs=nnx.Rngs(0))
      [None, None]
    """
    check_number("drop_path", rate, below=1.0)
    return [DropPath(float(own), rngs=rngs) if rate else None for own in np.linspace(0, rate, depth)]


def dropout(rate: float, *, rngs: nnx.Rngs) -> nnx.Dropout | None:
    """Return a dropout of single values, called as `layer(values, deterministic=not train)`; None where it is 0.

    Raises:
      ValueError: for a rate that is not from 0 to below 1.
    """
    check_number("dropout", rate, below=1.0)
    return nnx.Dropout(rate, rngs=rngs) if rate else None


TokenLinear = functools.partial(Linear, kernel_init=normal(0.02), bias_init=zeros)
"""A linear layer as transformers begin: weights of deviation 0.02, no bias."""


class Frozen(nnx.Variable[jax.Array]):
    """Weights that are in a state dict and that training leaves as they are."""


class Attention(nnx.Module):
    """Multi-head self-attention, `[B, N, C] -> [B, N, C]`.

    Args:
      width: C.
      heads: the number of heads, which divides C.
      bias: whether queries, keys and values have one.
      scale: of the scores; by default (C / heads)^-1/2.
      drop: the probability of dropping an output.
      rngs: keys of the initial weights, and of dropout.

    Raises:
      ValueError: for a width that does not divide into the heads.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        bias: bool = True,
        scale: float | None = None,
        drop: float = 0.0,
        rngs: nnx.Rngs,
    ):
        check_heads(width, heads)
        self.qkv = TokenLinear(width, 3 * width, bias=bias, rngs=rngs)
        self.proj = TokenLinear(width, width, rngs=rngs)
        self.drop = dropout(drop, rngs=rngs)
        self.heads, self.scale = heads, scale

    def __call__(self, tokens: jax.Array, train: bool, bias: jax.Array | None = None) -> jax.Array:
        batch, count, width = tokens.shape
        packed = saved(self.qkv(tokens)).reshape(batch, count, 3, self.heads, width // self.heads)
        mixed = attend(packed, bias=bias, scale=self.scale).reshape(tokens.shape)
        return dropped(self.drop, saved(self.proj(mixed)), train)


class Mlp(nnx.Module):
    """Two linear layers with a GELU between them, over the last axis.

    Args:
      width: of inputs and outputs.
      hidden: of what is between.
      drop: the probability of dropping a value behind either layer.
      rngs: keys of the initial weights, and of dropout.
    """

    def __init__(self, width: int, hidden: int, *, drop: float = 0.0, rngs: nnx.Rngs):
        self.fc1 = TokenLinear(width, hidden, rngs=rngs)
        self.fc2 = TokenLinear(hidden, width, rngs=rngs)
        self.drop1, self.drop2 = dropout(drop, rngs=rngs), dropout(drop, rngs=rngs)

    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        hidden = dropped(self.drop1, gelu(saved(self.fc1(tokens))), train)
        return dropped(self.drop2, saved(self.fc2(hidden)), train)


class LayerScale(nnx.Module):
    """A learnt factor for each channel of a branch (Touvron et al., CaiT, 2021)."""

    def __init__(self, width: int, initial: float):
        self.gamma = nnx.Param(jnp.full(width, initial, jnp.float32))

    def __call__(self, branch: jax.Array) -> jax.Array:
        return branch * self.gamma[...].astype(branch.dtype).reshape((1,) * (branch.ndim - 1) + (-1,))


class Block(nnx.Module):
    """Attention and perceptron, each behind a LayerNorm and added to what it came from.

    Args:
      width: C.
      heads: of the attention.
      hidden: width of the perceptron.
      qkv_bias: whether queries, keys and values have a bias.
      scale: of the scores; by default that of `Attention`.
      epsilon: of the LayerNorms.
      layer_scale: the first value of both branches' factors; None for none.
      drop: the dropout of both branches.
      drop_path: leaves branches out; None never does.
      rngs: keys of the initial weights, and of dropout.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        qkv_bias: bool = True,
        scale: float | None = None,
        epsilon: float = 1e-6,
        layer_scale: float | None = None,
        drop: float = 0.0,
        drop_path: DropPath | None = None,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(width, epsilon=epsilon)
        self.attn = Attention(width, heads, bias=qkv_bias, scale=scale, drop=drop, rngs=rngs)
        self.ls1 = None if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = LayerNorm(width, epsilon=epsilon)
        self.mlp = Mlp(width, hidden, drop=drop, rngs=rngs)
        self.ls2 = None if layer_scale is None else LayerScale(width, layer_scale)
        self.drop_path = drop_path

    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        tokens = self._add(tokens, self.attn(self.norm1(tokens), train), self.ls1, train)
        return self._add(tokens, self.mlp(self.norm2(tokens), train), self.ls2, train)

    def _add(self, tokens: jax.Array, branch: jax.Array, scale: LayerScale | None, train: bool) -> jax.Array:
        return add_branch(tokens, branch if scale is None else scale(branch), self.drop_path, train)


def learnt_token(width: int, rngs: nnx.Rngs) -> nnx.Param[jax.Array]:
    """Return a token that stands for no part of an image, `[1, 1, C]`."""
    return nnx.Param(normal(0.02)(rngs.params(), (1, 1, width), jnp.float32))


def repeated(token: nnx.Param[jax.Array], values: jax.Array) -> jax.Array:
    """Return a learnt token for each image of tokens or maps, `[B, 1, C]`, in their type."""
    return jnp.broadcast_to(token[...].astype(values.dtype), (values.shape[0], 1, values.shape[-1]))


def add_branch(values: jax.Array, branch: jax.Array, drop_path: DropPath | None, train: bool) -> jax.Array:
    """Return the sum, without the branch where `drop_path` leaves it out."""
    return values + (branch if drop_path is None else drop_path(branch, train))


def dropped(layer: nnx.Dropout | None, values: jax.Array, train: bool) -> jax.Array:
    """Return the values behind a dropout, which there may not be, and which does nothing where it is frozen."""
    if layer is None:
        return values
    frozen = getattr(layer, "keeps_statistics", False)  # Flax's own attribute is what the user's `eval()` sets
    return layer(values, deterministic=not train or frozen)


def check_heads(width: int, heads: int) -> None:
    """Refuse a width that does not divide into the heads.

    Raises:
      ValueError: with both numbers.

    Example:
      >>> check_heads(192, 5)
      Traceback (most recent call last):
      ...
      ValueError: width 192 does not divide into 5 heads
    """
    if heads < 1 or width % heads:
        raise ValueError(f"width {width} does not divide into {heads} heads")
