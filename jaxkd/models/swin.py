"""Swin transformers (Liu et al., ICCV 2021): attention within windows, which every other block shifts.

Keys are timm's, and torchvision's for `swin_t` and its like. Both compute the same for images of 224×224; where maps do
not divide into windows, timm shifts and then pads, torchvision pads and then shifts, and timm makes no window larger
than its map.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.models.registry import Classifier, renamed, variants
from jaxkd.nn.attention import (
    TORCH_EPSILON,
    DropPath,
    LayerNorm,
    Mlp,
    TokenLinear,
    add_branch,
    check_heads,
    drop_paths,
    dropout,
    dropped,
)
from jaxkd.nn.layers import global_average_pool
from jaxkd.nn.operations import attend, saved
from jaxkd.nn.tokens import NormedConv, PatchConv, WindowBias, check_images, grid_side, position_embedding
from jaxkd.types import Outputs

MASKED = -100.0
"""Added to the scores between pixels that only the shift made neighbours."""


class WindowAttention(nnx.Module):
    """Self-attention within the windows of a map, with a learnt bias for each offset: `[B, H, W, C] -> [B, H, W, C]`.

    Args:
      width: C.
      heads: the number of heads, which divides C.
      window: height and width of a window.
      shift: by how many pixels the map is shifted up and left before it is cut, and back afterwards.
      pads_first: whether a map that does not divide into windows is padded before it is shifted.
      drop: the probability of dropping an output.
      rngs: keys of the initial weights, and of dropout.
    """

    def __init__(
        self, width: int, heads: int, window: int, shift: int, pads_first: bool, *, drop: float, rngs: nnx.Rngs
    ):
        check_heads(width, heads)
        self.relative_position_bias_table = position_embedding(((2 * window - 1) ** 2, heads), WindowBias(), rngs)
        self.qkv = TokenLinear(width, 3 * width, rngs=rngs)
        self.proj = TokenLinear(width, width, rngs=rngs)
        self.drop = dropout(drop, rngs=rngs)
        self.heads, self.window, self.shift, self.pads_first = heads, window, shift, pads_first

    def __call__(self, maps: jax.Array, train: bool) -> jax.Array:
        height, width = maps.shape[1:3]
        rows, columns = (-(-size // self.window) for size in (height, width))
        down, right = (self._shift(count) for count in (rows, columns))
        borders = ((0, 0), (0, rows * self.window - height), (0, columns * self.window - width), (0, 0))
        if self.pads_first:
            moved = jnp.roll(jnp.pad(maps, borders), (-down, -right), (1, 2))
        else:
            moved = jnp.pad(jnp.roll(maps, (-down, -right), (1, 2)), borders)
        masks = shift_masks(rows, columns, self.window, down, right) if down or right else None
        mixed = self._from_windows(self._attended(self._windows(moved), masks), rows, columns)
        out = saved(self.proj(mixed))
        if self.pads_first:
            out = jnp.roll(out, (down, right), (1, 2))[:, :height, :width]
        else:
            out = jnp.roll(out[:, :height, :width], (down, right), (1, 2))
        return dropped(self.drop, out, train)

    def _shift(self, windows: int) -> int:
        """Return by how much a map of so many windows is shifted: torchvision leaves one window as it is."""
        return 0 if self.pads_first and windows == 1 else self.shift

    def _windows(self, maps: jax.Array) -> jax.Array:
        """Return the pixels of all windows, `[B, windows, pixels, C]`."""
        batch, height, width, channels = maps.shape
        split = maps.reshape(batch, height // self.window, self.window, width // self.window, self.window, channels)
        return split.swapaxes(2, 3).reshape(batch, -1, self.window**2, channels)

    def _from_windows(self, windows: jax.Array, rows: int, columns: int) -> jax.Array:
        """Return the map of windows as `_windows` cuts it."""
        split = windows.reshape(windows.shape[0], rows, columns, self.window, self.window, -1).swapaxes(2, 3)
        return split.reshape(windows.shape[0], rows * self.window, columns * self.window, -1)

    def _attended(self, windows: jax.Array, masks: np.ndarray | None) -> jax.Array:
        batch, count, pixels, width = windows.shape
        packed = saved(self.qkv(windows)).reshape(batch, count, pixels, 3, self.heads, width // self.heads)
        table, index = self.relative_position_bias_table[...], offsets(self.window).reshape(-1)
        bias = table[index].reshape(pixels, pixels, self.heads).transpose(2, 0, 1).astype(windows.dtype)
        if masks is None:
            return attend(packed.reshape(-1, *packed.shape[2:]), bias=bias[None]).reshape(windows.shape)
        biases = bias[None, None] + jnp.asarray(masks, windows.dtype)[:, None, None]
        each_window = jax.vmap(lambda packed, bias: attend(packed, bias=bias), in_axes=(1, 0), out_axes=1)
        return each_window(packed, biases).reshape(windows.shape)


@functools.lru_cache(maxsize=32)
def offsets(window: int) -> np.ndarray:
    """Return the row of the bias table for each pair of pixels of a window, `[window², window²]`.

    Example:
      >>> offsets(2).tolist()[0]
      [4, 3, 1, 0]
    """
    rows, columns = (axis.ravel() for axis in np.indices((window, window)))
    down, right = rows[:, None] - rows[None], columns[:, None] - columns[None]
    return (down + window - 1) * (2 * window - 1) + right + window - 1


@functools.lru_cache(maxsize=64)
def shift_masks(rows: int, columns: int, window: int, down: int, right: int) -> np.ndarray:
    """Return what is added to the scores within each window of a shifted map, `[windows, window², window²]`.

    Pixels that were at opposite borders before the shift do not see each other.

    Args:
      rows: of windows.
      columns: of windows.
      window: height and width of one.
      down: by how many rows of pixels the map was shifted.
      right: by how many columns.
    """
    parts = [
        np.digitize(np.arange(count * window), [(count - 1) * window, count * window - shift])
        for count, shift in ((rows, down), (columns, right))
    ]
    regions = 3 * parts[0][:, None] + parts[1][None]
    cut = regions.reshape(rows, window, columns, window).swapaxes(1, 2).reshape(-1, window**2)
    return np.where(cut[:, :, None] == cut[:, None], 0.0, MASKED).astype(np.float32)


class SwinBlock(nnx.Module):
    """Attention within windows and a perceptron, each behind a LayerNorm and added to what it came from."""

    def __init__(
        self, width: int, attention: WindowAttention, *, drop: float, drop_path: DropPath | None, rngs: nnx.Rngs
    ):
        self.norm1 = LayerNorm(width, epsilon=TORCH_EPSILON)
        self.attn = attention
        self.norm2 = LayerNorm(width, epsilon=TORCH_EPSILON)
        self.mlp = Mlp(width, 4 * width, drop=drop, rngs=rngs)
        self.drop_path = drop_path

    def __call__(self, maps: jax.Array, train: bool) -> jax.Array:
        maps = add_branch(maps, self.attn(self.norm1(maps), train), self.drop_path, train)
        return add_branch(maps, self.mlp(self.norm2(maps), train), self.drop_path, train)


class PatchMerging(nnx.Module):
    """Halve a map: four neighbours become one pixel of twice the channels."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(4 * width, epsilon=TORCH_EPSILON)
        self.reduction = TokenLinear(4 * width, 2 * width, bias=False, rngs=rngs)

    def __call__(self, maps: jax.Array) -> jax.Array:
        height, width = maps.shape[1:3]
        even = jnp.pad(maps, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        corners = [even[:, down::2, right::2] for right in (0, 1) for down in (0, 1)]
        return saved(self.reduction(self.norm(jnp.concatenate(corners, axis=-1))))


class Stage(nnx.Module):
    """`downsample`, but in the first, then the blocks."""

    def __init__(self, downsample: PatchMerging | None, blocks: Sequence[SwinBlock]):
        self.downsample = downsample
        self.blocks = nnx.List(blocks)

    def __call__(self, maps: jax.Array, train: bool) -> jax.Array:
        maps = maps if self.downsample is None else self.downsample(maps)
        for block in self.blocks:
            maps = block(maps, train)
        return maps


class SwinTransformer(Classifier):
    """A Swin transformer under timm's keys.

    Features: f0 the patches, then the maps after each stage, the last behind the final LayerNorm; then their mean.

    Args:
      width: channels in the first stage; each stage has twice those of the one before.
      depths: number of blocks in each stage.
      heads: of the attention in each stage.
      window: height and width of a window; a smaller map is one window.
      image_size: height and width of the images.
      patch_size: height and width of a patch.
      drop: dropout of the branches.
      drop_path: the probability with which the last block's branches are left out; it grows from 0 over the blocks.
      num_classes: K.
      channels: channels of the images.
      rngs: keys of the initial weights, and of dropout.

    Raises:
      ValueError: for images that do not divide into patches or are too small for the stages, or a width that does not
        divide into heads.
    """

    pads_first = False

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        heads: Sequence[int],
        *,
        window: int = 7,
        image_size: int = 224,
        patch_size: int = 4,
        drop: float = 0.0,
        drop_path: float = 0.0,
        num_classes: int,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        side, least = grid_side(image_size, patch_size), 2 ** (len(depths) - 1)
        if side < least:
            raise ValueError(f"image_size={image_size} is too small: the network halves {patch_size * least} to 1")
        self.patch_embed = NormedConv(PatchConv(channels, width, patch_size, rngs=rngs), width)
        branches = iter(drop_paths(drop_path, sum(depths), rngs=rngs))
        layers = []
        for i, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            wide, downsample = width * 2**i, PatchMerging(width * 2 ** (i - 1), rngs=rngs) if i else None
            own, shift = self._window(window, side // 2**i)
            blocks = []
            for number in range(depth):
                by = shift if number % 2 else 0
                attention = WindowAttention(wide, count, own, by, self.pads_first, drop=drop, rngs=rngs)
                blocks.append(SwinBlock(wide, attention, drop=drop, drop_path=next(branches), rngs=rngs))
            layers.append(Stage(downsample, blocks))
        self.layers = nnx.List(layers)
        self.norm = LayerNorm(wide, epsilon=TORCH_EPSILON)
        self.head = nnx.Dict({"fc": TokenLinear(wide, num_classes, rngs=rngs)})
        self.image_size = image_size

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        self._check(images)
        features = [self.patch_embed(images)]
        for stage in self.layers:
            features.append(stage(features[-1], train))
        features[-1] = self.norm(features[-1])
        pooled = global_average_pool(features[-1])
        classifier = self.head["fc"]
        return Outputs(classifier(pooled), (*features, pooled), classify=classifier.function())

    def _window(self, window: int, side: int) -> tuple[int, int]:
        """Return the size of a stage's windows, and by how much they are shifted."""
        return (side, 0) if side <= window else (window, window // 2)

    def _check(self, images: jax.Array) -> None:
        check_images(images, self.image_size)


class TorchvisionSwinTransformer(SwinTransformer):
    """A Swin transformer under torchvision's keys; its windows do not depend on the images, which may have any size."""

    pads_first = True

    def torch_keys(self, keys: Sequence[str]) -> dict[str, str]:
        """Return torchvision's keys: in a merging of patches it lists the LayerNorm last."""
        order: dict[str, str] = {}
        for key in keys:
            if key.endswith("downsample.norm.weight"):
                earlier = key.replace("norm", "reduction")
                order[earlier] = _in_torchvision(earlier)
            order[key] = _in_torchvision(key)
        return order

    def buffers_after(self, key: str) -> dict[str, np.ndarray]:
        """Return the index of the bias table, which torchvision's files hold."""
        if not key.endswith("relative_position_bias_table"):
            return {}
        window = self.layers[0].blocks[0].attn.window
        return {key.replace("bias_table", "index"): offsets(window).reshape(-1).astype(np.int64)}

    def _window(self, window: int, side: int) -> tuple[int, int]:
        return window, window // 2

    def _check(self, images: jax.Array) -> None:
        pass


_TORCHVISION = (
    (r"^patch_embed\.proj\.", "features.0.0."),
    (r"^patch_embed\.norm\.", "features.0.2."),
    (r"^head\.fc\.", "head."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
)


def _in_torchvision(key: str) -> str:
    """Return torchvision's name: its stages and what is between them are one sequence."""
    if found := re.fullmatch(r"layers\.(\d+)\.(?:(downsample)|blocks)\.(.*)", key):
        place = 2 * int(found[1]) + (0 if found[2] else 1)
        key = f"features.{place}.{found[3]}"
    return renamed(key, _TORCHVISION)


TINY = {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)}
SMALL = {"width": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)}
BASE = {"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)}

variants(
    SwinTransformer,
    {
        "swin_tiny_patch4_window7_224": TINY,
        "swin_small_patch4_window7_224": SMALL,
        "swin_base_patch4_window7_224": BASE,
    },
    size=224,
)
variants(TorchvisionSwinTransformer, {"swin_t": TINY, "swin_s": SMALL, "swin_b": BASE}, size=224)
