"""The types that every part of jaxkd shares: `Outputs` of a network, `Batch`, `Progress` and `Normalization`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd import compilation_cache

compilation_cache.enable()  # here, since all that computes imports this module

Key = jax.Array
"""A random key of `jax.random`."""


class Outputs(NamedTuple):
    """The outputs of a network for a batch of B images.

    Attributes:
      logits: `[B, K]` class scores before the softmax.
      features: the stage outputs f0, f1, … in order, each `[B, H, W, C]`; the last is the pooled embedding `[B, C]`.
      preactivations: what the last ReLU of each stage receives, `[B, H, W, C]`, in the order of the features.
      classify: the classifier as a function of an embedding, `[B, C] -> [B, K]`, with this network's weights.
      strong: the outputs for the strongly augmented view of the same images, where a loss asked for it.
      distillation_logits: `[B, K]` class scores of a token that learns from the teacher alone, in networks with one.
      others: what else a network of the user's own returned, by name; None where there is nothing.
      each: of several networks in one, the outputs of each; see `losses.FromTeacher`.
    """

    logits: jax.Array
    features: tuple[jax.Array, ...] = ()
    preactivations: tuple[jax.Array, ...] = ()
    classify: Callable[[jax.Array], jax.Array] | None = None
    strong: Outputs | None = None
    distillation_logits: jax.Array | None = None
    others: Mapping[str, Any] | None = None
    each: tuple[Outputs, ...] = ()


class MixedLabels(NamedTuple):
    """The second labels of mixed images, and their share.

    A loss of such a batch is λ times its value under the images' own labels plus 1 − λ times that under those of their
    partners. Of a cross-entropy that is the one with the mixed labels as a distribution; methods that set the true
    class apart (DKD, ATS) take either for the true one in turn; losses that read no labels just see the mixed images.

    Attributes:
      labels: `[B]` int32, those of the partners.
      share: `[B]` float32, λ, the same for all of a batch.
    """

    labels: jax.Array
    share: jax.Array


class Batch(NamedTuple):
    """A batch of B examples, as a training step receives it.

    Attributes:
      images: `[B, H, W, C]`; uint8 pixels, or float32 values that are already normalised.
      labels: `[B]` int32 class indices.
      index: `[B]` int32 position of each example in its data set, by which losses address their memories.
      strong: a second, strongly augmented view of the images, where a loss asked for it.
      mixed: the second labels of images that were mixed; losses do not see it, but are asked once for either labels.
    """

    images: jax.Array
    labels: jax.Array
    index: jax.Array  # type: ignore[assignment]  # hides tuple.index, which no batch needs
    strong: jax.Array | None = None
    mixed: MixedLabels | None = None


class Progress(NamedTuple):
    """The step and the epoch that training has reached.

    Attributes:
      step: int32 scalar, the number of steps taken before this one.
      epoch: int32 scalar, the epoch being trained, counted from 1 as the papers do.
    """

    step: jax.Array
    epoch: jax.Array


class Normalization(NamedTuple):
    """Per-channel mean and standard deviation, on the scale where pixels run from 0 to 1.

    Example:
      >>> import numpy as np
      >>> half = Normalization(mean=(0.5,), std=(0.5,))
      >>> half(np.full((1, 1, 1, 1), 255, np.uint8)).tolist()
      [[[[1.0]]]]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: jax.Array) -> jax.Array:
        """Turn uint8 pixels `[…, C]` into float32 network inputs; float images are only cast."""
        images = jnp.asarray(images)
        if images.dtype != jnp.uint8:
            return images.astype(jnp.float32)
        mean, std = (jnp.asarray(values, jnp.float32).reshape((1,) * (images.ndim - 1) + (-1,)) for values in self)
        return (images.astype(jnp.float32) / 255.0 - mean) / std


class JointNormalization(NamedTuple):
    """Normalise images for several networks at once, `[B, H, W, C] -> [B, M, H, W, C]`.

    Attributes:
      each: of the M networks, in order.
    """

    each: tuple[Normalization, ...]

    def __call__(self, images: jax.Array) -> jax.Array:
        return jnp.stack([normalization(images) for normalization in self.each], axis=1)


Normalizer = Normalization | JointNormalization
"""A function from uint8 pixels to the input of a network, or of an ensemble of networks."""

IMAGENET_NORMALIZATION = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""ImageNet's statistics, in RGB order, which most published networks are trained with."""


def is_array(value: Any) -> bool:
    """Return whether this is an array of any library; Hugging Face's data sets have a shape as well, but no type."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def tree_size(tree: Any) -> int:
    """Return how many numbers the arrays of a tree hold; shapes do as well.

    Example:
      >>> tree_size({"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)})
      12
    """
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def at_least_float32(values: jax.Array) -> jax.Array:
    """Return the values as float32, or unchanged where they are float64.

    Example:
      >>> at_least_float32(jnp.zeros(1, jnp.bfloat16)).dtype
      dtype('float32')
    """
    return values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)
