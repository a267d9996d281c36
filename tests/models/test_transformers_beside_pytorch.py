"""T2T-ViT and PVT, of which no library has numbers, beside PyTorch's layers put together as their papers say."""

import jax.numpy as jnp
import numpy as np
import pytest
from seeded import filled
from small_transformers import SMALL
from values import relative_error

from jaxkd import convert
from jaxkd.convert.architectures import abstract_model
from jaxkd.nn.tokens import unfold

torch = pytest.importorskip("torch")
F = torch.nn.functional


class Weights(dict):
    """A state dict of tensors, with PyTorch's functions on what is under a prefix."""

    def __init__(self, model):
        super().__init__({key: torch.tensor(value) for key, value in convert.to_state_dict(model).items()})

    def linear(self, prefix, values):
        return F.linear(values, self[f"{prefix}.weight"], self.get(f"{prefix}.bias"))

    def norm(self, prefix, values, epsilon):
        return F.layer_norm(values, values.shape[-1:], self[f"{prefix}.weight"], self[f"{prefix}.bias"], epsilon)

    def mlp(self, prefix, values):
        return self.linear(f"{prefix}.fc2", F.gelu(self.linear(f"{prefix}.fc1", values)))

    def conv(self, prefix, maps):
        kernel = self[f"{prefix}.weight"]
        return F.conv2d(maps, kernel, self[f"{prefix}.bias"], stride=kernel.shape[-1])


def heads_of(values, heads):
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)


def attended(query, key, value, heads):
    query, key, value = (heads_of(part, heads) for part in (query, key, value))
    scores = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def both(name, run):
    """Ours and PyTorch's logits for the same two images."""
    model = filled(abstract_model(name, 7, image_size=32, **SMALL[name]))
    images = np.random.default_rng(1).standard_normal((2, 32, 32, 3)).astype(np.float32)
    ours = model(jnp.asarray(images))
    return ours.logits, run(Weights(model), torch.tensor(images.transpose(0, 3, 1, 2))).numpy()


def performer(weights, prefix, tokens):
    key, query, value = weights.linear(f"{prefix}.kqv", weights.norm(f"{prefix}.norm1", tokens, 1e-5)).chunk(3, -1)
    directions = weights[f"{prefix}.w"]

    def features(values):
        return (values @ directions.T - (values**2).sum(-1, keepdim=True) / 2).exp() / len(directions) ** 0.5

    kernel = features(query) @ features(key).transpose(1, 2)  # the attention it is linear in, written out
    mixed = kernel @ value / (kernel.sum(-1, keepdim=True) + 1e-8)
    tokens = value + weights.linear(f"{prefix}.proj", mixed)
    hidden = F.gelu(weights.linear(f"{prefix}.mlp.0", weights.norm(f"{prefix}.norm2", tokens, 1e-5)))
    return tokens + weights.linear(f"{prefix}.mlp.2", hidden)


def t2t(weights, images):
    tokens = F.unfold(images, 7, stride=4, padding=2).transpose(1, 2)
    for number in (1, 2):
        tokens = performer(weights, f"tokens_to_token.attention{number}", tokens)
        side = int(tokens.shape[1] ** 0.5)
        maps = tokens.transpose(1, 2).unflatten(2, (side, side))
        tokens = F.unfold(maps, 3, stride=2, padding=1).transpose(1, 2)
    tokens = weights.linear("tokens_to_token.project", tokens)
    tokens = torch.cat([weights["cls_token"].expand(len(tokens), -1, -1), tokens], 1) + weights["pos_embed"]
    for number in range(SMALL["t2t_vit_7"]["depth"]):
        block = f"blocks.{number}"
        query, key, value = weights.linear(f"{block}.attn.qkv", weights.norm(f"{block}.norm1", tokens, 1e-5)).chunk(
            3, -1
        )
        tokens = tokens + weights.linear(f"{block}.attn.proj", attended(query, key, value, SMALL["t2t_vit_7"]["heads"]))
        tokens = tokens + weights.mlp(f"{block}.mlp", weights.norm(f"{block}.norm2", tokens, 1e-5))
    return weights.linear("head", weights.norm("norm", tokens, 1e-5)[:, 0])


def pvt(weights, images):
    maps = images
    for stage, heads in enumerate((1, 2, 5, 8), 1):
        maps = weights.conv(f"patch_embed{stage}.proj", maps)
        side = maps.shape[-1]
        tokens = weights.norm(f"patch_embed{stage}.norm", maps.flatten(2).transpose(1, 2), 1e-5)
        if stage == 4:
            tokens = torch.cat([weights["cls_token"].expand(len(tokens), -1, -1), tokens], 1)
        tokens = tokens + weights[f"pos_embed{stage}"]
        block = f"block{stage}.0"
        normed = reduced = weights.norm(f"{block}.norm1", tokens, 1e-6)
        if f"{block}.attn.sr.weight" in weights:
            smaller = weights.conv(f"{block}.attn.sr", normed.transpose(1, 2).unflatten(2, (side, side)))
            reduced = weights.norm(f"{block}.attn.norm", smaller.flatten(2).transpose(1, 2), 1e-5)
        key, value = weights.linear(f"{block}.attn.kv", reduced).chunk(2, -1)
        mixed = attended(weights.linear(f"{block}.attn.q", normed), key, value, heads)
        tokens = tokens + weights.linear(f"{block}.attn.proj", mixed)
        tokens = tokens + weights.mlp(f"{block}.mlp", weights.norm(f"{block}.norm2", tokens, 1e-6))
        maps = tokens.transpose(1, 2).unflatten(2, (side, side)) if stage < 4 else None
    return weights.linear("head", weights.norm("norm", tokens, 1e-6)[:, 0])


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "run"),
    [pytest.param("t2t_vit_7", t2t, marks=pytest.mark.slow), ("pvt_tiny", pvt)],
    ids=["t2t_vit_7", "pvt_tiny"],
)
def test_logits_are_pytorchs(name, run):
    ours, theirs = both(name, run)
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize(("window", "stride", "padding"), [(7, 4, 2), (3, 2, 1), (2, 2, 0)])
def test_windows_are_unfolded_as_pytorch_does(window, stride, padding):
    images = np.random.default_rng(0).standard_normal((2, 8, 12, 3)).astype(np.float32)
    found = np.asarray(unfold(jnp.asarray(images), window, stride, padding))
    wanted = F.unfold(torch.tensor(images.transpose(0, 3, 1, 2)), window, stride=stride, padding=padding)
    np.testing.assert_array_equal(found.reshape(2, -1, 3 * window**2), wanted.transpose(1, 2).numpy())
