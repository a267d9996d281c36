"""A convolution that is fast on every platform, with gradients that stay fast inside a compiled loop.

On the CPU oneDNN computes it where `jaxkd.nn.cpu_kernels` are usable, elsewhere XLA, with the gradient rules below:
XLA runs the gradient convolutions that autodiff writes 15 to 30 times slower inside `lax.scan` than outside it, which
would make a compiled epoch useless. The input gradient is therefore again a plain forward convolution, the
weight gradient one or a few matrix products, and grouped convolutions, for which XLA has no fast CPU code at all, are
computed group by group. On GPU and TPU XLA's own forms are the right ones and are kept. `slow_in_a_loop` tells the
engine of networks with convolutions that lack such gradients: these take one step a call, and one run at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.extend import core

from jaxkd.nn import cpu_kernels
from jaxkd.types import at_least_float32

LAYOUT = ("NHWC", "HWIO", "NHWC")
STANDARD = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), LAYOUT)
"""The layout of a forward convolution; autodiff writes its gradients as convolutions in others."""

Size = tuple[int, ...]
Pair = tuple[jax.Array, jax.Array]
Saved = tuple[jax.Array, jax.Array, jax.Array | None, tuple[None, ...]]
"""Images, kernel, the output for the ReLU's mask, and an empty entry where there was a residual."""


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(images: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0, groups: int = 1) -> jax.Array:
    """Return the cross-correlation with PyTorch's explicit padding, as `torch.nn.functional.conv2d`.

    Args:
      images: `[N, H, W, C]`; their type is the one that is computed in.
      kernel: `[kh, kw, C / groups, O]`, of the same or of a wider type; its gradient is of its own type.
      stride: step in both directions.
      padding: zeros added on all four sides.
      groups: the number of equal parts of the channels that see only each other; C of them make it depthwise.

    Returns:
      `[N, (H + 2·padding − kh) // stride + 1, …, O]`.

    Example:
      >>> convolve(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), 1, 1)[0, :, :, 0].tolist()[0]
      [4.0, 6.0, 6.0, 4.0]
    """
    by_xla = partial(_by_xla, stride=stride, padding=padding, groups=groups)
    if cpu_kernels.usable(images.dtype):
        on_cpu = partial(cpu_kernels.convolution, stride=stride, padding=padding, groups=groups)
    elif groups == 1:
        return by_xla(images, kernel)
    else:
        on_cpu = _per_group(kernel, stride, padding, groups)
    return lax.platform_dependent(images, kernel, cpu=on_cpu, default=by_xla)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def convolve_add_relu(
    images: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None,
    stride: int,
    padding: int,
    groups: int,
    relu: bool,
) -> jax.Array:
    """Return `relu(images ∗ kernel + bias + residual)`, in one pass where the platform can.

    Args:
      images: as in `convolve`.
      kernel: as in `convolve`.
      bias: `[O]`, of the kernel's type.
      residual: of the result's shape and type, or None.
      stride: as in `convolve`.
      padding: as in `convolve`.
      groups: as in `convolve`.
      relu: whether to keep the positive part.

    Returns:
      As `convolve`.
    """

    def composed(images: jax.Array, kernel: jax.Array, bias: jax.Array, residual: jax.Array | None) -> jax.Array:
        out = convolve(images, kernel, stride, padding, groups) + bias.astype(images.dtype).reshape(1, 1, 1, -1)
        out = out if residual is None else out + residual
        return jax.nn.relu(out) if relu else out

    if not cpu_kernels.usable(images.dtype):
        return composed(images, kernel, bias, residual)
    fused = partial(cpu_kernels.convolution, stride=stride, padding=padding, groups=groups, relu=relu)
    return lax.platform_dependent(images, kernel, bias, residual, cpu=fused, default=composed)


def _save_all(
    images: jax.Array, kernel: jax.Array, bias: jax.Array, residual: jax.Array | None, *geometry_and_relu: int
) -> tuple[jax.Array, Saved]:
    out = convolve_add_relu(images, kernel, bias, residual, *geometry_and_relu)
    return out, (images, kernel, out if geometry_and_relu[-1] else None, () if residual is None else (None,))


def _all_gradients(
    stride: int, padding: int, groups: int, relu: bool, saved: Saved, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    images, kernel, out, residual = saved
    passed = cotangent if out is None else jnp.where(out > 0, cotangent, 0)
    of_images, of_kernel = _gradients(stride, padding, groups, (images, kernel), passed)
    of_bias = at_least_float32(passed).sum((0, 1, 2)).astype(kernel.dtype)
    return of_images, of_kernel, of_bias, passed if residual else None


convolve_add_relu.defvjp(_save_all, _all_gradients)


def _by_xla(images: jax.Array, kernel: jax.Array, stride: int, padding: int, groups: int = 1) -> jax.Array:
    strides, borders = (stride, stride), [(padding, padding)] * 2
    return lax.conv_general_dilated(
        images, kernel.astype(images.dtype), strides, borders, dimension_numbers=LAYOUT, feature_group_count=groups
    )


def _per_group(kernel: jax.Array, stride: int, padding: int, groups: int) -> partial[jax.Array]:
    """Return a grouped convolution made of plain ones, as a function of images and kernel."""
    depthwise = kernel.shape[2:] == (1, groups)
    return partial(_depthwise if depthwise else _group_by_group, stride=stride, padding=padding, groups=groups)


def _depthwise(images: jax.Array, kernel: jax.Array, stride: int, padding: int, groups: int) -> jax.Array:
    """Sum the shifted images, each times its tap of the kernel."""
    kernel = kernel.astype(images.dtype)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = ((n - k) // stride + 1 for n, k in zip(padded.shape[1:3], kernel.shape[:2], strict=True))
    taps = [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
    products = [shifted(padded, i, j, height, width, stride) * kernel[i, j].reshape(1, 1, 1, -1) for i, j in taps]
    return sum(products[1:], start=products[0])


def _group_by_group(images: jax.Array, kernel: jax.Array, stride: int, padding: int, groups: int) -> jax.Array:
    """Map one dense convolution over the groups."""
    parts = jnp.stack(jnp.split(images, groups, axis=-1)), jnp.stack(jnp.split(kernel, groups, axis=-1))
    outputs = lax.map(lambda part: convolve(*part, stride, padding, 1), parts)
    return jnp.moveaxis(outputs, 0, 3).reshape(*outputs.shape[1:4], -1)


def _save(images: jax.Array, kernel: jax.Array, *geometry: int) -> tuple[jax.Array, Pair]:
    return convolve(images, kernel, *geometry), (images, kernel)


def _gradients(stride: int, padding: int, groups: int, saved: Pair, cotangent: jax.Array) -> Pair:
    images, kernel = saved
    if cpu_kernels.usable(cotangent.dtype):
        on_cpu = partial(_kernel_gradients, stride=stride, padding=padding, groups=groups)
    elif groups == 1:
        on_cpu = partial(_loop_gradients, stride=stride, padding=padding)
    else:
        on_cpu = partial(_autodiff_gradients, _per_group(kernel, stride, padding, groups))
    by_xla = _xla_gradients(stride, padding, groups)
    return lax.platform_dependent(images, kernel, cotangent, cpu=on_cpu, default=by_xla)


convolve.defvjp(_save, _gradients)


@lru_cache
def _xla_gradients(stride: int, padding: int, groups: int) -> Callable[[jax.Array, jax.Array, jax.Array], Pair]:
    """Return the gradients as XLA's own forms, called with images, kernel and cotangent.

    The kernel's is summed in its own type, also over devices: the sum over thousands of pixels loses digits in
    bfloat16. GPUs have no convolution from bfloat16 to float32, and would convert all images first: theirs sums in
    float32 and rounds once, before the sum over devices. Under `vmap` they are those of the batched convolution, a
    grouped one, for which GPUs have kernels; each gradient batched by itself would be a grouped convolution with
    windows as large as the images.
    """
    forward = partial(_by_xla, stride=stride, padding=padding, groups=groups)

    @custom_vmap
    def gradients(images: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> Pair:
        if kernel.dtype == images.dtype:
            return _autodiff_gradients(forward, images, kernel, cotangent)

        def narrow(images: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
            return jax.linear_transpose(partial(forward, images), kernel)(cotangent)[0]

        wide = partial(_wide_kernel_gradient, stride=stride, padding=padding, groups=groups)
        of_kernel = lax.platform_dependent(images, kernel, cotangent, cuda=narrow, rocm=narrow, default=wide)
        return jax.linear_transpose(lambda images: forward(images, kernel), images)(cotangent)[0], of_kernel

    @gradients.def_vmap
    def of_many(
        size: int, batched: list[bool], images: jax.Array, kernel: jax.Array, cotangent: jax.Array
    ) -> tuple[Pair, tuple[bool, bool]]:
        def each(array: jax.Array, is_batched: bool) -> jax.Array:
            return array if is_batched else jnp.broadcast_to(array, (size, *array.shape))

        many = jax.vmap(forward, in_axes=(0 if batched[0] else None, 0))
        kernels, cotangents = each(kernel, batched[1]), each(cotangent, batched[2])
        of_kernels = jax.vjp(partial(many, images), kernels)[1](cotangents)[0]
        of_images = jax.vjp(lambda given: jax.vmap(forward)(given, kernels), each(images, batched[0]))[1](cotangents)[0]
        return (of_images, of_kernels), (True, True)

    return gradients


def _wide_kernel_gradient(
    images: jax.Array, kernel: jax.Array, cotangent: jax.Array, stride: int, padding: int, groups: int
) -> jax.Array:
    """Return the gradient for a kernel of a wider type than the images, summed in the kernel's type."""
    reach = [(n - 1) * stride + k for n, k in zip(cotangent.shape[1:3], kernel.shape, strict=False)]
    borders = [(padding, end - n - padding) for n, end in zip(images.shape[1:3], reach, strict=True)]
    return lax.conv_general_dilated(
        images,
        cotangent,
        (1, 1),
        borders,
        rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        batch_group_count=groups,
        preferred_element_type=kernel.dtype,
    )


def _autodiff_gradients(
    forward: Callable[..., jax.Array], images: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> Pair:
    _, transpose = jax.vjp(forward, images, kernel)
    return transpose(cotangent)


def _kernel_gradients(images: jax.Array, kernel: jax.Array, cotangent: jax.Array, **geometry: int) -> Pair:
    of_kernel = cpu_kernels.convolution_kernel_gradient(images, cotangent, kernel.shape[:2], **geometry)
    of_images = cpu_kernels.convolution_input_gradient(kernel, cotangent, images.shape[1:3], **geometry)
    return of_images, of_kernel.astype(kernel.dtype)


def _loop_gradients(images: jax.Array, kernel: jax.Array, cotangent: jax.Array, stride: int, padding: int) -> Pair:
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    of_kernel = (_crossed if stride == 1 else _row_by_row)(padded, cotangent, stride, kernel.shape[:2])
    of_images = _input_gradient(kernel, cotangent, stride, padding, images.shape[1:3])
    return of_images, of_kernel.astype(kernel.dtype)


def _input_gradient(kernel: jax.Array, cotangent: jax.Array, stride: int, padding: int, size: Size) -> jax.Array:
    """Convolve the (dilated) cotangent with the flipped kernel."""
    window = kernel.shape[:2]
    before = [k - 1 - padding for k in window]
    dilated = [(n - 1) * stride + 1 for n in cotangent.shape[1:3]]
    after = [n + k - 1 - lo - d for n, k, lo, d in zip(size, window, before, dilated, strict=True)]
    borders = [(0, 0, 0), *((lo, hi, stride - 1) for lo, hi in zip(before, after, strict=True)), (0, 0, 0)]
    spread = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), borders)
    return _by_xla(spread, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), 1, 0)


def _crossed(padded: jax.Array, cotangent: jax.Array, stride: int, window: Size) -> jax.Array:
    """Multiply two matrices: images shifted along the columns against cotangents shifted along the rows.

    Pairing two small sets of shifts, instead of all shifts of one side, halves what has to be copied and gives the
    product a better shape: on two cores it takes half the time of `_row_by_row` at 32×32.
    """
    rows, columns = window
    height, width, outputs = cotangent.shape[1:]
    below = padded.shape[1] - height
    images = [padded[:, :, j : j + width] for j in range(columns)]
    cotangents = [jnp.pad(cotangent, ((0, 0), (i, below - i), (0, 0), (0, 0))) for i in range(rows)]
    left, right = (_as_matrix(jnp.concatenate(shifts, axis=-1)) for shifts in (images, cotangents))
    return _product(left, right).reshape(columns, -1, rows, outputs).transpose(2, 0, 1, 3)


def _row_by_row(padded: jax.Array, cotangent: jax.Array, stride: int, window: Size) -> jax.Array:
    """Multiply matrices for each kernel row: the row's shifted images, side by side, against the cotangent."""
    rows, columns = window
    height, width, outputs = cotangent.shape[1:]
    flat = _as_matrix(cotangent)

    def row(i: int) -> jax.Array:
        patches = jnp.concatenate([shifted(padded, i, j, height, width, stride) for j in range(columns)], axis=-1)
        return _product(_as_matrix(patches), flat).reshape(columns, -1, outputs)

    return jnp.stack([row(i) for i in range(rows)])


def shifted(padded: jax.Array, i: int, j: int, height: int, width: int, stride: int) -> jax.Array:
    """Return the pixels that the kernel's tap (i, j) meets, `[N, height, width, C]`."""
    return padded[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]


def _as_matrix(images: jax.Array) -> jax.Array:
    return images.reshape(-1, images.shape[-1])


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Return `leftᵀ · right`, summed in float32 at least: there are as many terms as pixels in a batch."""
    return at_least_float32(left).T @ at_least_float32(right)


def slow_in_a_loop(jaxpr: core.Jaxpr) -> bool:
    """Return whether a program has a convolution, at any depth, that the CPU would run much slower in a loop.

    Example:
      >>> import jax
      >>> images, kernel = jax.numpy.ones((1, 4, 4, 1)), jax.numpy.ones((3, 3, 1, 1))
      >>> convolved = lambda kernel: lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)
      >>> total = lambda kernel: convolved(kernel).sum()
      >>> [slow_in_a_loop(jax.make_jaxpr(function)(kernel).jaxpr) for function in (total, jax.grad(total))]
      [False, True]
    """
    return any(_is_slow(equation) for equation in jaxpr.eqns)


def _is_slow(equation: core.JaxprEqn) -> bool:
    if equation.primitive is lax.conv_general_dilated_p:
        return equation.params["dimension_numbers"] != STANDARD
    return any(slow_in_a_loop(inner) for inner in _on_cpu(equation))


def _on_cpu(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Yield the programs within an equation; of `lax.platform_dependent`, only the branch that the CPU takes."""
    platforms = equation.params.get("branches_platforms")
    if platforms is None:
        yield from core.jaxprs_in_params(equation.params)
    else:
        branches = zip(equation.params["branches"], platforms, strict=True)
        yield next(branch.jaxpr for branch, names in branches if names is None or "cpu" in names)
