"""Vision transformers: ViT (Dosovitskiy et al., ICLR 2021), DeiT (Touvron et al., ICML 2021), DeiT III (ECCV 2022).

Keys are timm's, and torchvision's for `vit_b_16` and its like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.models.registry import Classifier, renamed, variants
from jaxkd.nn.attention import Block, LayerNorm, TokenLinear, drop_paths, dropout, dropped, learnt_token, repeated
from jaxkd.nn.stack import stack_stages
from jaxkd.nn.tokens import PatchConv, TokenGrid, check_images, grid_side, position_embedding, to_maps, to_tokens
from jaxkd.types import Outputs, at_least_float32

STAGES = 4
"""A transformer of one width has no stages of its own: it returns its tokens after each quarter of the blocks."""


class PatchEmbedding(nnx.Module):
    """Patches of an image as tokens; its convolution is called `proj`."""

    def __init__(self, channels: int, width: int, patch: int, *, rngs: nnx.Rngs):
        self.proj = PatchConv(channels, width, patch, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.proj(images)


class VisionTransformer(Classifier):
    """A transformer over the patches of an image, and a class token that is classified.

    Features: f0 the patches with their positions, then the tokens of the image after each quarter of the blocks, all
    `[B, side, side, width]`, the last behind the final LayerNorm; then the class token. With a distillation token the
    embedding is both tokens one after the other, and `Outputs.distillation_logits` are what is said of the second: in
    training the logits are those of the class token, in evaluation the mean of both.

    Args:
      width: channels of a token.
      depth: number of blocks.
      heads: of the attention.
      mlp_ratio: width of the perceptrons, as a multiple of `width`.
      image_size: height and width of the images.
      patch_size: height and width of a patch.
      distilled: whether there is a distillation token with a classifier of its own.
      position_of_class: whether the class token has a position.
      layer_scale: first value of the factors of all branches; None for none.
      drop: dropout of tokens and branches.
      drop_path: the probability with which the last block's branches are left out; it grows from 0 over the blocks.
      num_classes: K.
      channels: channels of the images.
      rngs: keys of the initial weights, and of dropout.

    Raises:
      ValueError: for images that do not divide into patches, or a width that does not into heads.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        image_size: int = 224,
        patch_size: int = 16,
        distilled: bool = False,
        position_of_class: bool = True,
        layer_scale: float | None = None,
        drop: float = 0.0,
        drop_path: float = 0.0,
        num_classes: int,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        side = grid_side(image_size, patch_size)
        self.prefix = (1 + distilled) if position_of_class else 0
        self.cls_token = learnt_token(width, rngs)
        self.pos_embed = position_embedding((1, self.prefix + side**2, width), TokenGrid(self.prefix), rngs)
        self.dist_token = learnt_token(width, rngs) if distilled else None
        self.patch_embed = PatchEmbedding(channels, width, patch_size, rngs=rngs)
        blocks = [
            Block(
                width,
                heads,
                int(mlp_ratio * width),
                layer_scale=layer_scale,
                drop=drop,
                drop_path=drop_branch,
                rngs=rngs,
            )
            for drop_branch in drop_paths(drop_path, depth, rngs=rngs)
        ]
        self.blocks = stack_stages(blocks, STAGES)
        self.norm = LayerNorm(width)
        self.head = TokenLinear(width, num_classes, rngs=rngs)
        self.head_dist = TokenLinear(width, num_classes, rngs=rngs) if distilled else None
        self.drop = dropout(drop, rngs=rngs)
        self.image_size, self.patch_size, self.side = image_size, patch_size, side

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        check_images(images, self.image_size)
        tokens = dropped(self.drop, self._tokens(to_tokens(self.patch_embed(images))), train)
        found = [tokens]
        for stage in self.blocks:
            found.append(stage(found[-1], train))
        found[-1] = self.norm(found[-1])
        special = 1 if self.dist_token is None else 2
        maps = [to_maps(tokens[:, special:], self.side) for tokens in found]
        embedding = at_least_float32(found[-1][:, :special].reshape(images.shape[0], -1))
        classify = self._classifier()
        if self.head_dist is None:
            return Outputs(classify(embedding), (*maps, embedding), classify=classify)
        of_class, of_teacher = (
            head(token) for head, token in zip((self.head, self.head_dist), jnp.split(embedding, 2, 1), strict=True)
        )
        logits = of_class if train else (of_class + of_teacher) / 2
        return Outputs(logits, (*maps, embedding), classify=classify, distillation_logits=of_teacher)

    def image_size_of(self, side: int) -> int:
        """Return the size of images of so many patches by so many."""
        return side * self.patch_size

    def _tokens(self, patches: jax.Array) -> jax.Array:
        """Return the patches behind the class token, and all with their positions."""
        positions = self.pos_embed[...].astype(patches.dtype)
        if self.prefix == 0:
            patches = patches + positions
        special = [token for token in (self.cls_token, self.dist_token) if token is not None]
        joined = jnp.concatenate([*(repeated(token, patches) for token in special), patches], axis=1)
        return joined + positions if self.prefix else joined

    def _classifier(self) -> Any:
        """Return the classifier of the embedding, a pure function."""
        if self.head_dist is None:
            return self.head.function()
        return jax.tree_util.Partial(_mean_of_heads, self.head.function(), self.head_dist.function())


def _mean_of_heads(of_class: Any, of_teacher: Any, embedding: jax.Array) -> jax.Array:
    first, second = jnp.split(embedding, 2, axis=1)
    return (of_class(first) + of_teacher(second)) / 2


class TorchvisionVisionTransformer(VisionTransformer):
    """A vision transformer under torchvision's keys."""

    def torch_keys(self, keys: Sequence[str]) -> dict[str, str]:
        """Return torchvision's keys: it lists the patches before the positions."""
        first = ["cls_token", *(key for key in keys if key.startswith("patch_embed")), "pos_embed"]
        return {key: renamed(key, _TORCHVISION) for key in (*first, *(key for key in keys if key not in first))}


_TORCHVISION = (
    (r"^cls_token$", "class_token"),
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^pos_embed$", "encoder.pos_embedding"),
    (r"^norm\.", "encoder.ln."),
    (r"^head\.", "heads.head."),
    (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"\.norm(\d)\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
)


TINY = {"width": 192, "depth": 12, "heads": 3}
SMALL = {"width": 384, "depth": 12, "heads": 6}
BASE = {"width": 768, "depth": 12, "heads": 12}
DEIT3: dict[str, Any] = {"position_of_class": False, "layer_scale": 1e-6}

variants(
    VisionTransformer,
    {
        "vit_tiny_patch16_224": TINY,
        "vit_small_patch16_224": SMALL,
        "vit_small_patch32_224": SMALL | {"patch_size": 32},
        "vit_base_patch16_224": BASE,
        "vit_base_patch32_224": BASE | {"patch_size": 32},
        "deit_tiny_patch16_224": TINY,
        "deit_small_patch16_224": SMALL,
        "deit_base_patch16_224": BASE,
        "deit_tiny_distilled_patch16_224": TINY | {"distilled": True},
        "deit_small_distilled_patch16_224": SMALL | {"distilled": True},
        "deit_base_distilled_patch16_224": BASE | {"distilled": True},
        "deit3_small_patch16_224": SMALL | DEIT3,
        "deit3_base_patch16_224": BASE | DEIT3,
    },
    size=224,
)
variants(TorchvisionVisionTransformer, {"vit_b_16": BASE, "vit_b_32": BASE | {"patch_size": 32}}, size=224)
