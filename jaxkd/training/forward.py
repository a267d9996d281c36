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


def matmul_precision(precision: str) -> AbstractContextManager[Any]:
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


def still_pixels(images: jax.Array, given: jax.Array, view: Any) -> jax.Array:
    """Return the images that an augmentation made of those given, if it left pixels what they are.

    Raises:
      TypeError: for numbers that are no uint8 any more: these would pass for images that are normalised already.
    """
    if given.dtype == jnp.uint8 and images.dtype != jnp.uint8:
        raise TypeError(
            f"{view!r} returned {images.dtype} of uint8 pixels, which would not be normalised any more: return "
            "jnp.clip(jnp.rint(images), 0, 255).astype(jnp.uint8)"
        )
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
        return _in_float32(_outputs(network, images, train, trainable))
    with in_precision(network, jnp.bfloat16):
        outputs = _outputs(network, images.astype(precision), train, trainable)
    return _in_float32(outputs)


def _outputs(network: Any, images: jax.Array, train: bool, trainable: Trainable | None) -> Outputs:
    outputs = as_outputs(called(network, images, train, trainable), network)
    rows, columns = outputs.logits.shape
    count = images.shape[0]
    if isinstance(count, int) and rows != count:  # an export leaves it open
        raise ValueError(
            f"{type(network).__name__} returned {rows} rows of logits for {count} images: return a row for each, in "
            "the order of the images"
        )
    if (known := getattr(network, "num_classes", None)) and known != columns:
        raise ValueError(
            f"{type(network).__name__}.num_classes is {known}, but its logits have {columns} columns, one for each "
            "class: change one of them; where a tuple is returned, its first entry is the logits"
        )
    return outputs


def _in_float32(outputs: Outputs) -> Outputs:
    """Return what was computed in 16 bits in 32, which losses and metrics need; the rest as it is."""

    def widened(value: Any) -> Any:
        dtype = getattr(value, "dtype", None)
        short = dtype is not None and jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4
        return value.astype(jnp.float32) if short else value

    return jax.tree.map(widened, outputs)


def called(network: Any, images: jax.Array, train: bool, trainable: Trainable | None = None) -> Any:
    """Return what a network returns for images, see `jaxkd.nn.modes.call`; say which network fails on which images.

    Raises:
      TypeError, ValueError: from a network of one's own, for whatever it raised; those of the zoo say it themselves.
    """
    try:
        return call(network, images, train, trainable)
    except Exception as error:
        if getattr(network, "heeds_mode", False):
            raise
        cure = ""
        if isinstance(error, _LOOKS_AT_VALUES):
            cure = (
                ": networks are compiled, so that no call can look at the values of arrays: use jax.numpy for NumPy, "
                "and jnp.where for `if`"
            )
        kind = TypeError if isinstance(error, TypeError) else ValueError
        shape, said = ", ".join(map(str, images.shape[1:])), str(error).partition("\n")[0].rstrip(".")
        raise kind(
            f"{type(network).__name__} fails on images [B, {shape}], with channels last: {type(error).__name__}: {said}"
            f"{cure}"
        ) from error


_LOOKS_AT_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


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
