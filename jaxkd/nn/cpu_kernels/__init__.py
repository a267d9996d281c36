"""Kernels for the CPU: products by oneDNN, normalisation, attention and GELU in one pass, as operations of JAX.

XLA's own convolutions on the CPU take about twice as long as oneDNN's; Winograd's algorithm, here for those of 3×3 in
float32, is 1.4 to 1.8 times as fast as these. Where oneDNN and a C++ compiler are installed, the modules of `jaxkd.nn`
call these operations on the CPU; elsewhere, and on other platforms, they use XLA's. `python -m jaxkd.nn.cpu_kernels`
prints which are used, and why.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.nn.cpu_kernels.library import Kernels, load

__all__ = [
    "Kernels",
    "attention",
    "attention_gradient",
    "batch_moments",
    "batch_norm",
    "batch_norm_gradient",
    "convolution",
    "convolution_input_gradient",
    "convolution_kernel_gradient",
    "describe",
    "gelu",
    "gelu_gradient",
    "layer_norm",
    "layer_norm_gradient",
    "load",
    "product",
    "usable",
]


def usable(dtype: jax.typing.DTypeLike) -> bool:
    """Return whether the kernels compute arrays of a type in this process.

    They serve programs of one CPU device: with several, XLA would gather all shards before calling them.
    """
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and jnp.dtype(dtype).name in load().dtypes


def describe() -> str:
    """Return what computes convolutions on the CPU in this process, and why, in one line.

    Example:
      >>> describe().startswith(("oneDNN", "XLA"))
      True
    """
    if jax.default_backend() != "cpu":
        return f"XLA, since this process computes on {jax.default_backend()}"
    if jax.device_count() > 1:
        return f"XLA, since the kernels are for one device, and this process has {jax.device_count()}"
    return load().description


def convolution(
    images: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    residual: jax.Array | None = None,
    *,
    stride: int,
    padding: int,
    groups: int,
    relu: bool = False,
) -> jax.Array:
    """Return `relu(images ∗ kernel + bias + residual)`, `[N, H', W', O]`, each of the last three where asked for.

    Args:
      images: `[N, H, W, C]`, float32 or bfloat16.
      kernel: `[kh, kw, C / groups, O]`, of any of these types.
      bias: `[O]`.
      residual: like the result.
      stride: step in both directions.
      padding: zeros added on all four sides.
      groups: parts of the channels that see only each other.
      relu: whether to keep the positive part.

    Raises:
      ValueError: for a kernel of another number of channels than the images have, or another bias.
    """
    window = kernel.shape[:2]
    if images.shape[-1] != kernel.shape[2] * groups or kernel.shape[-1] % groups:
        raise ValueError(f"a kernel {kernel.shape} in {groups} groups for images of {images.shape[-1]} channels")
    if bias is not None and bias.shape != kernel.shape[-1:]:
        raise ValueError(f"a bias {bias.shape} for a kernel {kernel.shape}")
    size = ((n + 2 * padding - k) // stride + 1 for n, k in zip(images.shape[1:3], window, strict=True))
    out = jax.ShapeDtypeStruct((images.shape[0], *size, kernel.shape[-1]), images.dtype)
    aliases = None if residual is None else {3: 0}
    call = jax.ffi.ffi_call("jaxkd_convolution", out, vmap_method="sequential", input_output_aliases=aliases)
    return call(
        images,
        kernel,
        _or_empty(None if bias is None else bias.astype(jnp.float32), jnp.float32),
        _or_empty(residual, images.dtype),
        **_window(stride, padding, groups),
        relu=relu,
    )


def convolution_input_gradient(
    kernel: jax.Array, cotangent: jax.Array, size: tuple[int, ...], *, stride: int, padding: int, groups: int
) -> jax.Array:
    """Return the gradient for images of a size `(H, W)`, `[N, H, W, C]`, in the cotangent's type."""
    channels = kernel.shape[2] * groups
    out = jax.ShapeDtypeStruct((cotangent.shape[0], *size, channels), cotangent.dtype)
    call = jax.ffi.ffi_call("jaxkd_convolution_input_gradient", out, vmap_method="sequential")
    return call(kernel, cotangent, **_window(stride, padding, groups))


def convolution_kernel_gradient(
    images: jax.Array, cotangent: jax.Array, window: tuple[int, ...], *, stride: int, padding: int, groups: int
) -> jax.Array:
    """Return the gradient for a kernel with a window `(kh, kw)`, `[kh, kw, C / groups, O]`, summed in float32."""
    out = jax.ShapeDtypeStruct((*window, images.shape[-1] // groups, cotangent.shape[-1]), jnp.float32)
    call = jax.ffi.ffi_call("jaxkd_convolution_kernel_gradient", out, vmap_method="sequential")
    return call(images, cotangent, **_window(stride, padding, groups))


def batch_moments(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and biased variance of each channel, `[C]`, float32."""
    channel = jax.ShapeDtypeStruct(images.shape[-1:], jnp.float32)
    mean, var = jax.ffi.ffi_call("jaxkd_batch_moments", (channel, channel), vmap_method="sequential")(images)
    return mean, var


def batch_norm(
    images: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array, residual: jax.Array | None, *, relu: bool
) -> jax.Array:
    """Return `relu((images − mean) · factor + bias + residual)`; the first three are one number for each channel."""
    out = jax.ShapeDtypeStruct(images.shape, images.dtype)
    call = jax.ffi.ffi_call("jaxkd_batch_norm", out, vmap_method="sequential")
    return call(images, mean, factor, bias, _or_empty(residual, images.dtype), relu=relu)


def batch_norm_gradient(
    images: jax.Array,
    out: jax.Array,
    cotangent: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array,
    *,
    epsilon: float,
    relu: bool,
    residual: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return the gradients for images, residual (an empty array without one), scale and bias."""
    like, channel = jax.ShapeDtypeStruct(images.shape, images.dtype), jax.ShapeDtypeStruct(mean.shape, jnp.float32)
    apart = like if residual else jax.ShapeDtypeStruct((0,), images.dtype)
    call = jax.ffi.ffi_call("jaxkd_batch_norm_gradient", (like, apart, channel, channel), vmap_method="sequential")
    found = call(images, out, cotangent, mean, var, scale, epsilon=np.float32(epsilon), relu=relu)
    of_images, of_residual, of_scale, of_bias = found
    return of_images, of_residual, of_scale, of_bias


def product(
    a: jax.Array,
    b: jax.Array,
    bias: jax.Array | None = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> jax.Array:
    """Return the product of two float32 matrices, each transposed where it is asked for, plus a bias for each column.

    Raises:
      ValueError: for sizes that do not fit.
    """
    (rows, inner), (also_inner, columns) = (
        shape[::-1] if transposed else shape for shape, transposed in ((a.shape, transpose_a), (b.shape, transpose_b))
    )
    if inner != also_inner:
        raise ValueError(f"a product of {a.shape} and {b.shape}, transposed: {transpose_a} and {transpose_b}")
    if bias is not None and bias.shape != (columns,):
        raise ValueError(f"a bias {bias.shape} for a product of {columns} columns")
    out = jax.ShapeDtypeStruct((rows, columns), jnp.float32)
    call = jax.ffi.ffi_call("jaxkd_product", out, vmap_method="sequential")
    return call(a, b, _or_empty(bias, jnp.float32), transpose_a=transpose_a, transpose_b=transpose_b)


def layer_norm(rows: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float) -> jax.Array:
    """Return the rows `[R, C]`, float32, each normalised, times `scale`, `[C]`, plus `bias`, `[C]`."""
    out = jax.ShapeDtypeStruct(rows.shape, jnp.float32)
    call = jax.ffi.ffi_call("jaxkd_layer_norm", out, vmap_method="sequential")
    return call(rows, scale, bias, epsilon=np.float32(epsilon))


def layer_norm_gradient(
    rows: jax.Array, scale: jax.Array, cotangent: jax.Array, *, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the gradients for rows, scale and bias."""
    like = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (rows.shape, scale.shape, scale.shape)]
    call = jax.ffi.ffi_call("jaxkd_layer_norm_gradient", like, vmap_method="sequential")
    of_rows, of_scale, of_bias = call(rows, scale, cotangent, epsilon=np.float32(epsilon))
    return of_rows, of_scale, of_bias


def gelu(values: jax.Array) -> jax.Array:
    """Return the exact GELU of float32 values."""
    out = jax.ShapeDtypeStruct(values.shape, jnp.float32)
    return jax.ffi.ffi_call("jaxkd_gelu", out, vmap_method="broadcast_all")(values)


def gelu_gradient(values: jax.Array, cotangent: jax.Array) -> jax.Array:
    """Return the gradient for the values."""
    out = jax.ShapeDtypeStruct(values.shape, jnp.float32)
    return jax.ffi.ffi_call("jaxkd_gelu_gradient", out, vmap_method="broadcast_all")(values, cotangent)


def attention(queries: jax.Array, keys_values: jax.Array | None, *, scale: float) -> tuple[jax.Array, jax.Array]:
    """Return scaled dot-product attention, and what its gradient needs of the scores.

    Args:
      queries: `[B, N, 3, heads, C]`, float32, with keys and values; or `[B, N, 1, heads, C]` alone.
      keys_values: `[B, M, 2, heads, C]`, float32, where they are apart.
      scale: of the scores.

    Returns:
      The attention, `[B, N, heads, C]`, and the logarithms of the sums in its softmax, `[B, heads, N]`.

    Raises:
      ValueError: for other shapes.
    """
    batch, count, parts, heads, channels = queries.shape
    other = None if keys_values is None else (*keys_values.shape[:1], *keys_values.shape[2:])
    if (parts, other) not in ((3, None), (1, (batch, 2, heads, channels))):
        given = queries.shape if keys_values is None else f"{queries.shape} and {keys_values.shape}"
        raise ValueError(f"attention of arrays {given}: [B, N, 3, heads, C], or [B, N, 1, …] and [B, M, 2, …]")
    floats = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((batch, count, heads, channels), (batch, heads, count))
    ]
    call = jax.ffi.ffi_call("jaxkd_attention", floats, vmap_method="sequential")
    mixed, log_sums = call(queries, _or_empty(keys_values, jnp.float32, rank=5), scale=np.float32(scale))
    return mixed, log_sums


def attention_gradient(
    queries: jax.Array,
    keys_values: jax.Array | None,
    mixed: jax.Array,
    log_sums: jax.Array,
    cotangent: jax.Array,
    *,
    scale: float,
) -> tuple[jax.Array, jax.Array | None]:
    """Return the gradients for queries, and for keys and values where they are apart, as `attention` takes them."""
    apart = _or_empty(keys_values, jnp.float32, rank=5)
    like = [jax.ShapeDtypeStruct(array.shape, jnp.float32) for array in (queries, apart)]
    call = jax.ffi.ffi_call("jaxkd_attention_gradient", like, vmap_method="sequential")
    of_queries, of_apart = call(queries, apart, mixed, log_sums, cotangent, scale=np.float32(scale))
    return of_queries, None if keys_values is None else of_apart


def _window(stride: int, padding: int, groups: int) -> dict[str, np.int64]:
    return {"stride": np.int64(stride), "padding": np.int64(padding), "groups": np.int64(groups)}


def _or_empty(array: jax.Array | None, dtype: jax.typing.DTypeLike, rank: int = 1) -> jax.Array:
    """Return the array, or the empty one that stands for an argument left out."""
    return jnp.zeros((0,) * rank, dtype) if array is None else array
