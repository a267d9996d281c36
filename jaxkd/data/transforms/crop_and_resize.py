"""A random part of each image, as large as the whole: the crop that large images are trained on, for small ones."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxkd.data.transforms.resized_crop import centre_box, check_limits

_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class CropAndResize:
    """Resize a random part of each image to the size of the image; called as `crop(key, images)`, on the device.

    Parts are drawn as `RandomResizedCrop` draws them for images from files, by torchvision's definition; they are
    resized by a cubic, as timm's recipes do it. It takes the place of a data set's own shifted crops, of which
    `dataset.replace(augmentation=data.Augmentation(pad=0))` leaves the mirroring.

    Attributes:
      scale: the least and the greatest share of the image's area.
      ratio: the least and the greatest width over height.

    Raises:
      ValueError: for limits that are not positive, or in the wrong order.

    Example:
      >>> import jax, numpy as np
      >>> crop = CropAndResize(scale=(0.25, 1.0))
      >>> crop(jax.random.key(0), np.zeros((2, 32, 32, 3), np.uint8)).shape
      (2, 32, 32, 3)
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        check_limits(self)

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Return the parts: `[B, H, W, C]` in and out, the dtype stays. The key decides everything."""
        images = jnp.asarray(images)
        return resized_parts(images, self.draw(key, *images.shape[:3]))

    def draw(self, key: jax.Array, count: int, height: int, width: int) -> jax.Array:
        """Return the part of each image: left edge, top edge, width and height, `[count, 4]` int32."""
        even = jax.random.uniform(key, (2 + 2 * _ATTEMPTS, count), jnp.float32)  # at once, since each draw is compiled
        places, size, shape = even[:2], even[2 : 2 + _ATTEMPTS], even[2 + _ATTEMPTS :]
        (least, greatest), (low, high) = self.scale, (math.log(limit) for limit in self.ratio)
        area = height * width * (least + (greatest - least) * size)
        aspect = jnp.exp(low + (high - low) * shape)
        sides = jnp.rint(jnp.sqrt(jnp.stack([area * aspect, area / aspect]))).astype(jnp.int32)
        whole = jnp.array([width, height], jnp.int32)
        fits = jnp.all((sides > 0) & (sides <= whole[:, None, None]), axis=0)
        first = jnp.argmax(fits, axis=0)[None, None]
        chosen = jnp.take_along_axis(sides, first, axis=1)[:, 0]
        room = (whole[:, None] - chosen + 1).astype(jnp.float32)
        drawn = jnp.concatenate([jnp.floor(places * room).astype(jnp.int32), chosen])
        left, top, right, bottom = centre_box(width, height, self.ratio)
        middle = jnp.array([left, top, right - left, bottom - top], jnp.int32)
        return jnp.where(fits.any(0)[None], drawn, middle[:, None]).T


def resized_parts(images: jax.Array, parts: jax.Array) -> jax.Array:
    """Resize a part of each image to the size of the image, by a cubic that sees that part alone.

    As Pillow does it, columns first; what comes of uint8 pixels is rounded after either.

    Args:
      images: `[B, H, W, C]`.
      parts: left edge, top edge, width and height, `[B, 4]` integers, within the image.
    """
    height, width = images.shape[1:3]
    left, top, wide, high = (parts[:, i] for i in range(4))
    columns, rows = _weights(left, wide, width), _weights(top, high, height)
    across = jnp.einsum("bjq,bpqc->bpjc", columns, images.astype(jnp.float32), precision="highest")
    down = jnp.einsum("bip,bpjc->bijc", rows, _like(images, across), precision="highest")
    return _like(images, down).astype(images.dtype)


def _weights(start: jax.Array, side: jax.Array, length: int) -> jax.Array:
    """Return what each pixel takes of those between `start` and `start + side`, `[B, length, length]` shares."""
    number = jnp.arange(length, dtype=jnp.int32)
    place = number.astype(jnp.float32) + 0.5
    scale = side.astype(jnp.float32) / length
    centre = start.astype(jnp.float32)[:, None] + place[None] * scale[:, None]
    distance = jnp.abs(place[None, None] - centre[:, :, None])
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    cubic = jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0.0))  # a = −½, as Pillow has it
    within = (number[None] >= start[:, None]) & (number[None] < (start + side)[:, None])
    kept = jnp.where(within[:, None], cubic, 0.0)
    return kept / kept.sum(-1, keepdims=True)


def _like(images: jax.Array, values: jax.Array) -> jax.Array:
    """Return values as the images have them, in float32: whole ones from 0 to 255 for uint8 pixels."""
    return jnp.clip(jnp.rint(values), 0, 255) if images.dtype == jnp.uint8 else values
