"""The smallest images a network can take."""

from __future__ import annotations

import jax


def check_image_size(images: jax.Array, halvings: int) -> None:
    """Refuses images that vanish on their way through a network.

    Args:
      images: `[N, H, W, C]`.
      halvings: how often the network halves height and width.

    Raises:
      ValueError: they have fewer than 2^halvings rows or columns.

    Example:
      >>> import jax.numpy as jnp
      >>> check_image_size(jnp.zeros((1, 16, 16, 3)), halvings=5)
      Traceback (most recent call last):
      ...
      ValueError: images of 16×16 are too small for a network that halves them 5 times: give it ...
    """
    height, width = images.shape[1:3]
    least = 2**halvings
    if min(height, width) < least:
        raise ValueError(
            f"images of {height}×{width} are too small for a network that halves them {halvings} times: give it "
            f"{least}×{least} or larger ones, or choose a network for small images"
        )
