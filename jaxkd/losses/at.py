"""Attention transfer (AT; Zagoruyko & Komodakis, ICLR 2017): the student looks where the teacher looks."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.losses.features import StageLoss, to_smaller
from jaxkd.losses.functional import unit
from jaxkd.types import at_least_float32


def attention(maps: jax.Array) -> jax.Array:
    """Return how active each place is: the mean of x² over the channels, at length one, `[B, H, W, C] -> [B, H·W]`.

    Example:
      >>> attention(jnp.array([[[[2.0], [0.0]]]])).tolist()
      [[1.0, 0.0]]
    """
    active = jnp.mean(jnp.square(maps), axis=-1)
    return unit(active.reshape(len(maps), -1))


def attention_transfer(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Return the mean squared difference of both attentions, `[B, H, W, C], [B, H', W', C'] -> []`.

    The larger maps are averaged down to the smaller.

    Example:
      >>> left, right = (jnp.array([[[[a], [b]]]]) for a, b in ((1.0, 0.0), (0.0, 1.0)))
      >>> float(attention_transfer(left, right))
      1.0
    """
    ours, theirs = to_smaller(at_least_float32(student), at_least_float32(teacher))
    return jnp.mean(jnp.square(attention(ours) - attention(theirs)))


class AT(StageLoss):
    """The sum over stages of the mean squared difference of the attentions, with p = 2; published with weight 1000.

    Paper: Zagoruyko, Komodakis, *Paying More Attention to Attention*, ICLR 2017.

    Args:
      positions: which features; by default every stage after the stem, as in RepDistiller: 1 to 3 of a CIFAR ResNet.

    Raises:
      ValueError: at compile, where the networks have no maps at these positions or different numbers of stages.

    Example:
      >>> from jaxkd import Outputs
      >>> left, right = (Outputs(None, (jnp.array([[[[a], [b]]]]),)) for a, b in ((1.0, 0.0), (0.0, 1.0)))
      >>> float(AT(positions=[0])(left, right, None, None, None))
      1.0
    """

    compare = staticmethod(attention_transfer)
