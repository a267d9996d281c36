"""The contracts every part of jaxkd shares: what a network returns, what a batch holds, how far training is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Outputs(NamedTuple):
    """What a network returns for a batch of B images.

    Attributes:
      logits: `[B, K]` class scores before the softmax.
      features: the stage outputs f0, f1, … in order, each `[B, H, W, C]`; the last is the pooled embedding `[B, C]`.
      preactivations: what the last ReLU of each stage receives, `[B, H, W, C]`, in the order of the features.
      classify: the classifier as a function of an embedding, `[B, C] -> [B, K]`, with this network's weights.
      strong: the outputs for the strongly augmented view of the same images, where a loss asked for it.
    """

    logits: jax.Array
    features: tuple[jax.Array, ...] = ()
    preactivations: tuple[jax.Array, ...] = ()
    classify: Callable[[jax.Array], jax.Array] | None = None
    strong: Outputs | None = None


class Batch(NamedTuple):
    """What a training step sees.

    Attributes:
      images: `[B, H, W, C]`; uint8 pixels, or float32 values that are already normalised.
      labels: `[B]` int32 class indices.
      index: `[B]` int32 position of each example in its data set (memory banks are addressed with it).
      strong: a second, strongly augmented view of the images, where a loss asked for it.
    """

    images: jax.Array
    labels: jax.Array
    index: jax.Array  # type: ignore[assignment]  # hides tuple.index, which no batch needs
    strong: jax.Array | None = None


class Progress(NamedTuple):
    """How far training is.

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
        """Turns uint8 pixels `[…, C]` into float32 network inputs; float images pass as they are."""
        images = jnp.asarray(images)
        if images.dtype != jnp.uint8:
            return images.astype(jnp.float32)
        mean, std = (jnp.asarray(values, jnp.float32).reshape((1,) * (images.ndim - 1) + (-1,)) for values in self)
        return (images.astype(jnp.float32) / 255.0 - mean) / std


IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""ImageNet's statistics, which torchvision's networks were trained with."""


def at_least_float32(values: jax.Array) -> jax.Array:
    """float32 values from narrower ones; float64 stays.

    Example:
      >>> at_least_float32(jnp.zeros(1, jnp.bfloat16)).dtype
      dtype('float32')
    """
    return values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)


def check_epoch_function(what: str, function: Callable[[jax.Array], jax.Array]) -> None:
    """Refuses a function of the epoch that cannot be compiled, before any work is done.

    Args:
      what: what it is, for the error.
      function: takes the epoch, an int32 scalar counted from 1.

    Raises:
      ValueError: when it decides in Python what is only known on the device.
    """
    try:
        jax.eval_shape(function, jax.ShapeDtypeStruct((), jnp.int32))
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise ValueError(
            f"{what} cannot be compiled: write it with jax.numpy, for example "
            "lambda epoch: jnp.minimum(epoch / 20, 1.0) instead of min(epoch / 20, 1.0)"
        ) from error


def check_at_least(least: int, **counts: int) -> None:
    """Raises a ValueError that names the first count below `least`.

    Example:
      >>> check_at_least(1, batch_size=0)
      Traceback (most recent call last):
      ValueError: batch_size=0: must be at least 1
    """
    for name, count in counts.items():
        if count < least:
            raise ValueError(f"{name}={count}: must be at least {least}")


def check_number(name: str, value: float, below: float = math.inf, positive: bool = False) -> None:
    """Refuses numbers outside [0, below), and 0 itself where a positive number is needed."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; a number is needed") from None
    if not 0 <= value < below or (positive and value == 0):
        wanted = "a finite number above 0" if positive else "a finite number ≥ 0"
        raise ValueError(f"{name} is {value}; it must be {wanted if below == math.inf else f'in [0, {below:g})'}")
