"""The operations of augmentation policies, on a batch of uint8 images at once, on the device.

Every operation is one of three kinds: pixels move (an affine map), pixels change by themselves (a table of 256 values
for each channel), or the image is blended with a plainer version of itself. A batch whose images draw different
operations therefore takes one gather, one table and one blend, in which an image's other two steps change nothing.
Results are those of the Python Imaging Library, whose fixed-point and integer arithmetic is followed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KINDS = (
    *("identity", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
    *("posterize", "solarize", "solarize_add", "invert", "auto_contrast", "equalize"),
    *("brightness", "contrast", "color", "sharpness"),
)
"""The operations that there are."""


class Setting(NamedTuple):
    """An operation, and how strongly it is applied.

    Attributes:
      name: one of `KINDS`.
      amount: of `rotate` degrees anticlockwise, of shears how far a line leans for each pixel, of translations pixels
        to the left and upwards, of `posterize` the bits that are kept, of `solarize` the value from which pixels are
        inverted, of `solarize_add` what is added to values below 128, of the last four the factor, 1 for no change.
        The others have none.
    """

    name: str
    amount: float = 0.0


class _Table(NamedTuple):
    """What each of n settings does in each of the steps.

    Attributes:
      maps: `[n, 6]` float64, from a place in the result to one in the image; in pixels.
      kind: `[n]` int32 positions in `KINDS`.
      dropped: `[n]` int32, lowest bits that are lost.
      inverted: `[n]` int32, the value from which pixels are inverted; 256 inverts none.
      added: `[n]` int32, what is added to values below 128.
      factor: `[n]` float32, of the difference from the plainer version.
    """

    maps: np.ndarray
    kind: np.ndarray
    dropped: np.ndarray
    inverted: np.ndarray
    added: np.ndarray
    factor: np.ndarray


def apply(
    images: jax.Array,
    settings: Sequence[Setting],
    chosen: jax.Array,
    outside: Sequence[int] | None = None,
    bicubic: bool = False,
) -> jax.Array:
    """Apply one operation to each image.

    Args:
      images: `[B, H, W, C]` uint8. Without three channels there is no colour to change.
      settings: of the operations.
      chosen: `[B]` int32, which of the settings each image gets.
      outside: what pixels from outside an image become, for each channel; by default 0.
      bicubic: whether images that move are interpolated; otherwise the nearest pixel is taken.
    """
    table = _table(settings, *images.shape[1:3])
    fill = jnp.zeros(images.shape[-1], jnp.uint8) if outside is None else jnp.asarray(outside, jnp.uint8)
    if bicubic:
        images = _interpolated(images, jnp.asarray(table.maps, jnp.float32)[chosen], fill)
    else:
        images = _moved(images, jnp.asarray(_fixed_point(table.maps))[chosen], fill)
    kind, dropped, inverted, added, factor = (jnp.asarray(column)[chosen] for column in table[1:])
    images = _looked_up(images, _values(images, kind, dropped, inverted, added))
    return _blended(images, kind, factor)


def _table(settings: Sequence[Setting], height: int, width: int) -> _Table:
    def of(name: str, amount: float) -> tuple[tuple[float, ...], int, int, int, int, float]:
        maps = {
            "rotate": _about_centre(amount, height, width),
            "shear_x": (1.0, amount, 0.0, 0.0, 1.0, 0.0),
            "shear_y": (1.0, 0.0, 0.0, amount, 1.0, 0.0),
            "translate_x": (1.0, 0.0, amount, 0.0, 1.0, 0.0),
            "translate_y": (1.0, 0.0, 0.0, 0.0, 1.0, amount),
        }
        return (
            maps.get(name, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
            KINDS.index(name),
            8 - int(amount) if name == "posterize" else 0,
            {"solarize": math.ceil(amount), "invert": 0}.get(name, 256),
            int(amount) if name == "solarize_add" else 0,
            amount if name in _BLENDS else 1.0,
        )

    columns = zip(*(of(*setting) for setting in settings), strict=True)
    types = (np.float64, np.int32, np.int32, np.int32, np.int32, np.float32)
    return _Table(*(np.array(column, kind) for column, kind in zip(columns, types, strict=True)))


def _about_centre(degrees: float, height: int, width: int) -> tuple[float, ...]:
    cosine, sine = math.cos(math.radians(degrees)), -math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y


def _fixed_point(maps: np.ndarray) -> np.ndarray:
    """Turn maps of coordinates into maps of pixel numbers: pixel centres lie at one half, and 1 is 2¹⁶."""
    a, b, c, d, e, f = maps.T
    numbers = np.stack([a, b, c + (a + b) / 2, d, e, f + (d + e) / 2], axis=1)
    return np.floor(numbers * 65536 + 0.5).astype(np.int32)


def _places(height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Return the row and the column of each pixel, `[1, H, W]` int32."""
    row, column = jnp.meshgrid(jnp.arange(height, dtype=jnp.int32), jnp.arange(width, dtype=jnp.int32), indexing="ij")
    return row[None], column[None]


def _moved(images: jax.Array, maps: jax.Array, fill: jax.Array) -> jax.Array:
    """Take each pixel from where its image's map `[B, 6]` points to, the nearest one; `fill` `[C]` from outside."""
    height, width = images.shape[1:3]
    y, x = _places(height, width)
    a, b, c, d, e, f = (maps[:, i, None, None] for i in range(6))
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return jnp.where(inside[..., None], _pixels(images, row, column), fill[None, None, None])


def _interpolated(images: jax.Array, maps: jax.Array, fill: jax.Array) -> jax.Array:
    """Do what `_moved` does, with a cubic through the four nearest rows and columns (the sharpness a is −1)."""
    height, width = images.shape[1:3]
    y, x = (place.astype(jnp.float32) + 0.5 for place in _places(height, width))
    a, b, c, d, e, f = (maps[:, i, None, None] for i in range(6))
    column, row = a * x + b * y + c, d * x + e * y + f
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    left, top = jnp.floor(column - 0.5), jnp.floor(row - 0.5)
    across, down = column - 0.5 - left, row - 0.5 - top

    def pixels(i: int, j: int) -> jax.Array:
        return _pixels(images, top.astype(jnp.int32) + i, left.astype(jnp.int32) + j).astype(jnp.float32)

    rows = [_cubic([pixels(i, j) for j in range(-1, 3)], across[..., None]) for i in range(-1, 3)]
    found = jnp.clip(_cubic(rows, down[..., None]), 0, 255).astype(jnp.uint8)
    return jnp.where(inside[..., None], found, fill[None, None, None])


def _cubic(values: Sequence[jax.Array], part: jax.Array) -> jax.Array:
    """Return the value at a part of the way from the second to the third; exact where all are the same."""
    one, two, three, four = values
    return two + part * (three - one + part * (2 * (one - two) + three - four + part * (two - one + four - three)))


def _pixels(images: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """Return the pixels in the given places `[B, H, W]`; those on the border for places beyond it."""
    count, height, width, channels = images.shape
    place = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
    flat = images.reshape(count, height * width, channels)
    return jnp.take_along_axis(flat, place.reshape(count, height * width, 1), 1).reshape(images.shape)


def _values(images: jax.Array, kind: jax.Array, dropped: jax.Array, inverted: jax.Array, added: jax.Array) -> jax.Array:
    """Return `[B, C, 256]` int32: what each value of a channel becomes."""
    kind, dropped, inverted, added = (column[:, None, None] for column in (kind, dropped, inverted, added))
    values = jnp.arange(256, dtype=jnp.int32)[None, None, :]
    kept = values >> dropped << dropped
    own = jnp.where(values < inverted, kept, 255 - values)
    own = jnp.where(values < 128, jnp.minimum(own + added, 255), own)
    own = jnp.where(kind == KINDS.index("equalize"), _equalizing(images), own)
    return jnp.where(kind == KINDS.index("auto_contrast"), _stretching(images), own)


def _looked_up(images: jax.Array, tables: jax.Array) -> jax.Array:
    count, height, width, channels = images.shape
    pixels = images.transpose(0, 3, 1, 2).reshape(count, channels, height * width).astype(jnp.int32)
    found = jnp.take_along_axis(tables.astype(jnp.uint8), pixels, -1)
    return found.reshape(count, channels, height, width).transpose(0, 2, 3, 1)


def _stretching(images: jax.Array) -> jax.Array:
    """Return tables that stretch each channel's values over the whole range."""
    low, high = (limit(images, (1, 2)).astype(jnp.int32)[..., None] for limit in (jnp.min, jnp.max))
    values = jnp.arange(256, dtype=jnp.int32)[None, None, :]
    stretched = jnp.clip((values - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    return jnp.where(high > low, stretched, values)


def _equalizing(images: jax.Array) -> jax.Array:
    """Return tables that make all values of a channel about equally frequent."""
    count, height, width, channels = images.shape
    image, channel = jnp.arange(count)[:, None, None, None], jnp.arange(channels)[None, None, None, :]
    frequency = jnp.zeros((count, channels, 256), jnp.int32).at[image, channel, images.astype(jnp.int32)].add(1)
    high = jnp.max(images, (1, 2)).astype(jnp.int32)[..., None]
    step = (height * width - jnp.take_along_axis(frequency, high, -1)) // 255
    below = jnp.cumsum(frequency, axis=-1) - frequency
    values = jnp.arange(256, dtype=jnp.int32)[None, None, :]
    return jnp.where(step > 0, jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255), values)


_BLENDS = ("brightness", "contrast", "color", "sharpness")


def _blended(images: jax.Array, kind: jax.Array, factor: jax.Array) -> jax.Array:
    """Return the plainer version plus `factor` times the difference; the image itself for other operations."""
    wide = images.astype(jnp.int32)
    grey = _grey(wide)
    mean = (2 * jnp.sum(grey, (1, 2, 3), keepdims=True) + grey[0].size) // (2 * grey[0].size)
    base = wide
    for name, version in zip(_BLENDS, (jnp.zeros_like(wide), mean, grey, _smooth(wide)), strict=True):
        base = jnp.where((kind == KINDS.index(name))[:, None, None, None], version, base)
    blend = base.astype(jnp.float32) + factor[:, None, None, None] * (wide - base).astype(jnp.float32)
    return jnp.clip(blend, 0, 255).astype(jnp.uint8)


def _grey(images: jax.Array) -> jax.Array:
    """Return luma (ITU-R 601-2) `[B, H, W, 1]`; images without three channels as they are."""
    if images.shape[-1] != 3:
        return images
    red, green, blue = (images[..., i : i + 1] for i in range(3))
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def _smooth(images: jax.Array) -> jax.Array:
    """Average each inner pixel with its neighbours, itself counting five times; leave the border as it is."""
    height, width = images.shape[1:3]
    if min(height, width) < 3:
        return images
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * images[:, 1:-1, 1:-1]
    return images.at[:, 1:-1, 1:-1].set((2 * total + 13) // 26)
