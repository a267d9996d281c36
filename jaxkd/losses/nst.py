"""Neuron selectivity transfer (Huang & Wang, 2017): both networks' channels respond to the same places."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxkd.losses.base import Loss, Network
from jaxkd.losses.divergence import at_least_float32
from jaxkd.losses.resize import to_smaller
from jaxkd.losses.stages import check_stages, stages, taught
from jaxkd.losses.unit import unit


def kernel_mmd(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Squared maximum mean discrepancy of the channels, with the kernel k(a, b) = (a · b)².

    Each channel's map, of length one, is one sample; the student's C and the teacher's C' may differ.

    Args:
      student: `[B, H, W, C]`.
      teacher: `[B, H', W', C']`; the larger maps are averaged down to the smaller.

    Example:
      >>> maps = jnp.arange(1.0, 9.0).reshape(1, 2, 2, 2)
      >>> abs(round(float(kernel_mmd(maps, 3 * maps)), 5))
      0.0
    """
    ours, theirs = (_channels(maps) for maps in to_smaller(at_least_float32(student), at_least_float32(teacher)))
    return _mean_kernel(ours, ours) + _mean_kernel(theirs, theirs) - 2 * _mean_kernel(ours, theirs)


def _channels(maps: jax.Array) -> jax.Array:
    """`[B, H, W, C] -> [B, H·W, C]`, each channel of length one."""
    return unit(maps.reshape(len(maps), -1, maps.shape[-1]), axis=1)


def _mean_kernel(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(jnp.einsum("bnc,bnd->bcd", a, b, precision="highest")))


class NST(Loss):
    """The sum over the stages of the squared discrepancy. Usual weight: 50.

    Args:
      positions: which features; by default every stage after the stem, as in RepDistiller: 1 to 3 of a CIFAR ResNet.

    Raises:
      ValueError: at compile, where the networks have no maps at these positions or different numbers of stages.

    Example:
      >>> from jaxkd import Outputs
      >>> left, right = (jnp.array([[[[a], [b]]]]) for a, b in ((1.0, 0.0), (0.0, 1.0)))
      >>> float(NST(positions=(0,))(Outputs(None, (left,)), Outputs(None, (right,)), None, None, None))
      2.0
    """

    def __init__(self, positions: Sequence[int] | None = None):
        self.positions = None if positions is None else tuple(positions)

    def build(self, student: Network, teacher: Network | None, rngs) -> None:
        check_stages(self, student, taught(self, teacher), self.positions)

    def __call__(self, student, teacher, batch, progress, key) -> jax.Array:
        pairs = zip(*(stages(net.features, self.positions) for net in (student, teacher)), strict=True)
        return jnp.stack([kernel_mmd(ours, theirs) for ours, theirs in pairs]).sum()
