"""From pixels to what a network says of them: normalised, in the precision asked for, and back in float32."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.nn import cpu_kernels
from jaxkd.nn.modes import Trainable, call, in_precision
from jaxkd.nn.outputs import as_outputs
from jaxkd.types import Batch, Normalizer, Outputs

PRECISIONS = ("float32", "bfloat16", "highest")


def checked_precision(precision: str) -> str:
    """Return the precision, if it is one of `PRECISIONS`.

    Raises:
      ValueError: otherwise. float16 is none: without loss scaling its range is too small for gradients.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: choose one of {', '.join(map(repr, PRECISIONS))}")
    return precision


def multiplied_in(precision: str) -> AbstractContextManager[Any]:
    """Return a context whose programs multiply float32 numbers in full where the precision is "highest".

    Otherwise JAX's own default holds, by which TPUs multiply them in bfloat16, and GPUs may in TensorFloat-32.
    """
    return jax.default_matmul_precision("highest") if precision == "highest" else nullcontext()


def warn_of_slow_types(precision: str) -> None:
    """Warn where the CPU computes slower in a precision than in float32."""
    if precision == "bfloat16" and not cpu_kernels.usable(precision):
        warnings.warn(
            f"precision={precision!r} is slower than float32 on this CPU, which computes convolutions with "
            f"{cpu_kernels.describe()}",
            stacklevel=3,
        )


def network_input(images: jax.Array, normalization: Normalizer | None) -> jax.Array:
    """Return uint8 pixels normalised, and float images as they are.

    Raises:
      ValueError: for uint8 pixels when the statistics are not known.
    """
    if images.dtype == jnp.uint8:
        if normalization is None:
            raise ValueError(
                "uint8 images, but no mean and std to normalise them with: fit a data.Dataset first, or set "
                "model.normalization = jaxkd.Normalization(mean, std)"
            )
        return normalization(images)
    return images


def as_seen(batch: Batch, normalization: Normalizer | None) -> Batch:
    """Return the batch as a network with this normalisation sees it."""
    strong = None if batch.strong is None else network_input(batch.strong, normalization)
    return batch._replace(images=network_input(batch.images, normalization), strong=strong)


def forward(
    network: Any, images: jax.Array, train: bool, precision: str, trainable: Trainable | None = None
) -> Outputs:
    """Return a network's outputs for images in its own input format.

    Only the network computes in `precision`; its parameters are kept, and its outputs returned, in float32.

    Raises:
      TypeError, ValueError: the network returns something else than `as_outputs` takes.
    """
    if precision != "bfloat16":
        return as_outputs(call(network, images, train, trainable), network)
    with in_precision(network, jnp.bfloat16):
        outputs = as_outputs(call(network, images.astype(precision), train, trainable), network)
    return jax.tree.map(lambda value: value.astype(jnp.float32), outputs)


def output_shapes(network: nnx.Module, image_shape: tuple[int, ...]) -> Outputs:
    """Return shapes and types of a network's outputs for two images `(H, W, C)`; it is only traced."""
    graph, variables = nnx.split(network)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)

    def traced(variables: Any, images: jax.Array) -> Outputs:
        return forward(nnx.merge(graph, variables), images, False, "float32")

    return jax.eval_shape(traced, variables, images)


def both_views(network: Any, batch: Batch, train: bool, precision: str, trainable: Trainable | None = None) -> Outputs:
    """Return a network's outputs for the images of a batch and, where there is one, for their strong view."""
    outputs = forward(network, batch.images, train, precision, trainable)
    if batch.strong is None:
        return outputs
    return outputs._replace(strong=forward(network, batch.strong, train, precision, trainable))
