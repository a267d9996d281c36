"""From images to tokens and back: sizes, patches, and position embeddings for images of other sizes.

A parameter that is tied to the size of images says by which rule it is resized, in its metadata `positions`, as timm
does it; the rules work on arrays in PyTorch's layout, at the moment a file is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import Initializer

from jaxkd.nn.attention import TORCH_EPSILON, LayerNorm
from jaxkd.nn.convolution import convolve, shifted
from jaxkd.nn.initializers import normal, torch_uniform, uniform
from jaxkd.nn.layers import Conv
from jaxkd.nn.operations import saved


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


class PatchConv(nnx.Module):
    """A convolution without padding, `[N, H, W, in] -> [N, H', W', out]`; pixels that fill no window are left out.

    Windows that lie side by side are a matrix product, which is faster than a convolution on every platform.

    Args:
      inputs: channels of the images.
      outputs: channels of the result.
      window: height and width of a patch.
      stride: from one patch to the next; `window` by default.
      kernel_init: of the kernel.
      bias_init: of the bias; by default uniform within the bounds of a kernel by `torch_uniform`.
      rngs: keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        window: int,
        stride: int | None = None,
        *,
        kernel_init: Initializer = torch_uniform,
        bias_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (window, window, inputs, outputs), jnp.float32))
        bound = (window * window * inputs) ** -0.5
        bias = uniform(rngs.params(), (outputs,), bound)
        self.bias = nnx.Param(bias if bias_init is None else bias_init(rngs.params(), (outputs,), jnp.float32))
        self.stride = stride or window

    def __call__(self, images: jax.Array) -> jax.Array:
        kernel, bias = self.kernel[...].astype(images.dtype), self.bias[...].astype(images.dtype)
        window, _, inputs, outputs = kernel.shape
        if self.stride != window:
            out = convolve(images, kernel, self.stride, 0)
        else:
            rows, columns = (size // window for size in images.shape[1:3])
            whole = images[:, : rows * window, : columns * window].reshape(-1, rows, window, columns, window, inputs)
            patches = whole.swapaxes(2, 3).reshape(-1, rows, columns, window * window * inputs)
            out = patches @ kernel.reshape(-1, outputs)
        return saved(out + bias.reshape(1, 1, 1, -1))


class NormedConv(nnx.Module):
    """A convolution `proj` and a LayerNorm `norm`: from an image, or a map, to the map of a stage."""

    def __init__(self, proj: PatchConv | Conv, width: int):
        self.proj = proj
        self.norm = LayerNorm(width, epsilon=TORCH_EPSILON)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.norm(self.proj(images))


def to_tokens(maps: jax.Array) -> jax.Array:
    """Return the pixels of maps, `[B, H, W, C] -> [B, H·W, C]`."""
    return maps.reshape(maps.shape[0], -1, maps.shape[-1])


def to_maps(tokens: jax.Array, size: int | tuple[int, ...]) -> jax.Array:
    """Return tokens as maps of this height and width, `[B, H·W, C] -> [B, H, W, C]`."""
    height, width = (size, size) if isinstance(size, int) else size
    return tokens.reshape(tokens.shape[0], height, width, tokens.shape[-1])


def unfold(images: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """Return all windows as vectors, as `torch.nn.functional.unfold`: the channels outermost.

    Args:
      images: `[B, H, W, C]`.
      window: height and width of each.
      stride: from one to the next.
      padding: zeros added on all four sides.

    Returns:
      `[B, H', W', C · window²]`.

    Example:
      >>> unfold(jnp.arange(4.0).reshape(1, 2, 2, 1), 2, 2, 0).ravel().tolist()
      [0.0, 1.0, 2.0, 3.0]
    """
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((size - window) // stride + 1 for size in padded.shape[1:3])
    shifts = [shifted(padded, i, j, rows, columns, stride) for i in range(window) for j in range(window)]
    return jnp.stack(shifts, axis=-1).reshape(images.shape[0], rows, columns, -1)


Shape = tuple[int, ...]

ANY = 10_037
"""Stands for an axis whose length depends on the size of images: a number that no layer is as wide as."""


class Positions(Protocol):
    """A rule by which a parameter depends on the size of images."""

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
    return nnx.Param(normal(0.02)(rngs.params(), shape), positions=positions)


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
