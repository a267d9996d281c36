"""The channel shuffle of the ShuffleNets, which lets groups of channels that are treated apart see each other."""

from __future__ import annotations

import jax


def channel_shuffle(values: jax.Array, groups: int) -> jax.Array:
    """Deals the channels of equal groups out in turn: the first of each group, then the second of each, and so on.

    Args:
      values: `[…, C]`, maps or one value per channel.
      groups: how many groups of adjacent channels there are; divides C.

    Returns:
      The same values in another order, `[…, C]`.

    Example:
      >>> import jax.numpy as jnp
      >>> channel_shuffle(jnp.arange(6), 2).tolist()
      [0, 3, 1, 4, 2, 5]
    """
    return values.reshape(*values.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(values.shape)
