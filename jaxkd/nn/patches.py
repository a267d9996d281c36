"""From images to tokens and back: patches as convolutions without padding, and as unfolded windows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from jaxkd.nn.convolution import convolve, shifted
from jaxkd.nn.layer_norm import TORCH_EPSILON, LayerNorm
from jaxkd.nn.layers import Conv, saved, torch_uniform


class PatchConv(nnx.Module):
    """A convolution without padding, `[N, H, W, in] -> [N, H', W', out]`; pixels that fill no window are left out.

    Windows that lie side by side are a matrix product, which is faster than a convolution on every platform.

    Args:
      inputs: channels of the images.
      outputs: channels of the result.
      window: height and width of a patch.
      stride: from one patch to the next; `window` by default.
      kernel_init: of the kernel.
      bias_init: of the bias; by default uniform within the bounds of a kernel by `torch_uniform`.
      rngs: keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        window: int,
        stride: int | None = None,
        *,
        kernel_init: Initializer = torch_uniform,
        bias_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (window, window, inputs, outputs), jnp.float32))
        bound = (window * window * inputs) ** -0.5
        bias = jax.random.uniform(rngs.params(), (outputs,), jnp.float32, -bound, bound)
        self.bias = nnx.Param(bias if bias_init is None else bias_init(rngs.params(), (outputs,), jnp.float32))
        self.stride = stride or window

    def __call__(self, images: jax.Array) -> jax.Array:
        kernel, bias = self.kernel[...].astype(images.dtype), self.bias[...].astype(images.dtype)
        window, _, inputs, outputs = kernel.shape
        if self.stride != window:
            out = convolve(images, kernel, self.stride, 0)
        else:
            rows, columns = (size // window for size in images.shape[1:3])
            whole = images[:, : rows * window, : columns * window].reshape(-1, rows, window, columns, window, inputs)
            patches = whole.swapaxes(2, 3).reshape(-1, rows, columns, window * window * inputs)
            out = patches @ kernel.reshape(-1, outputs)
        return saved(out + bias.reshape(1, 1, 1, -1))


class NormedConv(nnx.Module):
    """A convolution `proj` and a LayerNorm `norm`: from an image, or a map, to the map of a stage."""

    def __init__(self, proj: PatchConv | Conv, width: int):
        self.proj = proj
        self.norm = LayerNorm(width, epsilon=TORCH_EPSILON)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.norm(self.proj(images))


def to_tokens(maps: jax.Array) -> jax.Array:
    """Return the pixels of maps, `[B, H, W, C] -> [B, H·W, C]`."""
    return maps.reshape(maps.shape[0], -1, maps.shape[-1])


def to_maps(tokens: jax.Array, size: int | tuple[int, ...]) -> jax.Array:
    """Return tokens as maps of this height and width, `[B, H·W, C] -> [B, H, W, C]`."""
    height, width = (size, size) if isinstance(size, int) else size
    return tokens.reshape(tokens.shape[0], height, width, tokens.shape[-1])


def unfold(images: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """Return all windows as vectors, as `torch.nn.functional.unfold`: the channels outermost.

    Args:
      images: `[B, H, W, C]`.
      window: height and width of each.
      stride: from one to the next.
      padding: zeros added on all four sides.

    Returns:
      `[B, H', W', C · window²]`.

    Example:
      >>> unfold(jnp.arange(4.0).reshape(1, 2, 2, 1), 2, 2, 0).ravel().tolist()
      [0.0, 1.0, 2.0, 3.0]
    """
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((size - window) // stride + 1 for size in padded.shape[1:3])
    shifts = [shifted(padded, i, j, rows, columns, stride) for i in range(window) for j in range(window)]
    return jnp.stack(shifts, axis=-1).reshape(images.shape[0], rows, columns, -1)
