"""Position embeddings for images of other sizes than a network was trained on, resized as timm does it.

A parameter that is tied to the size of images says by which rule, in its metadata `positions`; the rules work on arrays
in PyTorch's layout, at the moment a file is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np
from flax import nnx

Shape = tuple[int, ...]

ANY = 10_037
"""Stands for an axis whose length depends on the size of images: a number that no layer is as wide as."""


class Positions(Protocol):
    """How a parameter depends on the size of images."""

    def pattern(self, shape: Shape) -> Shape:
        """Return the shape with `ANY` for what varies."""

    def side(self, shape: Shape) -> int:
        """Return the height and width of the grid or window that a shape is for; 0 if it is for none."""

    def resized(self, values: np.ndarray, shape: Shape) -> np.ndarray:
        """Return the values for another grid."""


@dataclass(frozen=True)
class TokenGrid:
    """One embedding for each token, `[1, prefix + side², C]`.

    Attributes:
      prefix: the number of tokens before those of the image, which stay as they are.
    """

    prefix: int

    def pattern(self, shape: Shape) -> Shape:
        return (1, ANY, shape[2])

    def side(self, shape: Shape) -> int:
        return _root(shape[1] - self.prefix)

    def resized(self, values: np.ndarray, shape: Shape) -> np.ndarray:
        before, after = self.side(values.shape), self.side(shape)
        grid = values[:, self.prefix :].reshape(1, before, before, -1)
        return np.concatenate([values[:, : self.prefix], resample(grid, after).reshape(1, -1, shape[2])], axis=1)


@dataclass(frozen=True)
class MapGrid:
    """One embedding for each pixel of a map, `[1, C, side, side]`."""

    def pattern(self, shape: Shape) -> Shape:
        return (*shape[:2], ANY, ANY)

    def side(self, shape: Shape) -> int:
        return shape[2] if shape[2] == shape[3] else 0

    def resized(self, values: np.ndarray, shape: Shape) -> np.ndarray:
        return resample(values.transpose(0, 2, 3, 1), shape[2]).transpose(0, 3, 1, 2)


@dataclass(frozen=True)
class WindowBias:
    """One bias for each offset between two pixels of a window, and each head: `[(2·side − 1)², heads]`."""

    def pattern(self, shape: Shape) -> Shape:
        return (ANY, shape[1])

    def side(self, shape: Shape) -> int:
        offsets = _root(shape[0])
        return (offsets + 1) // 2 if offsets % 2 else 0

    def resized(self, values: np.ndarray, shape: Shape) -> np.ndarray:
        before, after = math.isqrt(values.shape[0]), math.isqrt(shape[0])
        weights = _offset_weights(before, after)
        tables = values.reshape(before, before, -1)
        return np.einsum("ij,kl,jlh->ikh", weights, weights, tables).reshape(shape).astype(values.dtype)


def position_embedding(shape: Shape, positions: Positions, rngs: nnx.Rngs) -> nnx.Param[jax.Array]:
    """Return learnt positions, drawn with deviation 0.02."""
    values = 0.02 * jax.random.normal(rngs.params(), shape)
    return nnx.Param(values, positions=positions)


def resample(grid: np.ndarray, side: int) -> np.ndarray:
    """Resize a grid, `[1, h, w, C] -> [1, side, side, C]`, by bicubic interpolation with antialiasing.

    The kernel is Keys's with a = −1/2, widened where the grid shrinks: `torch.nn.functional.interpolate(mode="bicubic",
    antialias=True)`, by which timm resizes.
    """
    shape = (1, side, side, grid.shape[-1])
    return np.asarray(jax.image.resize(grid.astype(np.float32), shape, "cubic", antialias=True)).astype(grid.dtype)


def _offset_weights(before: int, after: int) -> np.ndarray:
    """Return the weights by which one axis of a table of offsets is interpolated, `[after, before]`.

    The offsets of the old window are spread in geometric progression, near ones closely, so that they span the new
    window, and the new ones are interpolated linearly between them (Bao et al., BEiT, 2022; timm).
    """
    low, high = 1.01, 1.5
    ratio = low
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (low, ratio) if (1 - ratio ** (before // 2)) / (1 - ratio) > after // 2 else (ratio, high)
    steps = np.cumsum([ratio**power for power in range(before // 2)])
    known = np.concatenate([-steps[::-1], [0.0], steps])
    wanted = np.arange(after) - after // 2
    return np.stack([np.interp(wanted, known, one) for one in np.eye(before)], axis=1)


def _root(number: int) -> int:
    """Return the whole square root of a number; 0 where it has none."""
    root = math.isqrt(max(number, 0))
    return root if root * root == number else 0


def grid_side(image_size: int, patch: int) -> int:
    """Return how many patches lie side by side.

    Raises:
      ValueError: for images that do not divide into patches.

    Example:
      >>> grid_side(224, 16)
      14
    """
    if patch < 1:
        raise ValueError(f"patch_size={patch}: must be at least 1")
    if image_size < patch or image_size % patch:
        nearest = max(round(image_size / patch), 1) * patch
        raise ValueError(f"image_size={image_size} does not divide into patches of {patch}: the nearest is {nearest}")
    return image_size // patch


def check_images(images: jax.Array, image_size: int) -> None:
    """Refuse images of another size than the positions of a network are for.

    Args:
      images: `[N, H, W, C]`.
      image_size: height and width that the network was made for.

    Raises:
      ValueError: with the cure.
    """
    height, width = images.shape[1:3]
    if (height, width) != (image_size, image_size):
        raise ValueError(
            f"images of {height}×{width}, but this network has position embeddings for {image_size}×{image_size}: "
            + (f"create or load it with image_size={height}" if height == width else "give it square images")
        )
