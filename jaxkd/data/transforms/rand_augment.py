"""RandAugment (Cubuk et al., NeurIPS 2020): a strong view of each image, made on the device.

Every operation is one of three kinds: pixels move (an affine map), pixels change by themselves (a table of 256 values
for each channel), or the image is blended with a plainer version of itself. A batch whose images draw different
operations therefore takes one gather, one table and one blend, in which an image's other two steps change nothing.
Results are those of the Python Imaging Library, whose fixed-point and integer arithmetic is followed.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

OPERATIONS = (
    *("identity", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
    *("posterize", "solarize", "auto_contrast", "equalize"),
    *("brightness", "contrast", "color", "sharpness"),
)
"""The operations by number."""

STRONGEST = 30
"""The largest magnitude."""


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Apply a few randomly drawn operations to each image, all at one magnitude, in either direction.

    An operation is drawn from `OPERATIONS`, with equal chances and independently for each image. At the largest
    magnitude, 30, images turn by 30°, lean by 0.3, move by 0.45 of their size, keep 4 bits, are solarised altogether,
    and change in brightness, contrast, colour or sharpness by 90 percent; smaller ones are in proportion. Pixels from
    outside the image are 0. Without three channels there is no colour to change.

    Attributes:
      operations: how many are applied to an image, one after another.
      magnitude: their strength, 0 to 30.

    Raises:
      ValueError: for fewer than one operation or another magnitude.

    Example:
      >>> import jax, numpy as np
      >>> strong_view = RandAugment(operations=2, magnitude=9)
      >>> strong_view(jax.random.key(0), np.zeros((2, 32, 32, 3), np.uint8)).shape
      (2, 32, 32, 3)
    """

    operations: int = 2
    magnitude: float = 9

    def __post_init__(self) -> None:
        if isinstance(self.operations, bool) or not isinstance(self.operations, int) or self.operations < 1:
            raise ValueError(f"operations={self.operations!r}: a whole number, at least 1")
        if not 0 <= self.magnitude <= STRONGEST:
            raise ValueError(f"magnitude={self.magnitude!r}: choose one from 0 to {STRONGEST}")

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Return a strong view of each image: uint8 `[B, H, W, C]` in and out. The key decides everything."""

        def one(images: jax.Array, step: jax.Array) -> tuple[jax.Array, None]:
            which, direction = jax.random.split(step)
            number = jax.random.randint(which, images.shape[:1], 0, len(OPERATIONS), jnp.int32)
            return self.apply(images, number, jax.random.bernoulli(direction, shape=images.shape[:1])), None

        return jax.lax.scan(one, jnp.asarray(images), jax.random.split(key, self.operations))[0]

    def apply(self, images: jax.Array, number: jax.Array, backward: jax.Array) -> jax.Array:
        """Apply one operation to each image.

        Args:
          images: `[B, H, W, C]` uint8.
          number: `[B]` int32 positions in `OPERATIONS`.
          backward: `[B]` boolean; whether to turn, lean and move the other way, or to weaken instead of strengthen.

        Raises:
          TypeError: for pixels that are not uint8.
        """
        images = jnp.asarray(images)
        if images.dtype != jnp.uint8:
            raise TypeError(f"RandAugment changes uint8 pixels; these are {images.dtype}: augment before normalising")
        images = _moved(images, self._maps(*images.shape[1:3])[backward.astype(jnp.int32), number])
        images = _looked_up(images, self._tables(images, number))
        change = 0.9 * self.magnitude / STRONGEST
        return _blended(images, number, jnp.where(backward, jnp.float32(1 - change), jnp.float32(1 + change)))

    def _maps(self, height: int, width: int) -> jax.Array:
        """Return `[2, operations, 6]` maps in 16-bit fixed point, forward and backward; others are the identity."""
        strength = self.magnitude / STRONGEST
        maps = np.zeros((2, len(OPERATIONS), 6), np.int32)
        for backward, sign in enumerate((1.0, -1.0)):
            radians = sign * math.radians(30 * strength)
            lean, travel = sign * 0.3 * strength, sign * 150 / 331 * strength  # pixels of 331, as the paper has them
            about = _about_centre(math.cos(radians), -math.sin(radians), height, width)
            given = {
                "rotate": about,
                "shear_x": (1.0, lean, 0.0, 0.0, 1.0, 0.0),
                "shear_y": (1.0, 0.0, 0.0, lean, 1.0, 0.0),
                "translate_x": (1.0, 0.0, travel * width, 0.0, 1.0, 0.0),
                "translate_y": (1.0, 0.0, 0.0, 0.0, 1.0, travel * height),
            }
            for number, name in enumerate(OPERATIONS):
                maps[backward, number] = _fixed_point(*given.get(name, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)))
        return jnp.asarray(maps)

    def _tables(self, images: jax.Array, number: jax.Array) -> jax.Array:
        """Return `[B, C, 256]` int32: what each value of a channel becomes."""
        strength = self.magnitude / STRONGEST
        values = np.arange(256, dtype=np.int32)
        dropped = round(4 * strength)
        fixed = {
            "posterize": values >> dropped << dropped,
            "solarize": np.where(values < 255 * (1 - strength), values, 255 - values),
        }
        unchanged = jnp.asarray(np.stack([fixed.get(name, values) for name in OPERATIONS]))[number]
        number = number[:, None, None]
        tables = jnp.where(number == OPERATIONS.index("equalize"), _equalizing(images), unchanged[:, None, :])
        return jnp.where(number == OPERATIONS.index("auto_contrast"), _stretching(images), tables)


def _about_centre(cosine: float, sine: float, height: int, width: int) -> tuple[float, ...]:
    x, y = width / 2, height / 2
    return cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y


def _fixed_point(a: float, b: float, c: float, d: float, e: float, f: float) -> list[int]:
    """Turn a map of coordinates into one of pixel numbers: pixel centres lie at one half, and 1 is 2¹⁶."""
    return [math.floor(value * 65536 + 0.5) for value in (a, b, c + (a + b) / 2, d, e, f + (d + e) / 2)]


def _moved(images: jax.Array, maps: jax.Array) -> jax.Array:
    """Take each pixel from where its image's map points to, the nearest one; 0 from outside."""
    count, height, width, channels = images.shape
    y, x = jnp.meshgrid(jnp.arange(height, dtype=jnp.int32), jnp.arange(width, dtype=jnp.int32), indexing="ij")
    a, b, c, d, e, f = (maps[:, i, None, None] for i in range(6))
    column, row = (a * x[None] + b * y[None] + c) >> 16, (d * x[None] + e * y[None] + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = jnp.where(inside, row * width + column, 0).reshape(count, height * width, 1)
    found = jnp.take_along_axis(images.reshape(count, height * width, channels), place, 1).reshape(images.shape)
    return jnp.where(inside[..., None], found, jnp.uint8(0))


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


def _blended(images: jax.Array, number: jax.Array, factor: jax.Array) -> jax.Array:
    """Return the plainer version plus `factor` times the difference; the image itself for other operations."""
    wide = images.astype(jnp.int32)
    grey = _grey(wide)
    mean = (2 * jnp.sum(grey, (1, 2, 3), keepdims=True) + grey[0].size) // (2 * grey[0].size)
    plainer = {"brightness": jnp.zeros_like(wide), "contrast": mean, "color": grey, "sharpness": _smooth(wide)}
    base = wide
    for name, version in plainer.items():
        chosen = (number == OPERATIONS.index(name))[:, None, None, None]
        base = jnp.where(chosen, version, base)
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
