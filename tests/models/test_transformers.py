"""Vision transformers against timm's and torchvision's: keys, shapes, logits; and what their options do."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import golden, listing, reference_weights
from seeded import filled, same_weights
from sweeps import sweep
from values import relative_error

from jaxkd import convert, models
from jaxkd.convert.architectures import abstract_model
from jaxkd.models.swin import WindowAttention

GOLDENS = "timm-deit_tiny_distilled_patch16_224 timm-pit_ti_224 timm-pvt_v2_b0"
# Larger ones, and other names of the same networks.
SLOW = (
    "timm-vit_tiny_patch16_224 timm-deit_tiny_patch16_224 timm-vit_small_patch16_224 timm-deit3_small_patch16_224 "
    "timm-mixer_s16_224 timm-swin_tiny_patch4_window7_224 torchvision-swin_t torchvision-vit_b_16"
)

TINY_VIT = {"width": 16, "depth": 5, "heads": 2, "image_size": 16, "patch_size": 4}
TINY = {
    "vit_tiny_patch16_224": TINY_VIT,
    "deit_tiny_distilled_patch16_224": TINY_VIT,
    "deit3_small_patch16_224": TINY_VIT,
    "mixer_s16_224": {"width": 16, "depth": 4, "image_size": 16, "patch_size": 4},
    "swin_tiny_patch4_window7_224": {
        "width": 8, "depths": (2, 1, 1, 1), "heads": (1, 2, 2, 2), "image_size": 32, "window": 5, "patch_size": 2,
    },
    "swin_t": {
        "width": 8, "depths": (2, 1, 1, 1), "heads": (1, 2, 2, 2), "image_size": 32, "window": 5, "patch_size": 2,
    },
    "pit_ti_224": {
        "widths": (8, 16, 32), "depths": (2, 1, 1), "heads": (1, 2, 2), "image_size": 32, "patch_size": 4, "stride": 2,
    },
    "pvt_v2_b0": {"widths": (8, 8, 10, 16), "depths": (2, 1, 1, 1), "image_size": 32},
    "pvt_tiny": {"widths": (8, 8, 10, 16), "depths": (2, 1, 1, 1), "image_size": 32},
    "t2t_vit_7": {"width": 16, "depth": 5, "heads": 2, "token_width": 8, "image_size": 32},
}  # fmt: skip


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def images(size, count=2):
    return jnp.asarray(np.random.default_rng(1).standard_normal((count, size, size, 3)), jnp.float32)


@sweep("entry", [*GOLDENS.split(), *map(slow, SLOW.split())], core=["timm-deit_tiny_distilled_patch16_224"])
def test_keys_and_logits_are_the_librarys(entry, tmp_path):
    expected, reference = listing(f"models/timm/{entry}"), golden(f"models/timm/{entry}")
    name, keys = expected["name"], [(key, tuple(shape)) for key, shape in expected["state_dict"]]
    model = abstract_model(name, expected["classes"])
    given = reference_weights([(key, shape) for key, shape in keys if not key.endswith("relative_position_index")])
    convert.load_state_dict(model, given, entry)

    weights = convert.to_state_dict(model)
    assert [(key, value.shape) for key, value in weights.items()] == keys
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == expected["parameters"]
    convert.to_torch(model, tmp_path / "x.pth")
    assert same_weights(convert.from_torch(tmp_path / "x.pth"), model)

    rng = np.random.default_rng(zlib.crc32(b"input"))
    pixels = rng.standard_normal(expected["input_shape"]).astype(np.float32)
    graph, state = nnx.split(model)
    outputs = jax.jit(lambda state, pixels: nnx.merge(graph, state)(pixels))(state, pixels.transpose(0, 2, 3, 1))
    assert relative_error(outputs.logits, reference["logits"]) < 1e-4
    assert relative_error(outputs.classify(outputs.features[-1]), reference["logits"]) < 1e-4
    if "features_mean_last" in reference:
        _features_are_timms(outputs, reference)


def _features_are_timms(outputs, reference):
    """The last maps, or the tokens they are of, are those of `forward_features`."""
    means = reference["features_mean_last"]
    last, shape = np.asarray(outputs.features[-2]), tuple(reference["features_shape"])
    if shape == (last.shape[0], last.shape[3], *last.shape[1:3]):  # as PyTorch lays out maps
        assert (
            relative_error(last.mean((0, 2, 3)) if means.shape == last.shape[3:] else last.mean((0, 1, 3)), means)
            < 1e-4
        )
    elif shape == last.shape or shape[1] == last.shape[1] * last.shape[2]:
        assert relative_error(last.mean((0, 1, 2)), means) < 1e-4


def relative_positions_of(torch, window):
    """The index that torchvision's Swin keeps, as its paper defines it."""
    grid = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    offset = (grid[:, :, None] - grid[:, None, :] + window - 1).permute(1, 2, 0)
    return (offset[..., 0] * (2 * window - 1) + offset[..., 1]).flatten()


def test_torchvisions_swin_has_its_index_in_files():
    torch = pytest.importorskip("torch")
    model = filled(abstract_model("swin_t", 10, **TINY["swin_t"]))
    weights = convert.to_state_dict(model)
    index = weights["features.1.1.attn.relative_position_index"]
    np.testing.assert_array_equal(index, relative_positions_of(torch, 5).numpy())
    assert index.dtype == np.int64
    order = list(weights)
    assert order.index("features.2.reduction.weight") < order.index("features.2.norm.weight")


@sweep("name", TINY, core=["deit_tiny_distilled_patch16_224"], thorough=())
def test_features_are_maps_and_then_the_embedding(name):
    """In the type of the images, here bfloat16, but for the embedding and what is said of it."""
    model, size = abstract_model(name, 7, drop=0.1, drop_path=0.1, **TINY[name]), TINY[name]["image_size"]
    assert model.image_shape == (size, size, 3)
    graph, state = nnx.split(model)

    def run(state, images):
        return nnx.merge(graph, state)(images, train=True)._replace(classify=None)

    found = jax.eval_shape(run, state, images(size).astype(jnp.bfloat16))
    *maps, embedding = found.features
    assert found.logits.shape == (2, 7)
    assert embedding.shape[0] == 2
    assert len(embedding.shape) == 2
    assert len(maps) == (4 if name.startswith("pit") else 5)
    assert all(len(one.shape) == 4 and one.shape[1] == one.shape[2] for one in maps)
    assert {one.dtype.name for one in maps} == {"bfloat16"}
    assert found.logits.dtype == embedding.dtype == jnp.float32


@sweep("name", TINY, core=["deit_tiny_distilled_patch16_224"], thorough=())
def test_paths_and_tokens_are_dropped_in_training_alone(name):
    plain = models.create(name, 7, **TINY[name])
    dropping = models.create(name, 7, drop=0.2, drop_path=0.5, **TINY[name])
    assert same_weights(plain, dropping)
    graph, state = nnx.split(dropping)
    given = images(TINY[name]["image_size"])

    @jax.jit
    def run(state, given):
        model = nnx.merge(graph, state)
        kept = model(given, train=False).logits
        return kept, model(given, train=True).logits, model(given, train=True).logits

    kept, first, second = run(state, given)
    np.testing.assert_allclose(kept, plain(given).logits, rtol=1e-4, atol=1e-5)
    assert np.abs(first - kept).max() > 1e-4
    assert np.abs(first - second).max() > 1e-4


def test_a_distillation_token_speaks_for_itself_in_training():
    model = filled(abstract_model("deit_tiny_distilled_patch16_224", 7, **TINY_VIT))
    given = images(16)
    learning, known = model(given, train=True), model(given, train=False)
    np.testing.assert_allclose(known.logits, (learning.logits + learning.distillation_logits) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(known.classify(known.features[-1]), known.logits, rtol=1e-5, atol=1e-6)
    assert np.abs(learning.logits - learning.distillation_logits).max() > 0.01
    assert models.create("vit_tiny_patch16_224", 7, **TINY_VIT)(given).distillation_logits is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "vit_tiny_patch16_224",
            {"image_size": 30},
            r"image_size=30 does not divide into patches of 16: .* 32",
        ),
        ("vit_tiny_patch16_224", {"patch_size": 0}, "patch_size=0: must be at least 1"),
        ("vit_tiny_patch16_224", {"heads": 5}, "width 192 does not divide into 5 heads"),
        ("vit_tiny_patch16_224", {"depth": 0}, "depth=0: a network needs at least one block"),
        ("vit_tiny_patch16_224", {"drop_path": 1.0}, r"drop_path is 1.0; it must be in \[0, 1\)"),
        ("vit_tiny_patch16_224", {"window": 7}, "vit_tiny_patch16_224 has no option window; it has .*depth"),
        ("swin_tiny_patch4_window7_224", {"image_size": 16}, "image_size=16 is too small: the network halves 32 to 1"),
        ("pit_ti_224", {"image_size": 8}, "image_size=8 is smaller than a patch of 16"),
        ("pvt_tiny", {"image_size": 48}, "image_size=48 does not divide into patches of 32"),
    ],
)
def test_networks_that_cannot_be(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, **options)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mixer_s16_224", "t2t_vit_7"])
def test_images_of_another_size_are_refused_with_the_cure(name):
    model = models.create(name, 7, **TINY[name])
    with pytest.raises(ValueError, match=r"images of 64×64, but .* create or load it with image_size=64"):
        jax.eval_shape(model, images(64))


def test_many_sizes_serve_a_network_without_positions():
    for name in ("swin_t", "pvt_v2_b0"):
        graph, state = nnx.split(abstract_model(name, 10))
        for size in (32, 64, 160):
            found = jax.eval_shape(lambda state, given: nnx.merge(graph, state)(given), state, images(size))  # noqa: B023
            assert found.features[-2].shape[1:3] == (size // 32, size // 32)


def shifted_attention_by_hand(layer, maps, pads_first):
    """Window attention pixel by pixel: who is in whose window, and where each was before the shift."""
    window, shift, heads = layer.window, layer.shift, layer.heads
    size = maps.shape[1]
    padded = -(-size // window) * window
    grid = np.zeros((len(maps), padded, padded, maps.shape[-1]), np.float32)
    inside = np.zeros((padded, padded), int) - 1  # which pixel is where
    places = np.arange(padded if pads_first else size)
    order = np.roll(places, -shift)
    for row, source_row in enumerate(order):
        for column, source_column in enumerate(order):
            if source_row < size and source_column < size:
                grid[:, row, column] = maps[:, source_row, source_column]
                inside[row, column] = source_row * size + source_column
    parts = np.digitize(np.arange(padded), [padded - window, padded - shift])
    query, key, value = np.split(np.asarray(layer.qkv(jnp.asarray(grid))), 3, axis=-1)
    table = np.asarray(layer.relative_position_bias_table[...])
    out = np.zeros_like(maps)
    width = maps.shape[-1] // heads
    for row in range(padded):
        for column in range(padded):
            if inside[row, column] < 0:
                continue
            top, left = row // window * window, column // window * window
            seen = [(i, j) for i in range(top, top + window) for j in range(left, left + window)]
            seen = [(i, j) for i, j in seen if parts[i] == parts[row] and parts[j] == parts[column]]
            rows, columns = map(np.array, zip(*seen, strict=True))
            for head in range(heads):
                cut = slice(head * width, (head + 1) * width)
                scores = np.einsum("bc,bnc->bn", query[:, row, column, cut], key[:, rows, columns, cut]) / width**0.5
                offset = (row - rows + window - 1) * (2 * window - 1) + column - columns + window - 1
                weights = np.exp(scores + table[offset, head])
                weights /= weights.sum(-1, keepdims=True)
                place = divmod(inside[row, column], size)
                out[:, place[0], place[1], cut] = np.einsum("bn,bnc->bc", weights, value[:, rows, columns, cut])
    return np.asarray(layer.proj(jnp.asarray(out)))


@sweep(("size", "pads_first"), [(6, False), (8, False), (8, True)], core=[(8, False)])
def test_shifted_windows_are_those_of_the_paper(size, pads_first):
    """Also where maps do not divide into windows: timm shifts first, torchvision pads first."""
    layer = filled(WindowAttention(8, 2, 3, 1, pads_first, drop=0.0, rngs=nnx.Rngs(0)))
    maps = np.random.default_rng(2).standard_normal((2, size, size, 8)).astype(np.float32)
    expected = shifted_attention_by_hand(layer, maps, pads_first)
    np.testing.assert_allclose(layer(jnp.asarray(maps), train=False), expected, rtol=1e-4, atol=1e-5)
