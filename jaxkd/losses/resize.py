"""Changing the size of feature maps: both ways are one small matrix for the rows and one for the columns."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def average_pool(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Averages equal parts of the maps, `[B, H, W, C] -> [B, *size, C]`, as PyTorch's adaptive average pooling.

    Where H is no multiple of the new height, neighbouring parts share a row.

    Example:
      >>> average_pool(jnp.array([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1), (2, 1)).ravel().tolist()
      [1.5, 4.0]
    """
    return _resize(maps, size, _averaging)


def nearest(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Repeats or drops rows and columns, `[B, H, W, C] -> [B, *size, C]`: the new row i is row ⌊i · H / height⌋.

    Example:
      >>> nearest(jnp.array([1.0, 2.0]).reshape(1, 2, 1, 1), (4, 1)).ravel().tolist()
      [1.0, 1.0, 2.0, 2.0]
    """
    return _resize(maps, size, _choosing)


def to_smaller(ours: jax.Array, theirs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two batches of maps, each averaged down to the smaller of both heights and of both widths.

    Example:
      >>> ours, theirs = to_smaller(jnp.ones((1, 8, 8, 2)), jnp.ones((1, 4, 4, 3)))
      >>> ours.shape
      (1, 4, 4, 2)
    """
    size = min(ours.shape[1], theirs.shape[1]), min(ours.shape[2], theirs.shape[2])
    return average_pool(ours, size), average_pool(theirs, size)


def _resize(maps: jax.Array, size: tuple[int, ...], matrix: Callable[[int, int], np.ndarray]) -> jax.Array:
    if maps.shape[1:3] == size:
        return maps
    rows, columns = (jnp.asarray(matrix(*pair), maps.dtype) for pair in zip(maps.shape[1:3], size, strict=True))
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, maps, precision="highest")


def _averaging(before: int, after: int) -> np.ndarray:
    """`[after, before]`, each row the weights of one part."""
    matrix = np.zeros((after, before))
    for i in range(after):
        start, end = i * before // after, -((i + 1) * before // -after)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def _choosing(before: int, after: int) -> np.ndarray:
    """`[after, before]`, a single 1 in each row: products instead of indices, whose gradient is a slow scatter."""
    return np.eye(before)[np.arange(after) * before // after]
