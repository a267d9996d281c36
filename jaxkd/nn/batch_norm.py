"""Batch normalisation as pure functions: the moments of a batch, and one pass that normalises, adds and rectifies.

On the CPU `jaxkd.nn.cpu_kernels` compute both where they are usable, elsewhere XLA does. The gradient has its own rule,
which reuses values of the forward pass that are saved anyway: the images, and the output for the ReLU's mask.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxkd.nn import cpu_kernels
from jaxkd.types import at_least_float32

Pair = tuple[jax.Array, jax.Array]
Pool = Callable[[jax.Array], jax.Array]

SMALL = 2**22
"""Numbers that a GPU reads in about the time of starting a kernel, a few microseconds."""

Gradients = tuple[jax.Array, jax.Array | None, jax.Array, jax.Array]
"""Of images, residual, scale and bias."""


class Saved(NamedTuple):
    """All that the gradient needs; `out` only for the ReLU's mask, `adds` empty where there was no residual."""

    images: jax.Array
    out: jax.Array | None
    mean: jax.Array
    var: jax.Array
    scale: jax.Array
    adds: tuple[None, ...]


def batch_moments(images: jax.Array, near: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and biased variance of each channel, `[…, C] -> [C], [C]`, float32 and constant for the gradient.

    Args:
      images: `[…, C]`.
      near: `[C]`, about the mean, such as the running one: GPUs and TPUs add up what exceeds it, and its squares.

    Example:
      >>> mean, var = batch_moments(jnp.array([[1.0], [3.0]]), near=jnp.zeros(1))
      >>> mean.tolist(), var.tolist()
      ([2.0], [1.0])
    """
    images, near = lax.stop_gradient((images, near))
    on_cpu = cpu_kernels.batch_moments if cpu_kernels.usable(images.dtype) else moments_in_two_passes
    return lax.platform_dependent(images, near, cpu=lambda images, near: on_cpu(images), default=moments_in_one_pass)


def moments_in_one_pass(images: jax.Array, near: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the moments from sums that a compiler can fuse into the convolution before, over devices in one exchange.

    The variance has an error of about 1e-7 · (1 + (mean − near)² / variance) of itself.
    """
    near = near.astype(jnp.float32)
    excess = images.astype(jnp.float32) - _along(near, images)
    count = images.size // images.shape[-1]
    shift, square = (total / count for total in _sums(excess, jnp.square(excess)))
    return near + shift, jnp.maximum(square - jnp.square(shift), 0.0)


def moments_in_two_passes(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the moments, the variance from the distances to the mean."""
    axes = tuple(range(images.ndim - 1))
    images = images.astype(jnp.float32)
    mean = images.mean(axes)
    return mean, jnp.square(images - _along(mean, images)).mean(axes)


@partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def batch_norm(
    images: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None,
    epsilon: float,
    relu: bool,
) -> jax.Array:
    """Return `relu((images − mean) / sqrt(var + epsilon) · scale + bias + residual)` (Ioffe & Szegedy 2015).

    The gradient is the one for moments that move with the images: their part is in the gradient of the images.

    Args:
      images: `[…, C]`.
      mean: `[C]`, the images' own, as `batch_moments` gives it.
      var: `[C]`, likewise.
      scale: `[C]`.
      bias: `[C]`.
      residual: of the images' shape and type, or None.
      epsilon: added to the variance.
      relu: whether to keep the positive part.

    Returns:
      As the images.

    Raises:
      ValueError: for a residual of another shape or type, or other than one number for each channel.
    """
    if residual is not None and (residual.shape, residual.dtype) != (images.shape, images.dtype):
        raise ValueError(
            f"a residual {residual.dtype}{list(residual.shape)} for images {images.dtype}{list(images.shape)}: bring "
            "it to their shape and type"
        )
    if any(each.shape != images.shape[-1:] for each in (mean, var, scale, bias)):
        given = ", ".join(str(each.shape) for each in (mean, var, scale, bias))
        raise ValueError(f"mean, variance, scale and bias {given} for images of {images.shape[-1]} channels")
    args = images, mean, scale * lax.rsqrt(var + epsilon), bias, residual
    by_xla = partial(_normalized, relu=relu)
    if not cpu_kernels.usable(images.dtype):
        return by_xla(*args)
    return lax.platform_dependent(*args, cpu=partial(cpu_kernels.batch_norm, relu=relu), default=by_xla)


def _normalized(
    images: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array, residual: jax.Array | None, relu: bool
) -> jax.Array:
    # The mean is taken off first: folded into the bias, it would cost the digits by which it exceeds the deviation.
    out = (at_least_float32(images) - _along(mean, images)) * _along(factor, images) + _along(bias, images)
    out = out if residual is None else out + at_least_float32(residual)
    return (jax.nn.relu(out) if relu else out).astype(images.dtype)


def _save(
    images: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None,
    epsilon: float,
    relu: bool,
) -> tuple[jax.Array, Saved]:
    out = batch_norm(images, mean, var, scale, bias, residual, epsilon, relu)
    return out, Saved(images, out if relu else None, mean, var, scale, () if residual is None else (None,))


def _gradients(epsilon: float, relu: bool, saved: Saved, cotangent: jax.Array) -> tuple[jax.Array | None, ...]:
    by_xla = partial(_gradients_by_xla, epsilon=epsilon)
    if cpu_kernels.usable(saved.images.dtype):
        by_kernel = partial(_gradients_by_kernel, epsilon=epsilon)
        found = lax.platform_dependent(saved, cotangent, cpu=by_kernel, default=by_xla)
    else:
        found = by_xla(saved, cotangent)
    of_images, of_residual, of_scale, of_bias = found
    return of_images, jnp.zeros_like(saved.mean), jnp.zeros_like(saved.var), of_scale, of_bias, of_residual


batch_norm.defvjp(_save, _gradients)


def _gradients_by_kernel(saved: Saved, cotangent: jax.Array, epsilon: float) -> Gradients:
    images, out, mean, var, scale, adds = saved
    relu, rectified = out is not None, images if out is None else out
    of_images, of_residual, of_scale, of_bias = cpu_kernels.batch_norm_gradient(
        images, rectified, cotangent, mean, var, scale, epsilon=epsilon, relu=relu, residual=bool(adds) and relu
    )
    return of_images, (of_residual if relu else cotangent) if adds else None, of_scale, of_bias


def _gradients_by_xla(saved: Saved, cotangent: jax.Array, epsilon: float) -> Gradients:
    images, out, mean, var, scale, adds = saved
    passed = cotangent if out is None else jnp.where(out > 0, cotangent, 0)
    given, count = at_least_float32(passed), images.size // images.shape[-1]
    inverse = lax.rsqrt(var + epsilon)
    unit = _unit(images, mean, inverse)
    of_bias, of_scale = _sums(given, given * unit)
    of_images = _of_images(images, given, unit, of_bias / count, of_scale / count, scale * inverse)
    return of_images, passed if adds else None, of_scale.astype(scale.dtype), of_bias.astype(scale.dtype)


def _unit(images: jax.Array, mean: jax.Array, inverse: jax.Array) -> jax.Array:
    """Return images with mean 0 and variance 1, float32 at least."""
    return (at_least_float32(images) - _along(mean, images)) * _along(inverse, images)


def _of_images(
    images: jax.Array, given: jax.Array, unit: jax.Array, of_bias: jax.Array, of_scale: jax.Array, factor: jax.Array
) -> jax.Array:
    """Return the gradient of the images, whose moments move with them; those of bias and scale are means here."""
    inner = given - _along(of_bias, images) - unit * _along(of_scale, images)
    return (inner * _along(factor, images)).astype(images.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def batch_norm_of_maxima(
    images: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    pool: Pool,
) -> jax.Array:
    """Return `pool(batch_norm(images))`, of which only the maxima are normalised.

    Normalising keeps the order of a channel's values, or turns it round where the scale is negative. What is written,
    and summed up for the gradients of scale and bias, is then as small as the result.

    Args:
      images: `[N, H, W, C]`.
      mean: as in `batch_norm`.
      var: as in `batch_norm`.
      scale: as in `batch_norm`.
      bias: as in `batch_norm`.
      epsilon: as in `batch_norm`.
      pool: returns the maxima of windows of `[N, H, W, C]`, `[N, H', W', C]`.

    Returns:
      `[N, H', W', C]`, of the images' type.
    """
    signs = _signs(scale, images)
    return _normalized(pool(images * signs) * signs, mean, scale * lax.rsqrt(var + epsilon), bias, None, False)


def _signs(scale: jax.Array, images: jax.Array) -> jax.Array:
    return _along(jnp.where(scale < 0, -1, 1), images).astype(images.dtype)


def _save_for_maxima(
    images: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, pool: Pool
) -> tuple[jax.Array, Saved]:
    out = batch_norm_of_maxima(images, mean, var, scale, bias, epsilon, pool)
    return out, Saved(images, None, mean, var, scale, ())


def _gradients_of_maxima(
    epsilon: float, pool: Pool, saved: Saved, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    images, _, mean, var, scale, _ = saved
    signs, count, inverse = _signs(scale, images), images.size // images.shape[-1], lax.rsqrt(var + epsilon)
    maxima, to_their_places = jax.vjp(pool, images * signs)
    given = at_least_float32(cotangent)
    of_bias, of_scale = _sums(given, given * _unit(maxima * signs, mean, inverse))
    placed, unit = at_least_float32(to_their_places(cotangent)[0]), _unit(images, mean, inverse)
    of_images = _of_images(images, placed, unit, of_bias / count, of_scale / count, scale * inverse)
    of_moments = jnp.zeros_like(mean), jnp.zeros_like(var)
    return of_images, *of_moments, of_scale.astype(scale.dtype), of_bias.astype(scale.dtype)


batch_norm_of_maxima.defvjp(_save_for_maxima, _gradients_of_maxima)


def _sums(one: jax.Array, other: jax.Array) -> Pair:
    """Return the sums of each channel of two arrays, `[…, C] -> [C], [C]`.

    A GPU adds up in two kernels, the second of which each array has for itself. Where starting it takes longer than
    reading the arrays, they are added up as one.
    """
    if one.size > SMALL:
        return apart(one, other)
    return lax.platform_dependent(one, other, cuda=together, rocm=together, default=apart)


def apart(one: jax.Array, other: jax.Array) -> Pair:
    """Return the sums of each channel of two arrays, each by itself."""
    axes = tuple(range(one.ndim - 1))
    return one.sum(axes), other.sum(axes)


def together(one: jax.Array, other: jax.Array) -> Pair:
    """Return the sums of each channel of two arrays, laid beside each other."""
    both = jnp.stack([one, other], axis=-2).sum(tuple(range(one.ndim - 1)))
    return both[0], both[1]


def _along(channels: jax.Array, images: jax.Array) -> jax.Array:
    """Reshape a value per channel, `[C]`, so that it broadcasts over images."""
    return channels.reshape((1,) * (images.ndim - 1) + (-1,))
