"""The operations of linear layers and transformers, with gradients: by the CPU kernels where they can, else by XLA.

The kernels compute float32, in programs of one CPU device. What a gradient needs of their work is marked, so that a
`Stack` saves it. A program that is compiled for another platform after all takes XLA's form of each.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxkd.nn import cpu_kernels
from jaxkd.types import at_least_float32

SAVED = "saved"
"""Marks the values that a `Stack` saves for the backward pass; it recomputes all others."""

Pair = tuple[jax.Array, jax.Array]
Kept = tuple[jax.Array, jax.Array | None, jax.Array, jax.Array]
"""Queries, keys and values, the attention and the logarithms of its sums."""


def saved(values: jax.Array) -> jax.Array:
    """Mark what is expensive to compute, such as the output of a convolution, so that a `Stack` saves it."""
    return checkpoint_name(values, SAVED)


def _by_kernels(dtype: jax.typing.DTypeLike) -> bool:
    return dtype == jnp.float32 and cpu_kernels.usable(dtype)


def affine(features: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Return `features · kernel + bias`, `[…, in] -> […, out]`, in the type of the features.

    Args:
      features: `[…, in]`.
      kernel: `[in, out]`.
      bias: `[out]`, or None.
    """
    kernel, bias = kernel.astype(features.dtype), None if bias is None else bias.astype(features.dtype)
    # As one matrix: on the CPU, products of higher arrays and above all their gradients take half as long again.
    rows = features.reshape(-1, features.shape[-1]) if features.ndim > 2 else features
    # A single row may be one of many under `jax.vmap`, which the kernels would compute one after the other.
    if rows.ndim == 2 and rows.size and _by_kernels(rows.dtype):
        out = _affine_by_kernels(rows, kernel, bias)
    else:
        out = _affine_by_xla(rows, kernel, bias)
    return out.reshape(*features.shape[:-1], kernel.shape[-1])


def _affine_by_xla(rows: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    product = rows @ kernel
    return product if bias is None else product + bias.reshape((1,) * (rows.ndim - 1) + (-1,))


@jax.custom_vjp
def _affine_by_kernels(rows: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    out: jax.Array = lax.platform_dependent(rows, kernel, bias, cpu=cpu_kernels.product, default=_affine_by_xla)
    return out


def _save_factors(rows: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, tuple[Any, ...]]:
    return _affine_by_kernels(rows, kernel, bias), (rows, kernel, () if bias is None else (None,))


def _affine_gradient(kept: tuple[Any, ...], cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    rows, kernel, biased = kept
    of_bias = cotangent.sum(0) if biased else None
    return _multiplied(cotangent, kernel, transpose_b=True), _multiplied(rows, cotangent, transpose_a=True), of_bias


_affine_by_kernels.defvjp(_save_factors, _affine_gradient)


def _multiplied(a: jax.Array, b: jax.Array, transpose_a: bool = False, transpose_b: bool = False) -> jax.Array:
    def by_xla(a: jax.Array, b: jax.Array) -> jax.Array:
        return (a.T if transpose_a else a) @ (b.T if transpose_b else b)

    on_cpu = functools.partial(cpu_kernels.product, transpose_a=transpose_a, transpose_b=transpose_b)
    product: jax.Array = lax.platform_dependent(a, b, cpu=on_cpu, default=by_xla)
    return product


def layer_norm(values: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Return layer normalisation over the last axis, `[…, C] -> […, C]`; mean and variance are float32 at least.

    Args:
      values: `[…, C]`.
      scale: `[C]`.
      bias: `[C]`.
      epsilon: added to the variance.

    Raises:
      ValueError: for scale or bias of another length than the last axis.
    """
    if not scale.shape == bias.shape == values.shape[-1:]:
        raise ValueError(f"layer normalisation of {values.shape} by scale {scale.shape} and bias {bias.shape}")
    if values.ndim > 1 and values.size and _by_kernels(values.dtype):
        rows = values.reshape(-1, values.shape[-1])
        scale, bias = scale.astype(jnp.float32), bias.astype(jnp.float32)
        return _layer_norm_by_kernels(epsilon, rows, scale, bias).reshape(values.shape)
    return _layer_norm_by_xla(epsilon, values, scale, bias)


def _layer_norm_by_xla(epsilon: float, values: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    wide = at_least_float32(values)
    centred = wide - wide.mean(-1, keepdims=True)
    unit = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    scale, bias = (value.reshape((1,) * (values.ndim - 1) + (-1,)) for value in (scale, bias))
    return (unit * scale + bias).astype(values.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _layer_norm_by_kernels(epsilon: float, rows: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    on_cpu = functools.partial(cpu_kernels.layer_norm, epsilon=epsilon)
    by_xla = functools.partial(_layer_norm_by_xla, epsilon)
    out: jax.Array = lax.platform_dependent(rows, scale, bias, cpu=on_cpu, default=by_xla)
    return out


def _save_rows(epsilon: float, rows: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, Pair]:
    return _layer_norm_by_kernels(epsilon, rows, scale, bias), (rows, scale)


def _layer_norm_gradient(epsilon: float, kept: Pair, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    def by_xla(rows: jax.Array, scale: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        function = functools.partial(_layer_norm_by_xla, epsilon)
        of_rows, of_scale, of_bias = jax.vjp(function, rows, scale, jnp.zeros_like(scale))[1](cotangent)
        return of_rows, of_scale, of_bias

    on_cpu = functools.partial(cpu_kernels.layer_norm_gradient, epsilon=epsilon)
    of_rows, of_scale, of_bias = lax.platform_dependent(*kept, cotangent, cpu=on_cpu, default=by_xla)
    return of_rows, of_scale, of_bias


_layer_norm_by_kernels.defvjp(_save_rows, _layer_norm_gradient)


def gelu(values: jax.Array) -> jax.Array:
    """Return the exact GELU, as PyTorch's default (Hendrycks & Gimpel 2016).

    Example:
      >>> [round(value, 4) for value in gelu(jnp.array([-1.0, 0.0, 1.0])).tolist()]
      [-0.1587, 0.0, 0.8413]
    """
    return _gelu_by_kernels(values) if _by_kernels(values.dtype) else _gelu_by_xla(values)


def _gelu_by_xla(values: jax.Array) -> jax.Array:
    return jax.nn.gelu(values, approximate=False)


@jax.custom_vjp
def _gelu_by_kernels(values: jax.Array) -> jax.Array:
    out: jax.Array = lax.platform_dependent(values, cpu=cpu_kernels.gelu, default=_gelu_by_xla)
    return out


def _gelu_gradient(values: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    def by_xla(values: jax.Array, cotangent: jax.Array) -> jax.Array:
        return jax.vjp(_gelu_by_xla, values)[1](cotangent)[0]

    return (lax.platform_dependent(values, cotangent, cpu=cpu_kernels.gelu_gradient, default=by_xla),)


_gelu_by_kernels.defvjp(lambda values: (_gelu_by_kernels(values), values), _gelu_gradient)


def attend(
    queries: jax.Array, keys_values: jax.Array | None = None, bias: jax.Array | None = None, scale: float | None = None
) -> jax.Array:
    """Return scaled dot-product attention: on GPUs and TPUs JAX's own, on CPUs that of the CPU kernels where they can.

    Args:
      queries: `[B, N, 3, heads, C]` with keys and values, or `[B, N, 1, heads, C]` alone.
      keys_values: `[B, M, 2, heads, C]`, where they are apart.
      bias: added to the scores, broadcast to `[B, heads, N, M]`.
      scale: of the scores; C^-1/2 by default.

    Returns:
      `[B, N, heads, C]`.

    Example:
      >>> attend(jnp.ones((2, 5, 3, 4, 8))).shape, attend(jnp.ones((2, 5, 1, 4, 8)), jnp.ones((2, 7, 2, 4, 8))).shape
      ((2, 5, 4, 8), (2, 5, 4, 8))
    """
    scale = queries.shape[-1] ** -0.5 if scale is None else scale
    empty = 0 in queries.shape or (keys_values is not None and 0 in keys_values.shape)
    if bias is None and not empty and _by_kernels(queries.dtype):
        return _attend_in_one_pass(scale, queries, keys_values)
    given = _apart(queries, keys_values) if bias is None else (*_apart(queries, keys_values), bias)
    found: jax.Array = lax.platform_dependent(
        *given, cpu=functools.partial(_attend_by_heads, scale), default=functools.partial(_attend_as_jax, scale)
    )
    return saved(found)


def _apart(queries: jax.Array, keys_values: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return queries, keys and values, each `[B, tokens, heads, C]`."""
    others = queries if keys_values is None else keys_values
    return queries[:, :, 0], others[:, :, -2], others[:, :, -1]


def _attend_as_jax(
    scale: float, query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    with jax.numpy_dtype_promotion("standard"):  # it computes softmax in float32 by mixing types
        return jax.nn.dot_product_attention(query, key, value, bias, scale=scale)


def _attend_by_heads(
    scale: float, query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """Return the same by matrices that lie one after the other, those of the keys transposed."""
    queries, values, keys = query.swapaxes(1, 2), value.swapaxes(1, 2), key.transpose(0, 2, 3, 1)
    scores = at_least_float32(queries @ keys) * scale
    weights = jax.nn.softmax(scores if bias is None else scores + at_least_float32(bias))
    return (weights.astype(query.dtype) @ values).swapaxes(1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend_in_one_pass(scale: float, queries: jax.Array, keys_values: jax.Array | None) -> jax.Array:
    """Return the same by the CPU kernels; where the program runs on another platform after all, as JAX does."""
    return _save_attention(scale, queries, keys_values)[0]


def _save_attention(scale: float, queries: jax.Array, keys_values: jax.Array | None) -> tuple[jax.Array, Kept]:
    def as_jax(queries: jax.Array, keys_values: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        out = _attend_as_jax(scale, *_apart(queries, keys_values))
        unused = jnp.zeros((out.shape[0], out.shape[2], out.shape[1]), jnp.float32)  # its gradient does without
        return out, unused

    on_cpu = functools.partial(cpu_kernels.attention, scale=scale)
    out, log_sums = lax.platform_dependent(queries, keys_values, cpu=on_cpu, default=as_jax)
    out, log_sums = saved(out), saved(log_sums)
    return out, (queries, keys_values, out, log_sums)


def _attention_gradient(scale: float, kept: Kept, cotangent: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    def as_jax(
        queries: jax.Array, keys_values: jax.Array | None, out: jax.Array, log_sums: jax.Array, cotangent: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        def function(*given: Any) -> jax.Array:
            return _attend_as_jax(scale, *_apart(*given))

        return jax.vjp(function, queries, keys_values)[1](cotangent)

    on_cpu = functools.partial(cpu_kernels.attention_gradient, scale=scale)
    gradients: tuple[jax.Array, jax.Array | None] = lax.platform_dependent(*kept, cotangent, cpu=on_cpu, default=as_jax)
    return gradients


_attend_in_one_pass.defvjp(_save_attention, _attention_gradient)
