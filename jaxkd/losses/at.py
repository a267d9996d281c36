"""Attention transfer (Zagoruyko & Komodakis, ICLR 2017): the student looks where the teacher looks."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxkd.losses.base import Loss, Network
from jaxkd.losses.divergence import at_least_float32
from jaxkd.losses.resize import to_smaller
from jaxkd.losses.stages import check_stages, stages, taught
from jaxkd.losses.unit import unit


def attention(maps: jax.Array, power: int = 2) -> jax.Array:
    """How active each place is: the mean over channels of xᵖ, of length one, `[B, H, W, C] -> [B, H·W]`.

    Example:
      >>> attention(jnp.array([[[[2.0], [0.0]]]])).tolist()
      [[1.0, 0.0]]
    """
    active = jnp.mean(at_least_float32(maps) ** power, axis=-1)
    return unit(active.reshape(len(active), -1))


def attention_transfer(student: jax.Array, teacher: jax.Array, power: int = 2) -> jax.Array:
    """Mean squared difference of both attentions; the larger maps are averaged down to the smaller.

    Args:
      student: `[B, H, W, C]`.
      teacher: `[B, H', W', C']`.
      power: p.

    Example:
      >>> maps = jnp.arange(8.0).reshape(1, 2, 2, 2)
      >>> float(attention_transfer(maps, maps))
      0.0
    """
    ours, theirs = to_smaller(at_least_float32(student), at_least_float32(teacher))
    return jnp.mean(jnp.square(attention(ours, power) - attention(theirs, power)))


class AT(Loss):
    """The sum over the stages of the mean squared difference of attention maps, p = 2. Usual weight: 1000.

    Args:
      positions: which features; by default every stage after the stem, as in RepDistiller: 1 to 3 of a CIFAR ResNet.

    Raises:
      ValueError: at compile, where the networks have no maps at these positions or different numbers of stages.

    Example:
      >>> from jaxkd import Outputs
      >>> left, right = (jnp.array([[[[a], [b]]]]) for a, b in ((1.0, 0.0), (0.0, 1.0)))
      >>> float(AT(positions=(0,))(Outputs(None, (left,)), Outputs(None, (right,)), None, None, None))
      1.0
    """

    def __init__(self, positions: Sequence[int] | None = None):
        self.positions = None if positions is None else tuple(positions)

    def build(self, student: Network, teacher: Network | None, rngs) -> None:
        check_stages(self, student, taught(self, teacher), self.positions)

    def __call__(self, student, teacher, batch, progress, key) -> jax.Array:
        pairs = zip(*(stages(net.features, self.positions) for net in (student, teacher)), strict=True)
        return jnp.stack([attention_transfer(ours, theirs) for ours, theirs in pairs]).sum()
