"""Pad, crop and flip: the augmentation of the CIFAR recipes, on the device."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Zero-pad each image, crop it back to its size at a random place, and mirror half of them.

    An image has only `views` = (2·pad + 1)² · (2 if flip else 1) different outcomes. They are numbered, so that what
    depends on an outcome alone (a teacher's logits, say) can be kept: `augmentation(key, images)` is
    `augmentation.view(images, augmentation.draw(key, len(images)))`.

    Pixels outside the image are 0, that is black before normalisation, as torchvision's `RandomCrop(padding=4)` has it.

    Attributes:
      pad: pixels added on each side, at least 0 and less than the images' height and width.
      flip: whether to mirror left and right with probability ½.

    Raises:
      TypeError: pad is not an integer, or flip not a boolean.
      ValueError: pad is negative, or so large that a crop could miss the image altogether.

    Example:
      >>> import jax, numpy as np
      >>> augmentation = Augmentation(pad=4, flip=True)
      >>> augmentation.views
      162
      >>> augmentation(jax.random.key(0), np.zeros((2, 32, 32, 3), np.uint8)).shape
      (2, 32, 32, 3)
    """

    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.pad, int) or isinstance(self.pad, bool):
            raise TypeError(f"pad is a whole number of pixels; got {self.pad!r}")
        if self.pad < 0:
            raise ValueError(f"pad={self.pad} is negative; pad=0 leaves every image in its place")
        if not isinstance(self.flip, bool):
            raise TypeError(f"flip is True or False; got {self.flip!r}")

    @property
    def views(self) -> int:
        """The number of different views of an image."""
        return (2 * self.pad + 1) ** 2 * (1 + self.flip)

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Return a random view of each image: `[B, H, W, C]` in, the same shape and dtype out. The key decides all."""
        return self.view(images, self.draw(key, images.shape[0]))

    def draw(self, key: jax.Array, count: int) -> jax.Array:
        """Return `[count]` int32 view numbers, each of 0 … views-1 equally likely."""
        return jax.random.randint(key, (count,), 0, self.views, jnp.int32)

    def view(self, images: jax.Array, number: jax.Array) -> jax.Array:
        """Return the view with the given number of each image.

        Args:
          images: `[B, H, W, C]`, any dtype.
          number: `[B]` integers from 0 to views-1.
        """
        images = jnp.asarray(images)
        height, width = images.shape[1:3]
        if self.pad >= min(height, width):
            raise ValueError(
                f"pad={self.pad} would let a crop miss a {height}×{width} image altogether: "
                f"use a pad below {min(height, width)}"
            )
        place, mirrored = jnp.divmod(number, 2) if self.flip else (number, jnp.zeros_like(number))
        top, left = jnp.divmod(place, 2 * self.pad + 1)
        sliced = functools.partial(_sliced, pad=self.pad, flip=self.flip)
        if images.dtype != jnp.uint8:
            return sliced(images, top, left, mirrored)
        chosen = functools.partial(_chosen_by_products, pad=self.pad)
        return jax.lax.platform_dependent(images, top, left, mirrored, tpu=chosen, default=sliced)


def _sliced(images: jax.Array, top: jax.Array, left: jax.Array, mirrored: jax.Array, pad: int, flip: bool) -> jax.Array:
    """Slice each image, the fastest way inside `lax.scan` on two CPU cores, and a good one on a GPU.

    0.46 ms for 64 images of 32×32×3, the reading of the batch included; one gather by pixel index takes 0.87 ms,
    products with one-hot matrices 0.62 ms, a choice among static shifts 4.7 ms.
    """
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    views = jax.vmap(
        lambda image, row, column: jax.lax.dynamic_slice(image, (row, column, jnp.zeros_like(row)), images.shape[1:])
    )(padded, top, left)
    return jnp.where((mirrored == 1)[:, None, None, None], views[:, :, ::-1], views) if flip else views


def _chosen_by_products(images: jax.Array, top: jax.Array, left: jax.Array, mirrored: jax.Array, pad: int) -> jax.Array:
    """Choose rows and columns by products with one-hot matrices; a TPU slices images one after the other.

    Whole numbers up to 256 are exact in bfloat16, and each sum has one term.
    """
    height, width = images.shape[1:3]
    rows, columns = jnp.arange(height)[None] - pad, jnp.arange(width)[None] - pad
    columns = jnp.where(mirrored[:, None] == 1, columns[:, ::-1], columns)
    by_row = jax.nn.one_hot(top[:, None] + rows, height, dtype=jnp.bfloat16)
    by_column = jax.nn.one_hot(left[:, None] + columns, width, dtype=jnp.bfloat16)
    cropped = jnp.einsum("bip,bpqc->biqc", by_row, images.astype(jnp.bfloat16))
    return jnp.einsum("bjq,biqc->bijc", by_column, cropped).astype(jnp.uint8)
