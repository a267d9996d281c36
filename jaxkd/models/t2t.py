"""Tokens-to-token transformers (T2T-ViT; Yuan et al., ICCV 2021): tokens made of overlapping windows, twice over.

Keys are the authors'. The networks are those whose tokens are made by Performers (Choromanski et al., ICLR 2021).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import orthogonal

from jaxkd.models.registry import Classifier, variants
from jaxkd.models.vit import STAGES
from jaxkd.nn.attention import (
    TORCH_EPSILON,
    Block,
    Frozen,
    LayerNorm,
    TokenLinear,
    drop_paths,
    dropout,
    dropped,
    learnt_token,
    repeated,
)
from jaxkd.nn.operations import gelu
from jaxkd.nn.stack import stack_stages
from jaxkd.nn.tokens import TokenGrid, check_images, grid_side, to_maps, to_tokens, unfold
from jaxkd.types import Outputs, at_least_float32

PATCH = 16


class TokenPerformer(nnx.Module):
    """Attention in linear time, by random features of the softmax, and a perceptron: `[B, N, in] -> [B, N, C]`.

    The values, and not the narrower inputs, are what the attention's branch is added to.

    Args:
      inputs: channels of the tokens.
      width: C.
      rngs: keys of the initial weights.
    """

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs):
        features = width // 2
        self.w = Frozen(math.sqrt(features) * orthogonal()(rngs.params(), (features, width), jnp.float32))
        self.kqv = TokenLinear(inputs, 3 * width, rngs=rngs)
        self.proj = TokenLinear(width, width, rngs=rngs)
        self.norm1 = LayerNorm(inputs, epsilon=TORCH_EPSILON)
        self.norm2 = LayerNorm(width, epsilon=TORCH_EPSILON)
        self.mlp = nnx.Dict({"0": TokenLinear(width, width, rngs=rngs), "2": TokenLinear(width, width, rngs=rngs)})

    def __call__(self, tokens: jax.Array) -> jax.Array:
        key, query, value = jnp.split(self.kqv(self.norm1(tokens)), 3, axis=-1)
        keys, queries, values = self._features(key), self._features(query), at_least_float32(value)
        summed = jnp.einsum("bnc,bnm->bcm", values, keys)
        share = jnp.einsum("bnm,bm->bn", queries, keys.sum(1))
        mixed = jnp.einsum("bnm,bcm->bnc", queries, summed) / (share[..., None] + 1e-8)
        tokens = value + self.proj(mixed.astype(value.dtype))
        return tokens + self.mlp["2"](gelu(self.mlp["0"](self.norm2(tokens))))

    def _features(self, tokens: jax.Array) -> jax.Array:
        """Return `exp(w·x − |x|²/2) / √m`, the products of which have the mean exp(q·k)."""
        wide, directions = at_least_float32(tokens), self.w[...]
        half_square = jnp.square(wide).sum(-1, keepdims=True) / 2
        return jnp.exp(wide @ directions.T - half_square) / math.sqrt(len(directions))


class TokensToToken(nnx.Module):
    """Three splits of a map into overlapping windows, with a Performer behind the first and the second."""

    def __init__(self, width: int, token_width: int, *, rngs: nnx.Rngs):
        self.attention1 = TokenPerformer(3 * 7 * 7, token_width, rngs=rngs)
        self.attention2 = TokenPerformer(token_width * 3 * 3, token_width, rngs=rngs)
        self.project = TokenLinear(token_width * 3 * 3, width, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        maps = unfold(images, 7, 4, 2)
        for attention in (self.attention1, self.attention2):
            maps = unfold(to_maps(attention(to_tokens(maps)), maps.shape[1:3]), 3, 2, 1)
        return self.project(to_tokens(maps))


class TokensToTokenTransformer(Classifier):
    """A T2T-ViT for colour images: tokens of 16×16 pixels that saw their neighbours, then a narrow transformer.

    Positions are sines and cosines, which are not trained. Features: f0 the tokens with their positions, then the
    tokens of the image after each quarter of the blocks, the last behind the final LayerNorm; then the class token.

    Args:
      width: channels of a token in the transformer.
      depth: number of its blocks.
      heads: of its attention.
      mlp_ratio: width of its perceptrons, as a multiple of `width`.
      token_width: channels of the tokens before.
      scale: of the attention's scores, (width / heads)^-1/2 by default. The authors' published weights are for
        width^-1/2.
      image_size: height and width of the images, a multiple of 16.
      drop: dropout of tokens and branches of the transformer.
      drop_path: the probability with which the last block's branches are left out; it grows from 0 over the blocks.
      num_classes: K.
      rngs: keys of the initial weights, and of dropout.

    Raises:
      ValueError: for images of another size, or a width that does not divide into heads.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        mlp_ratio: float = 2.0,
        token_width: int = 64,
        scale: float | None = None,
        image_size: int = 224,
        drop: float = 0.0,
        drop_path: float = 0.0,
        num_classes: int,
        rngs: nnx.Rngs,
    ):
        side = grid_side(image_size, PATCH)
        self.cls_token = learnt_token(width, rngs)
        self.pos_embed = Frozen(jnp.asarray(sinusoids(1 + side**2, width)), positions=TokenGrid(1))
        self.tokens_to_token = TokensToToken(width, token_width, rngs=rngs)
        blocks = [
            Block(
                width,
                heads,
                int(mlp_ratio * width),
                qkv_bias=False,
                scale=scale,
                epsilon=TORCH_EPSILON,
                drop=drop,
                drop_path=drop_branch,
                rngs=rngs,
            )
            for drop_branch in drop_paths(drop_path, depth, rngs=rngs)
        ]
        self.blocks = stack_stages(blocks, STAGES)
        self.norm = LayerNorm(width, epsilon=TORCH_EPSILON)
        self.head = TokenLinear(width, num_classes, rngs=rngs)
        self.drop = dropout(drop, rngs=rngs)
        self.image_size, self.side = image_size, side

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        check_images(images, self.image_size)
        patches = self.tokens_to_token(images)
        token = repeated(self.cls_token, patches)
        tokens = jnp.concatenate([token, patches], axis=1) + self.pos_embed[...].astype(patches.dtype)
        found = [dropped(self.drop, tokens, train)]
        for stage in self.blocks:
            found.append(stage(found[-1], train))
        found[-1] = self.norm(found[-1])
        maps = [to_maps(tokens[:, 1:], self.side) for tokens in found]
        embedding = at_least_float32(found[-1][:, 0])
        return Outputs(self.head(embedding), (*maps, embedding), classify=self.head.function())

    def image_size_of(self, side: int) -> int:
        """Return the size of images of so many patches by so many."""
        return side * PATCH


def sinusoids(count: int, width: int) -> np.ndarray:
    """Return the position encoding of Vaswani et al. (2017), `[1, count, width]`: sines and cosines by turns.

    Example:
      >>> sinusoids(2, 2).round(2).tolist()
      [[[0.0, 1.0], [0.8399999737739563, 0.5400000214576721]]]
    """
    angles = np.arange(count)[:, None] / 10_000 ** (2 * (np.arange(width) // 2) / width)[None]
    return np.where(np.arange(width)[None] % 2, np.cos(angles), np.sin(angles))[None].astype(np.float32)


variants(
    TokensToTokenTransformer,
    {
        "t2t_vit_7": {"width": 256, "depth": 7, "heads": 4},
        "t2t_vit_10": {"width": 256, "depth": 10, "heads": 4},
        "t2t_vit_12": {"width": 256, "depth": 12, "heads": 4},
        "t2t_vit_14": {"width": 384, "depth": 14, "heads": 6, "mlp_ratio": 3.0},
    },
    size=224,
)
