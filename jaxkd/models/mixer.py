"""MLP-Mixers (Tolstikhin et al., NeurIPS 2021): perceptrons over the patches and over the channels, by turns."""

from __future__ import annotations

import jax
from flax import nnx

from jaxkd.models.registry import Classifier, variants
from jaxkd.models.vit import STAGES, PatchEmbedding
from jaxkd.nn.attention import DropPath, LayerNorm, Mlp, TokenLinear, add_branch, drop_paths
from jaxkd.nn.stack import stack_stages
from jaxkd.nn.tokens import check_images, grid_side, to_maps, to_tokens
from jaxkd.types import Outputs, at_least_float32


class MixerBlock(nnx.Module):
    """A perceptron over the tokens and one over the channels, each behind a LayerNorm and added to its input."""

    def __init__(
        self,
        count: int,
        width: int,
        hidden_tokens: int,
        hidden_channels: int,
        *,
        drop: float,
        drop_path: DropPath | None,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(width)
        self.mlp_tokens = Mlp(count, hidden_tokens, drop=drop, rngs=rngs)
        self.norm2 = LayerNorm(width)
        self.mlp_channels = Mlp(width, hidden_channels, drop=drop, rngs=rngs)
        self.drop_path = drop_path

    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        mixed = self.mlp_tokens(self.norm1(tokens).swapaxes(1, 2), train).swapaxes(1, 2)
        tokens = add_branch(tokens, mixed, self.drop_path, train)
        return add_branch(tokens, self.mlp_channels(self.norm2(tokens), train), self.drop_path, train)


class Mixer(Classifier):
    """A Mixer under timm's keys.

    Its perceptrons over the tokens are as wide as there are patches: weights serve images of one size only. Features
    are those of a `VisionTransformer`, and the pooled embedding the mean of all tokens.

    Args:
      width: channels of a token.
      depth: number of blocks.
      image_size: height and width of the images.
      patch_size: height and width of a patch.
      drop: dropout of the perceptrons.
      drop_path: the probability with which the last block's branches are left out; it grows from 0 over the blocks.
      num_classes: K.
      channels: channels of the images.
      rngs: keys of the initial weights, and of dropout.

    Raises:
      ValueError: for images that do not divide into patches.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        *,
        image_size: int = 224,
        patch_size: int = 16,
        drop: float = 0.0,
        drop_path: float = 0.0,
        num_classes: int,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        side = grid_side(image_size, patch_size)
        self.stem = PatchEmbedding(channels, width, patch_size, rngs=rngs)
        blocks = [
            MixerBlock(side**2, width, width // 2, 4 * width, drop=drop, drop_path=drop_branch, rngs=rngs)
            for drop_branch in drop_paths(drop_path, depth, rngs=rngs)
        ]
        self.blocks = stack_stages(blocks, STAGES)
        self.norm = LayerNorm(width)
        self.head = TokenLinear(width, num_classes, rngs=rngs)
        self.image_size, self.side = image_size, side

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        check_images(images, self.image_size)
        found = [to_tokens(self.stem(images))]
        for stage in self.blocks:
            found.append(stage(found[-1], train))
        found[-1] = self.norm(found[-1])
        pooled = at_least_float32(found[-1]).mean(1)
        maps = [to_maps(tokens, self.side) for tokens in found]
        return Outputs(self.head(pooled), (*maps, pooled), classify=self.head.function())


SMALL, BASE = {"width": 512, "depth": 8}, {"width": 768, "depth": 12}

variants(
    Mixer,
    {
        "mixer_s16_224": SMALL,
        "mixer_s32_224": SMALL | {"patch_size": 32},
        "mixer_b16_224": BASE,
        "mixer_b32_224": BASE | {"patch_size": 32},
    },
    size=224,
)
