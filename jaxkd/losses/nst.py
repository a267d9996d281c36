"""Neuron selectivity transfer (NST; Huang & Wang 2017): the student's channels respond where the teacher's do."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.losses.features import StageLoss, to_smaller
from jaxkd.losses.functional import unit
from jaxkd.types import at_least_float32


def channel_discrepancy(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Return the squared maximum mean discrepancy of the channels with the kernel k(a, b) = (a · b)².

    `[B, H, W, C], [B, H', W', C'] -> []`. A sample is one channel's map at length one, so the numbers of channels
    may differ. The larger maps are averaged down to the smaller.

    Example:
      >>> left, right = (jnp.array([[[[a], [b]]]]) for a, b in ((1.0, 0.0), (0.0, 1.0)))
      >>> float(channel_discrepancy(left, right))
      2.0
    """
    pooled = to_smaller(at_least_float32(student), at_least_float32(teacher))
    ours, theirs = (_selectivity(maps) for maps in pooled)
    return _mean_kernel(ours, ours) + _mean_kernel(theirs, theirs) - 2 * _mean_kernel(ours, theirs)


def _selectivity(maps: jax.Array) -> jax.Array:
    """Return the maps of each channel at length one, `[B, H, W, C] -> [B, C, H·W]`."""
    return unit(maps.reshape(len(maps), -1, maps.shape[-1]).swapaxes(1, 2))


def _mean_kernel(a: jax.Array, b: jax.Array) -> jax.Array:
    # Three nearly equal means are added and subtracted, which narrower products would blur.
    return jnp.mean(jnp.square(jnp.einsum("bcn,bdn->bcd", a, b, precision="highest")))


class NST(StageLoss):
    """The sum over stages of the discrepancy of the channels; published with weight 50.

    Paper: Huang, Wang, *Like What You Like: Knowledge Distill via Neuron Selectivity Transfer*, 2017.

    Args:
      positions: which features; by default every stage after the stem, as in RepDistiller: 1 to 3 of a CIFAR ResNet.

    Raises:
      ValueError: at compile, where the networks have no maps at these positions or different numbers of stages.

    Example:
      >>> from jaxkd import Outputs
      >>> left, right = (Outputs(None, (jnp.array([[[[a], [b]]]]),)) for a, b in ((1.0, 0.0), (0.0, 1.0)))
      >>> float(NST(positions=[0])(left, right, None, None, None))
      2.0
    """

    compare = staticmethod(channel_discrepancy)
