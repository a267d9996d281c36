"""Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019): each image is mixed with another of its batch.

Both are as timm has them in its mode "batch", with which DeiT was trained: all images of a batch share one draw, and
the partner of the first is the last, that of the second the last but one, and so on.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.types import Batch, MixedLabels


class Mixture(NamedTuple):
    """A way to mix the images of a batch.

    Attributes:
      weights: `[H, W]`, what each pixel keeps of the image itself; the rest is its partner's.
      share: λ, their mean: what the image's own label counts.
    """

    weights: jax.Array
    share: jax.Array


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Mix each batch, by mixup or by CutMix.

    Mixup takes λ of an image and 1 − λ of its partner, λ from Beta(α, α). CutMix puts a box of the partner into the
    image, around a random place, with 1 − λ of its area before it is cut off at the border; λ is then what is left of
    the image. uint8 pixels are rounded. What the labels are then worth: see `MixedLabels`.

    Attributes:
      mixup_alpha: α of mixup; 0 never mixes so.
      cutmix_alpha: α of CutMix; 0 never mixes so.
      prob: the probability that a batch is mixed at all.
      switch_prob: the probability of CutMix where both can be.

    Raises:
      ValueError: for numbers out of range, or where neither is on.

    Example:
      >>> mixing = Mixing(mixup_alpha=0.8, cutmix_alpha=1.0)
      >>> mixture = mixing.draw(jax.random.key(0), height=8, width=8)
      >>> mixture.weights.shape, bool(jnp.isclose(mixture.weights.mean(), mixture.share))
      ((8, 8), True)
    """

    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    prob: float = 1.0
    switch_prob: float = 0.5

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value!r}: give a finite number, 0 or more")
        for name in ("prob", "switch_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: a probability is from 0 to 1")
        if not self.mixup_alpha and not self.cutmix_alpha:
            raise ValueError("mixup_alpha=0 and cutmix_alpha=0 mix nothing: give one of them, or leave mixing out")

    def __call__(self, key: jax.Array, batch: Batch) -> Batch:
        """Return a batch `[B, …]` of mixed images, both views of each in the same way. The key decides everything."""
        mixture = self.draw(key, *batch.images.shape[1:3])
        share = jnp.broadcast_to(mixture.share, batch.labels.shape)
        return batch._replace(
            images=mixed_pixels(batch.images, mixture.weights),
            strong=None if batch.strong is None else mixed_pixels(batch.strong, mixture.weights),
            mixed=MixedLabels(batch.labels[::-1], share),
        )

    def draw(self, key: jax.Array, height: int, width: int) -> Mixture:
        """Return how a batch of images of this size is mixed."""
        whether, which, how_much, where = jax.random.split(key, 4)
        if self.mixup_alpha and self.cutmix_alpha:
            cuts = jax.random.bernoulli(which, self.switch_prob)
        else:
            cuts = jnp.bool_(self.cutmix_alpha > 0)
        alpha = jnp.where(cuts, jnp.float32(self.cutmix_alpha), jnp.float32(self.mixup_alpha))
        one, other = jax.random.loggamma(how_much, alpha, (2,), jnp.float32)
        drawn = jax.nn.sigmoid(one - other)  # of Beta(α, α), and compiled in half the time of jax.random.beta
        share = jnp.where(jax.random.bernoulli(whether, self.prob), drawn, 1.0)
        outside = jnp.where(_in_box(where, share, height, width), jnp.float32(0), jnp.float32(1))
        weights = jnp.where(cuts, outside, share)
        return Mixture(weights, jnp.where(cuts, jnp.mean(outside), share))


def mixed_pixels(images: jax.Array, weights: jax.Array) -> jax.Array:
    """Return weights · image + (1 − weights) · partner, `[B, H, W, C]` with weights `[H, W]`; uint8 is rounded.

    Example:
      >>> images = jnp.array([10, 20, 40], jnp.uint8).reshape(3, 1, 1, 1)
      >>> mixed_pixels(images, jnp.full((1, 1), 0.75)).ravel().tolist()
      [18, 20, 32]
    """
    own, partner = images.astype(jnp.float32), images[::-1].astype(jnp.float32)
    kept = weights[None, :, :, None]
    mixed = kept * own + (1 - kept) * partner
    return (jnp.rint(mixed) if images.dtype == jnp.uint8 else mixed).astype(images.dtype)


def _in_box(key: jax.Array, share: jax.Array, height: int, width: int) -> jax.Array:
    """Return where the box is, `[H, W]`: around a random pixel, with 1 − share of the area, cut off at the border."""
    side = jnp.sqrt(1 - share)
    inside = []
    for size, draw in zip((height, width), jax.random.split(key), strict=True):
        centre = jax.random.randint(draw, (), 0, size, jnp.int32)
        half = (side * size).astype(jnp.int32) // 2
        place = jnp.arange(size, dtype=jnp.int32)
        inside.append((place >= centre - half) & (place < centre + half))
    return inside[0][:, None] & inside[1][None, :]
