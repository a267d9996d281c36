"""Layers with PyTorch's padding, statistics and initialisation.

Layers compute in the type of what they receive, whatever the type of their parameters: a network given bfloat16 images
runs in bfloat16 with float32 parameters. Statistics and everything after the last pooling stay float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.nn.initializers import Initializer

from jaxkd.nn.batch_norm import batch_moments, batch_norm, batch_norm_of_maxima
from jaxkd.nn.convolution import convolve, convolve_add_relu
from jaxkd.nn.initializers import kaiming_fan_out, torch_uniform, uniform
from jaxkd.nn.operations import affine, saved
from jaxkd.types import at_least_float32


class Conv(nnx.Module):
    """A square convolution, `[N, H, W, in] -> [N, H', W', out]`, padded to keep the size at stride 1."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        window: int,
        stride: int = 1,
        *,
        groups: int = 1,
        bias: bool = False,
        kernel_init: Initializer = kaiming_fan_out,
        rngs: nnx.Rngs,
    ):
        shape = (window, window, inputs // groups, outputs)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.stride = stride
        self.groups = groups

    def __call__(self, images: jax.Array) -> jax.Array:
        window = (self.stride, self.padding, self.groups)
        if self.bias is None:
            return saved(convolve(images, self.kernel[...], *window))
        return saved(convolve_add_relu(images, self.kernel[...], self.bias[...], None, *window, relu=False))

    @property
    def padding(self) -> int:
        """The number of zeros added on all four sides."""
        return self.kernel.shape[0] // 2


DefaultConv = functools.partial(Conv, kernel_init=torch_uniform)
"""A convolution with PyTorch's default initialisation, as in the ShuffleNets and MobileNetV1."""


class Linear(nnx.Module):
    """An affine map, `[…, in] -> […, out]`; the bias is drawn like the weights unless `bias_init` says otherwise."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel_init: Initializer = torch_uniform,
        bias_init: Initializer | None = None,
        bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(_bias(inputs, outputs, bias_init, rngs)) if bias else None

    def __call__(self, features: jax.Array) -> jax.Array:
        return self.function()(features)

    def function(self) -> Callable[[jax.Array], jax.Array]:
        """Return the layer with its present weights as a pure function, itself a pytree."""
        return jax.tree_util.Partial(_apply, self.kernel[...], None if self.bias is None else self.bias[...])


def _bias(inputs: int, outputs: int, bias_init: Initializer | None, rngs: nnx.Rngs) -> jax.Array:
    if bias_init is not None:
        return bias_init(rngs.params(), (outputs,), jnp.float32)
    # PyTorch bounds the bias by the weights' fan-in, which the bias's shape does not tell.
    return uniform(rngs.params(), (outputs,), inputs**-0.5)


def _apply(kernel: jax.Array, bias: jax.Array | None, features: jax.Array) -> jax.Array:
    return affine(features, kernel, bias)


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, with PyTorch's conventions.

    The running statistics move by a tenth of the way per batch and the running variance takes the unbiased batch
    variance, while the batch itself is normalised with the biased one (Ioffe & Szegedy 2015). Statistics are float32.

    Attributes:
      keeps_statistics: computes in training as in evaluation: the layer is frozen.
    """

    keeps_statistics: bool = False

    def __init__(self, channels: int, *, momentum: float = 0.1, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(channels, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(channels, jnp.float32))
        self.momentum = momentum
        self.epsilon = epsilon

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        return self.preactivation(images, train).value

    def preactivation(self, images: jax.Array, train: bool, residual: jax.Array | None = None) -> Preactivation:
        """Return the normalised images, plus a residual if there is one, and move the running statistics."""
        if not train or self.keeps_statistics:
            return Preactivation.of(self._affine(images, residual))
        mean, var = (saved(moment) for moment in batch_moments(images, self.mean[...]))
        self._follow(mean, var, images.size // images.shape[-1])
        maxima = functools.partial(self._normalized_maxima, images, mean, var) if residual is None else None
        return Preactivation(functools.partial(self._normalize, images, mean, var, residual), maxima)

    def frozen(self, images: jax.Array, train: bool) -> jax.Array:
        """Return the same output without moving the running statistics."""
        if not train or self.keeps_statistics:
            return self._affine(images, None)
        return self._normalize(images, *batch_moments(images, self.mean[...]), None, False)

    def folded(self) -> tuple[jax.Array, jax.Array]:
        """Return the factor and the shift of each channel that evaluation mode comes to, `[C]` and `[C]`."""
        factor = self.scale[...] * lax.rsqrt(self.var[...] + self.epsilon)
        return factor, self.bias[...] - self.mean[...] * factor

    def _affine(self, images: jax.Array, residual: jax.Array | None) -> jax.Array:
        factor, shift = (value.reshape((1,) * (images.ndim - 1) + (-1,)) for value in self.folded())
        out = (at_least_float32(images) * factor + shift).astype(images.dtype)
        return out if residual is None else out + residual

    def _normalize(
        self, images: jax.Array, mean: jax.Array, var: jax.Array, residual: jax.Array | None, relu: bool
    ) -> jax.Array:
        return batch_norm(images, mean, var, self.scale[...], self.bias[...], residual, self.epsilon, relu)

    def _normalized_maxima(
        self, images: jax.Array, mean: jax.Array, var: jax.Array, window: int, padding: int
    ) -> jax.Array:
        """Return `max_pool` of the normalised images; on GPUs and TPUs only its maxima are normalised."""

        def every_pixel(*values: jax.Array) -> jax.Array:
            return max_pool(batch_norm(*values, None, self.epsilon, False), window, padding)

        pool = functools.partial(_maxima_of_windows, window=window, padding=padding)
        maxima = functools.partial(batch_norm_of_maxima, epsilon=self.epsilon, pool=pool)
        values = images, mean, var, self.scale[...], self.bias[...]
        return lax.platform_dependent(*values, cuda=maxima, rocm=maxima, tpu=maxima, default=every_pixel)

    def _follow(self, mean: jax.Array, var: jax.Array, count: int) -> None:
        unbiased = var * (count / max(count - 1, 1))
        self.mean[...] = (1 - self.momentum) * self.mean[...] + self.momentum * lax.stop_gradient(mean)
        self.var[...] = (1 - self.momentum) * self.var[...] + self.momentum * lax.stop_gradient(unbiased)


class Preactivation:
    """The input of a ReLU, computed on demand: before or after the ReLU, the latter in one pass with what comes before.

    Args:
      compute: called with whether to apply the ReLU; returns the array.
      maxima: called with window and padding; returns `max_pool` of the value, where there is a faster way to it.

    Example:
      >>> before = Preactivation.of(jnp.array([-1.0, 2.0]))
      >>> before.value.tolist(), before.relu().tolist()
      ([-1.0, 2.0], [0.0, 2.0])
    """

    def __init__(self, compute: Callable[[bool], jax.Array], maxima: Callable[[int, int], jax.Array] | None = None):
        self._compute = functools.cache(compute)
        self._maxima = maxima

    @classmethod
    def of(cls, value: jax.Array) -> Preactivation:
        """Return the preactivation of a given value."""
        return cls(lambda relu: jax.nn.relu(value) if relu else value)

    @classmethod
    def behind(cls, after: jax.Array) -> Preactivation:
        """Return a preactivation of which only the output of the ReLU is known; `value` must not be read."""
        return cls(lambda relu: after)

    @property
    def value(self) -> jax.Array:
        """The array before the ReLU."""
        return self._compute(False)

    def relu(self) -> jax.Array:
        """Return the array after the ReLU."""
        return self._compute(True)

    def max_pool(self, window: int = 2, padding: int = 0) -> Preactivation:
        """Return what comes before the ReLU of the pooled images (see the function): maximum and ReLU commute."""
        return Preactivation.of((self._maxima or functools.partial(max_pool, self.value))(window, padding))


Activation = Callable[[Preactivation], jax.Array]
"""From what comes before an activation to what comes after it."""


def relu(before: Preactivation) -> jax.Array:
    """Return the positive part, in one pass with what comes before."""
    return before.relu()


def silu(before: Preactivation) -> jax.Array:
    """Return `x · sigmoid(x)`, also called swish (Ramachandran et al. 2017)."""
    return jax.nn.silu(before.value)


def hard_swish(before: Preactivation) -> jax.Array:
    """Return `x · min(max(x + 3, 0), 6) / 6`, which is like `silu` and made of straight pieces (Howard et al. 2019)."""
    return jax.nn.hard_swish(before.value)


def conv_norm(
    conv: Conv, norm: BatchNorm, images: jax.Array, train: bool, residual: jax.Array | None = None
) -> Preactivation:
    """Apply a convolution and the BatchNorm after it to images, and add a residual if there is one.

    In evaluation mode the BatchNorm is folded into the convolution's kernel and bias, so that one pass computes it all.
    """
    if train and not norm.keeps_statistics:
        return norm.preactivation(conv(images), True, residual)
    factor, shift = norm.folded()
    bias = shift if conv.bias is None else shift + conv.bias[...] * factor
    kernel = conv.kernel[...] * factor.reshape(1, 1, 1, -1)
    return Preactivation(
        lambda relu: convolve_add_relu(images, kernel, bias, residual, conv.stride, conv.padding, conv.groups, relu)
    )


def max_pool(images: jax.Array, window: int = 2, padding: int = 0) -> jax.Array:
    """Halve height and width, keeping the maximum of each window; the windows step by two pixels."""
    sliced, windows = (
        functools.partial(pool, window=window, padding=padding) for pool in (_maxima_of_slices, _maxima_of_windows)
    )
    return lax.platform_dependent(images, cuda=windows, rocm=windows, tpu=windows, default=sliced)


def _maxima_of_windows(images: jax.Array, window: int, padding: int) -> jax.Array:
    borders = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    lowest = np.array(-np.inf, images.dtype)
    return lax.reduce_window(images, lowest, lax.max, (1, window, window, 1), (1, 2, 2, 1), borders)


def _maxima_of_slices(images: jax.Array, window: int, padding: int) -> jax.Array:
    """Compare strided slices: several times faster on the CPU than XLA's own pooling."""
    borders = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    padded = jnp.pad(images, borders, constant_values=-jnp.inf)
    for axis in (1, 2):
        count = (padded.shape[axis] - window) // 2 + 1
        slices = [lax.slice_in_dim(padded, i, i + 2 * count - 1, stride=2, axis=axis) for i in range(window)]
        padded = functools.reduce(jnp.maximum, slices)
    return padded


def average_pool(images: jax.Array, *, partial: bool = False) -> jax.Array:
    """Halve height and width, averaging windows of 2×2 pixels.

    Args:
      images: `[N, H, W, C]`.
      partial: of an odd size, whether the last row and column are averaged by themselves; otherwise they are left off.

    Example:
      >>> average_pool(jnp.array([1.0, 3.0, 7.0]).reshape(1, 1, 3, 1), partial=True).ravel().tolist()
      [2.0, 7.0]
    """
    for axis in (1, 2):
        size = images.shape[axis]
        whole = lax.slice_in_dim(images, 0, size - size % 2, axis=axis)
        halved = whole.reshape(*whole.shape[:axis], size // 2, 2, *whole.shape[axis + 1 :]).mean(axis + 1)
        rest = [lax.slice_in_dim(images, size - 1, size, axis=axis)] if partial and size % 2 else []
        images = jnp.concatenate([halved, *rest], axis)
    return images


def global_average_pool(images: jax.Array) -> jax.Array:
    """Average each channel over all places, of maps or tokens, `[N, …, C] -> [N, C]`, in float32 at least."""
    return at_least_float32(images).mean(tuple(range(1, images.ndim - 1)))


def channel_shuffle(values: jax.Array, groups: int) -> jax.Array:
    """Interleave the channels of equal groups: the first of each group, then the second of each, and so on.

    Args:
      values: `[…, C]`, maps or one value per channel.
      groups: how many groups of adjacent channels there are; divides C.

    Returns:
      The same values in another order, `[…, C]`.

    Example:
      >>> channel_shuffle(jnp.arange(6), 2).tolist()
      [0, 3, 1, 4, 2, 5]
    """
    return values.reshape(*values.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(values.shape)


def check_image_size(images: jax.Array, halvings: int) -> None:
    """Refuse images that are too small for a network.

    Args:
      images: `[N, H, W, C]`.
      halvings: how often the network halves height and width.

    Raises:
      ValueError: for images of fewer than 2^halvings rows or columns.

    Example:
      >>> check_image_size(jnp.zeros((1, 16, 16, 3)), halvings=5)
      Traceback (most recent call last):
      ...
      ValueError: images of 16×16 are too small for a network that halves them 5 times: give it ...
    """
    height, width = images.shape[1:3]
    least = 2**halvings
    if min(height, width) < least:
        raise ValueError(
            f"images of {height}×{width} are too small for a network that halves them {halvings} times: give it "
            f"{least}×{least} or larger ones, or choose a network for small images"
        )


class SqueezeExcite(nnx.Module):
    """Average each map, pass the means through two 1×1 convolutions, and scale each map by the result, from 0 to 1.

    Args:
      channels: of the maps.
      hidden: channels between the two convolutions.
      names: the attributes of the two, as in the published network.
      activation: between the two.
      gate: after the second.
      rngs: keys of the initial weights.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        names: tuple[str, str] = ("fc1", "fc2"),
        activation: Activation = relu,
        gate: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid,
        rngs: nnx.Rngs,
    ):
        setattr(self, names[0], Conv(channels, hidden, 1, bias=True, rngs=rngs))
        setattr(self, names[1], Conv(hidden, channels, 1, bias=True, rngs=rngs))
        self.names = names
        self.activation = activation
        self.gate = gate

    def __call__(self, images: jax.Array) -> jax.Array:
        reduce, expand = (getattr(self, name) for name in self.names)
        means = global_average_pool(images).astype(images.dtype)[:, None, None]
        hidden = self.activation(Preactivation.of(reduce(means)))
        return images * self.gate(expand(hidden))
