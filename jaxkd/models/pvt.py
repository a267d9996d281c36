"""Pyramid vision transformers: PVT (Wang et al., ICCV 2021) and PVT v2 (Computational Visual Media 2022).

Four stages of maps, each half as high and wide as the one before. Queries attend to a map that is reduced further, so
that large maps are affordable. Keys are the authors' for PVT and timm's for PVT v2.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.models.registry import Classifier, variants
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
    learnt_token,
    repeated,
)
from jaxkd.nn.layers import DefaultConv, check_image_size, global_average_pool
from jaxkd.nn.operations import attend, gelu, saved
from jaxkd.nn.stack import stack_stages
from jaxkd.nn.tokens import (
    NormedConv,
    PatchConv,
    TokenGrid,
    check_images,
    grid_side,
    position_embedding,
    to_maps,
    to_tokens,
)
from jaxkd.types import Outputs, at_least_float32


class SpatialReductionAttention(nnx.Module):
    """Attention from each pixel to those of a smaller map, made of patches: `[B, …, C] -> [B, …, C]`.

    Args:
      width: C.
      heads: the number of heads, which divides C.
      reduction: height and width of a patch; 1 attends to all pixels, which may be tokens then.
      drop: the probability of dropping an output.
      rngs: keys of the initial weights, and of dropout.
    """

    def __init__(self, width: int, heads: int, reduction: int, *, drop: float, rngs: nnx.Rngs):
        check_heads(width, heads)
        self.q = TokenLinear(width, width, rngs=rngs)
        self.kv = TokenLinear(width, 2 * width, rngs=rngs)
        self.proj = TokenLinear(width, width, rngs=rngs)
        self.sr = PatchConv(width, width, reduction, rngs=rngs) if reduction > 1 else None
        self.norm = LayerNorm(width, epsilon=TORCH_EPSILON) if reduction > 1 else None
        self.drop = dropout(drop, rngs=rngs)
        self.heads = heads

    def __call__(self, values: jax.Array, train: bool) -> jax.Array:
        reduced = values if self.sr is None or self.norm is None else self.norm(self.sr(values))
        batch, width = values.shape[0], values.shape[-1]
        query = saved(self.q(to_tokens(values))).reshape(batch, -1, 1, self.heads, width // self.heads)
        packed = saved(self.kv(to_tokens(reduced))).reshape(batch, -1, 2, self.heads, width // self.heads)
        mixed = attend(query, packed).reshape(values.shape)
        return dropped(self.drop, saved(self.proj(mixed)), train)


class ConvMlp(nnx.Module):
    """A perceptron over the channels of a map with a depthwise 3×3 convolution between its layers."""

    def __init__(self, width: int, hidden: int, *, drop: float, rngs: nnx.Rngs):
        self.fc1 = TokenLinear(width, hidden, rngs=rngs)
        self.dwconv = DefaultConv(hidden, hidden, 3, groups=hidden, bias=True, rngs=rngs)
        self.fc2 = TokenLinear(hidden, width, rngs=rngs)
        self.drop1, self.drop2 = dropout(drop, rngs=rngs), dropout(drop, rngs=rngs)

    def __call__(self, maps: jax.Array, train: bool) -> jax.Array:
        hidden = dropped(self.drop1, gelu(self.dwconv(saved(self.fc1(maps)))), train)
        return dropped(self.drop2, saved(self.fc2(hidden)), train)


class PyramidBlock(nnx.Module):
    """Attention and perceptron, each behind a LayerNorm and added to what it came from."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        reduction: int,
        *,
        mlp: type[Mlp] | type[ConvMlp],
        drop: float,
        drop_path: DropPath | None,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(width)
        self.attn = SpatialReductionAttention(width, heads, reduction, drop=drop, rngs=rngs)
        self.norm2 = LayerNorm(width)
        self.mlp = mlp(width, hidden, drop=drop, rngs=rngs)
        self.drop_path = drop_path

    def __call__(self, values: jax.Array, train: bool) -> jax.Array:
        values = add_branch(values, self.attn(self.norm1(values), train), self.drop_path, train)
        return add_branch(values, self.mlp(self.norm2(values), train), self.drop_path, train)


class Stage(nnx.Module):
    """A stage of PVT v2: `downsample`, but in the first, then the blocks and a LayerNorm."""

    def __init__(self, downsample: NormedConv | None, blocks: Sequence[PyramidBlock], width: int):
        self.downsample = downsample
        self.blocks = stack_stages(blocks, 1)
        self.norm = LayerNorm(width)

    def __call__(self, maps: jax.Array, train: bool) -> jax.Array:
        maps = maps if self.downsample is None else self.downsample(maps)
        for stack in self.blocks:
            maps = stack(maps, train)
        return self.norm(maps)


class PyramidTransformerV2(Classifier):
    """A PVT v2 under timm's keys; it has no positions, and takes images of any size from 32×32.

    Features: f0 the patches, then the maps behind each stage; last their mean.

    Args:
      widths: channels in each of the four stages.
      depths: number of blocks in each.
      heads: of the attention in each.
      mlp_ratios: width of the perceptrons in each, as multiples of the stage's.
      reductions: height and width of the patches that queries attend to, in each.
      image_size: height and width of the images it is for; others work too.
      drop: dropout of the branches.
      drop_path: the probability with which the last block's branches are left out; it grows from 0 over the blocks.
      num_classes: K.
      channels: channels of the images.
      rngs: keys of the initial weights, and of dropout.

    Raises:
      ValueError: for a width that does not divide into heads.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int] = (1, 2, 5, 8),
        *,
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        reductions: Sequence[int] = (8, 4, 2, 1),
        image_size: int = 224,
        drop: float = 0.0,
        drop_path: float = 0.0,
        num_classes: int,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        self.patch_embed = NormedConv(DefaultConv(channels, widths[0], 7, 4, bias=True, rngs=rngs), widths[0])
        branches = iter(drop_paths(drop_path, sum(depths), rngs=rngs))
        stages = []
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            downsample = None
            if i:
                downsample = NormedConv(DefaultConv(widths[i - 1], width, 3, 2, bias=True, rngs=rngs), width)
            blocks = [
                PyramidBlock(
                    width,
                    heads[i],
                    mlp_ratios[i] * width,
                    reductions[i],
                    mlp=ConvMlp,
                    drop=drop,
                    drop_path=next(branches),
                    rngs=rngs,
                )
                for _ in range(depth)
            ]
            stages.append(Stage(downsample, blocks, width))
        self.stages = nnx.List(stages)
        self.head = TokenLinear(widths[-1], num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        check_image_size(images, 5)
        features = [self.patch_embed(images)]
        for stage in self.stages:
            features.append(stage(features[-1], train))
        pooled = global_average_pool(features[-1])
        return Outputs(self.head(pooled), (*features, pooled), classify=self.head.function())


class PyramidTransformer(Classifier):
    """A PVT under its authors' keys.

    Features: f0 the patches with their positions, then the maps behind each stage; last the class token, which joins
    in the last stage.

    Args:
      widths: channels in each of the four stages.
      depths: number of blocks in each.
      heads: of the attention in each.
      mlp_ratios: width of the perceptrons in each, as multiples of the stage's.
      reductions: height and width of the patches that queries attend to, in each; 1 in the last.
      image_size: height and width of the images.
      patch_size: height and width of a patch in the first stage; in all others it is 2.
      drop: dropout of tokens and branches.
      drop_path: the probability with which the last block's branches are left out; it grows from 0 over the blocks.
      num_classes: K.
      channels: channels of the images.
      rngs: keys of the initial weights, and of dropout.

    Raises:
      ValueError: for images that do not divide into patches in every stage, or a width that does not into heads.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int] = (1, 2, 5, 8),
        *,
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        reductions: Sequence[int] = (8, 4, 2, 1),
        image_size: int = 224,
        patch_size: int = 4,
        drop: float = 0.0,
        drop_path: float = 0.0,
        num_classes: int,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        last = len(widths) - 1
        grid_side(image_size, patch_size * 2**last)
        branches = iter(drop_paths(drop_path, sum(depths), rngs=rngs))
        before = (channels, *widths)
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            patch = patch_size if i == 0 else 2
            prefix = int(i == last)
            shape = (1, prefix + (image_size // patch_size // 2**i) ** 2, width)
            setattr(self, f"patch_embed{i + 1}", NormedConv(PatchConv(before[i], width, patch, rngs=rngs), width))
            setattr(self, f"pos_embed{i + 1}", position_embedding(shape, TokenGrid(prefix), rngs))
            blocks = [
                PyramidBlock(
                    width,
                    heads[i],
                    mlp_ratios[i] * width,
                    reductions[i],
                    mlp=Mlp,
                    drop=drop,
                    drop_path=next(branches),
                    rngs=rngs,
                )
                for _ in range(depth)
            ]
            setattr(self, f"block{i + 1}", stack_stages(blocks, 1))
        self.norm = LayerNorm(widths[-1])
        self.cls_token = learnt_token(widths[-1], rngs)
        self.head = TokenLinear(widths[-1], num_classes, rngs=rngs)
        self.drop = dropout(drop, rngs=rngs)
        self.image_size, self.patch_size, self.stages = image_size, patch_size, len(widths)

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        check_images(images, self.image_size)
        maps, features = images, []
        for number in range(1, self.stages):
            maps = self._placed(number, maps, train)
            features += [maps] if number == 1 else []
            for stack in getattr(self, f"block{number}"):
                maps = stack(maps, train)
            features.append(maps)
        tokens = self._placed(self.stages, maps, train)
        for stack in getattr(self, f"block{self.stages}"):
            tokens = stack(tokens, train)
        tokens = self.norm(tokens)
        embedding = at_least_float32(tokens[:, 0])
        features += [to_maps(tokens[:, 1:], maps.shape[1] // 2), embedding]
        return Outputs(self.head(embedding), tuple(features), classify=self.head.function())

    def image_size_of(self, side: int) -> int:
        """Return the size of images of so many patches by so many."""
        return side * self.patch_size

    def _placed(self, number: int, images: jax.Array, train: bool) -> jax.Array:
        """Return the patches of a stage with their positions: as maps, in the last stage as tokens behind the class."""
        maps = getattr(self, f"patch_embed{number}")(images)
        positions = getattr(self, f"pos_embed{number}")[...].astype(maps.dtype)
        if number < self.stages:
            placed = maps + to_maps(positions, maps.shape[1:3])
        else:
            token = repeated(self.cls_token, maps)
            placed = jnp.concatenate([token, to_tokens(maps)], axis=1) + positions
        return dropped(self.drop, placed, train)


WIDE, NARROW = (64, 128, 320, 512), (32, 64, 160, 256)

variants(
    PyramidTransformerV2,
    {
        "pvt_v2_b0": {"widths": NARROW, "depths": (2, 2, 2, 2)},
        "pvt_v2_b1": {"widths": WIDE, "depths": (2, 2, 2, 2)},
        "pvt_v2_b2": {"widths": WIDE, "depths": (3, 4, 6, 3)},
    },
    size=224,
)
variants(
    PyramidTransformer,
    {
        "pvt_tiny": {"widths": WIDE, "depths": (2, 2, 2, 2)},
        "pvt_small": {"widths": WIDE, "depths": (3, 4, 6, 3)},
    },
    size=224,
)
