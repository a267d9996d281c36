"""Pooling-based vision transformers (PiT; Heo et al., ICCV 2021): three stages of tokens, pooled in between."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.models.registry import Classifier, variants
from jaxkd.nn.attention import (
    Block,
    DropPath,
    LayerNorm,
    TokenLinear,
    drop_paths,
    dropout,
    dropped,
    learnt_token,
    repeated,
)
from jaxkd.nn.layers import DefaultConv, Linear
from jaxkd.nn.stack import stack_stages
from jaxkd.nn.tokens import MapGrid, PatchConv, check_images, position_embedding, to_maps, to_tokens
from jaxkd.types import Outputs, at_least_float32

Pair = tuple[jax.Array, jax.Array]
"""The class token `[B, 1, C]`, and the maps `[B, H, W, C]`."""


class ConvEmbedding(nnx.Module):
    """Overlapping patches as maps; its convolution is called `conv`."""

    def __init__(self, channels: int, width: int, patch: int, stride: int, *, rngs: nnx.Rngs):
        self.conv = PatchConv(channels, width, patch, stride, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.conv(images)


class Pooling(nnx.Module):
    """Halve the maps by a depthwise convolution, and widen the class token alike by a linear layer."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.conv = DefaultConv(inputs, outputs, 3, 2, groups=inputs, bias=True, rngs=rngs)
        self.fc = Linear(inputs, outputs, rngs=rngs)

    def __call__(self, pair: Pair) -> Pair:
        token, maps = pair
        return self.fc(token), self.conv(maps)


class Transformer(nnx.Module):
    """A stage: a pooling, but in the first, and blocks over the class token and all pixels."""

    def __init__(
        self,
        inputs: int | None,
        width: int,
        heads: int,
        mlp_ratio: float,
        drop: float,
        drop_path: Sequence[DropPath | None],
        *,
        rngs: nnx.Rngs,
    ):
        self.pool = None if inputs is None else Pooling(inputs, width, rngs=rngs)
        blocks = [Block(width, heads, int(mlp_ratio * width), drop=drop, drop_path=one, rngs=rngs) for one in drop_path]
        self.blocks = stack_stages(blocks, 1)

    def __call__(self, pair: Pair, train: bool) -> Pair:
        token, maps = pair if self.pool is None else self.pool(pair)
        tokens = jnp.concatenate([token, to_tokens(maps)], axis=1)
        for stack in self.blocks:
            tokens = stack(tokens, train)
        return tokens[:, :1], to_maps(tokens[:, 1:], maps.shape[1:3])


class PoolingTransformer(Classifier):
    """A PiT under timm's keys.

    Features: f0 the patches with their positions, then the maps after each stage; last the class token behind its
    LayerNorm.

    Args:
      widths: channels of the tokens in each stage.
      depths: number of blocks in each stage.
      heads: of the attention, in each stage.
      mlp_ratio: width of the perceptrons, as a multiple of the stage's.
      image_size: height and width of the images.
      patch_size: height and width of a patch.
      stride: from one patch to the next.
      drop: dropout of tokens and branches.
      drop_path: the probability with which the last block's branches are left out; it grows from 0 over the blocks.
      num_classes: K.
      channels: channels of the images.
      rngs: keys of the initial weights, and of dropout.

    Raises:
      ValueError: for images smaller than a patch, or a width that does not divide into heads.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        *,
        mlp_ratio: float = 4.0,
        image_size: int = 224,
        patch_size: int = 16,
        stride: int = 8,
        drop: float = 0.0,
        drop_path: float = 0.0,
        num_classes: int,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        if image_size < patch_size:
            raise ValueError(f"image_size={image_size} is smaller than a patch of {patch_size}")
        side = (image_size - patch_size) // stride + 1
        self.pos_embed = position_embedding((1, widths[0], side, side), MapGrid(), rngs)
        self.cls_token = learnt_token(widths[0], rngs)
        self.patch_embed = ConvEmbedding(channels, widths[0], patch_size, stride, rngs=rngs)
        branches = iter(drop_paths(drop_path, sum(depths), rngs=rngs))
        before = (None, *widths[:-1])
        self.transformers = nnx.List(
            [
                Transformer(inputs, width, count, mlp_ratio, drop, [next(branches) for _ in range(depth)], rngs=rngs)
                for inputs, width, count, depth in zip(before, widths, heads, depths, strict=True)
            ]
        )
        self.norm = LayerNorm(widths[-1])
        self.head = TokenLinear(widths[-1], num_classes, rngs=rngs)
        self.drop = dropout(drop, rngs=rngs)
        self.image_size, self.patch_size, self.stride = image_size, patch_size, stride

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        check_images(images, self.image_size)
        maps = self.patch_embed(images)
        maps = dropped(self.drop, maps + self.pos_embed[...].transpose(0, 2, 3, 1).astype(maps.dtype), train)
        token = repeated(self.cls_token, maps)
        features = [maps]
        for transformer in self.transformers:
            token, maps = transformer((token, maps), train)
            features.append(maps)
        embedding = at_least_float32(self.norm(token)[:, 0])
        return Outputs(self.head(embedding), (*features, embedding), classify=self.head.function())

    def image_size_of(self, side: int) -> int:
        """Return the size of images of so many patches by so many."""
        return (side - 1) * self.stride + self.patch_size


variants(
    PoolingTransformer,
    {
        "pit_ti_224": {"widths": (64, 128, 256), "depths": (2, 6, 4), "heads": (2, 4, 8)},
        "pit_xs_224": {"widths": (96, 192, 384), "depths": (2, 6, 4), "heads": (2, 4, 8)},
        "pit_s_224": {"widths": (144, 288, 576), "depths": (2, 6, 4), "heads": (3, 6, 12)},
        "pit_b_224": {
            "widths": (256, 512, 1024), "depths": (3, 6, 4), "heads": (4, 8, 16), "patch_size": 14, "stride": 7,
        },
    },
    size=224,
)  # fmt: skip
