"""Random erasing (Zhong et al., AAAI 2020): a rectangle of an image is hidden, on the device."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxkd.data.transforms.policies import check_prob, known
from jaxkd.data.transforms.resized_crop import check_limits
from jaxkd.types import Normalization

Fill = Literal["noise", "mean"]

_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class RandomErasing:
    """Hide a rectangle of some images; called as `erasing(key, images)`, `[B, H, W, C]` in and out.

    As timm has it: the share of the area is drawn evenly, the height over the width evenly on a logarithmic scale; ten
    such rectangles are tried for an image, and if none is smaller than it, it stays whole. The paper has prob ½ and at
    most 0.4 of the area.

    What is hidden becomes what normal noise, or 0, would be after normalising: in uint8 pixels, noise with the mean and
    the standard deviation of the training set, rounded and cut off at 0 and 255 (timm's mode "pixel"), or the mean
    rounded. Float images are taken as normalised already.

    Attributes:
      prob: the probability that an image loses a part.
      scale: the least and the greatest share of its area.
      ratio: the least and the greatest height over width.
      fill: "noise" or "mean".
      normalization: whose mean and deviation; None takes those with which training normalises the images.

    Raises:
      ValueError: for numbers out of range, or another fill.

    Example:
      >>> import jax, numpy as np
      >>> from jaxkd import Normalization
      >>> erasing = RandomErasing(prob=1.0, fill="mean", normalization=Normalization((0.5,), (0.25,)))
      >>> image = erasing(jax.random.key(0), np.zeros((1, 16, 16, 1), np.uint8))
      >>> sorted(set(np.asarray(image).ravel().tolist()))
      [0, 128]
    """

    prob: float = 0.25
    scale: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    fill: Fill = "noise"
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        check_prob(self.prob)
        check_limits(self)
        if self.fill not in get_args(Fill):
            raise ValueError(f"fill={self.fill!r}: choose one of {', '.join(get_args(Fill))}")

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Return the images with parts of some hidden: `[B, H, W, C]`, the dtype stays. The key decides everything.

        Raises:
          ValueError: for uint8 pixels without a normalization.
        """
        images = jnp.asarray(images)
        where, what = jax.random.split(key)
        hidden = self.draw(where, *images.shape[:3])[..., None]
        noise = self.fill == "noise"
        filling = jax.random.normal(what, images.shape, jnp.float32) if noise else jnp.zeros((1, 1, 1, 1))
        if images.dtype == jnp.uint8:
            mean, std = (
                jnp.asarray(values, jnp.float32)[None, None, None] for values in known(self.normalization, self)
            )
            filling = jnp.clip(jnp.rint(255 * (mean + std * filling)), 0, 255)
        return jnp.where(hidden, filling.astype(images.dtype), images)

    def draw(self, key: jax.Array, count: int, height: int, width: int) -> jax.Array:
        """Return which pixels are hidden, `[count, height, width]` boolean."""
        even = jax.random.uniform(key, (3 + 2 * _ATTEMPTS, count), jnp.float32)  # at once, since each draw is compiled
        whether, places, size, shape = even[0], even[1:3], even[3 : 3 + _ATTEMPTS].T, even[3 + _ATTEMPTS :].T
        (least, greatest), (low, high) = self.scale, (math.log(limit) for limit in self.ratio)
        area = height * width * (least + (greatest - least) * size)
        aspect = jnp.exp(low + (high - low) * shape)
        high_wide = jnp.rint(jnp.sqrt(jnp.stack([area * aspect, area / aspect]))).astype(jnp.int32)
        fits = (high_wide[0] < height) & (high_wide[1] < width)
        first = jnp.argmax(fits, axis=1)[None, :, None]
        sides = jnp.take_along_axis(high_wide, first, axis=2)[..., 0]
        hidden = ((whether < self.prob) & fits.any(1))[:, None, None]
        for axis, (length, side, place) in enumerate(zip((height, width), sides, places, strict=True), 1):
            room = (jnp.maximum(length - side, 0) + 1).astype(jnp.float32)
            start = jnp.floor(place * room).astype(jnp.int32)[:, None]
            number = jnp.arange(length, dtype=jnp.int32)[None]
            within = (number >= start) & (number < start + side[:, None])
            hidden = hidden & jnp.expand_dims(within, 3 - axis)
        return hidden
