"""Images at the size that a network sees, where it says one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def resized(network: Any, images: jax.Array) -> jax.Array:
    """Return images at the size that a network sees: its attribute `resize_to`, height and width, where it has one.

    So a student can look at large images and its teacher at the same ones small. Where the size is another, pixels are
    interpolated linearly, and averaged where they become fewer; that may as well be done after they were normalised.

    Args:
      network: any.
      images: `[…, H, W, C]`.

    Example:
      >>> from types import SimpleNamespace
      >>> resized(SimpleNamespace(resize_to=4), jnp.ones((1, 2, 2, 3))).shape
      (1, 4, 4, 3)
    """
    side = getattr(network, "resize_to", None)
    if side is None or images.shape[-3:-1] == (side, side):
        return images
    shape = (*images.shape[:-3], side, side, images.shape[-1])
    return jax.image.resize(images.astype(jnp.float32), shape, "linear").astype(images.dtype)
