"""Position embeddings and relative biases resized: against PyTorch's interpolation and against timm's rule by hand."""

import numpy as np
import pytest
from seeded import filled
from sweeps import sweep

from jaxkd import convert
from jaxkd.convert.architectures import abstract_model
from jaxkd.convert.weights import resized
from jaxkd.formats.files import ConversionError
from jaxkd.nn.tokens import MapGrid, TokenGrid, WindowBias, resample


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def pytorchs(torch, grid, side):
    """timm's `resample_abs_pos_embed`: bicubic with antialiasing, on `[1, h, w, C]`."""
    found = torch.nn.functional.interpolate(
        torch.tensor(grid).permute(0, 3, 1, 2), size=(side, side), mode="bicubic", antialias=True
    )
    return found.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("before", "after"), [(14, 2), (14, 4), (14, 10), (14, 24), (7, 14), (5, 5), (3, 1)])
def test_grids_are_resampled_as_pytorch_does(before, after):
    torch = pytest.importorskip("torch")
    grid = noise(1, before, before, 6)
    np.testing.assert_allclose(resample(grid, after), pytorchs(torch, grid, after), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_tokens_before_those_of_the_image_stay(prefix):
    torch = pytest.importorskip("torch")
    values, rule = noise(1, prefix + 49, 6), TokenGrid(prefix)
    found = rule.resized(values, (1, prefix + 16, 6))
    np.testing.assert_array_equal(found[:, :prefix], values[:, :prefix])
    expected = pytorchs(torch, values[:, prefix:].reshape(1, 7, 7, 6), 4).reshape(1, 16, 6)
    np.testing.assert_allclose(found[:, prefix:], expected, rtol=1e-4, atol=1e-5)
    assert (rule.side(values.shape), rule.side((1, prefix + 50, 6))) == (7, 0)


def test_positions_of_maps_are_resampled_likewise():
    values = noise(1, 6, 7, 7)
    expected = TokenGrid(0).resized(values.transpose(0, 2, 3, 1).reshape(1, 49, 6), (1, 16, 6))
    found = MapGrid().resized(values, (1, 6, 4, 4))
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1).reshape(1, 16, 6), expected, rtol=1e-6)


def places_by_hand(before, after):
    """Where the offsets of the old window lie in the new one: steps that grow by a factor, found by bisection."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        factor = (low + high) / 2
        reached = sum(factor**power for power in range(before // 2))
        low, high = (low, factor) if reached > after // 2 else (factor, high)
    right = [sum(factor**power for power in range(count + 1)) for count in range(before // 2)]
    return [-place for place in reversed(right)] + [0.0] + right


@pytest.mark.parametrize(("before", "after"), [(7, 4), (7, 12), (4, 7), (7, 1), (7, 24)])
def test_biases_are_interpolated_between_geometric_places(before, after):
    """One value after the other: linear between the four old offsets around each new one."""
    values = noise((2 * before - 1) ** 2, 2)
    found = WindowBias().resized(values, ((2 * after - 1) ** 2, 2)).reshape(2 * after - 1, 2 * after - 1, 2)
    table, places = values.reshape(2 * before - 1, 2 * before - 1, 2), places_by_hand(2 * before - 1, 2 * after - 1)
    for row in range(2 * after - 1):
        for column in range(0, 2 * after - 1, 3):
            by_rows = [np.interp(row - after + 1, places, table[:, place, 1]) for place in range(2 * before - 1)]
            assert found[row, column, 1] == pytest.approx(np.interp(column - after + 1, places, by_rows), abs=1e-5)
    np.testing.assert_allclose(found[after - 1, after - 1], table[before - 1, before - 1], atol=1e-6)


def test_a_table_tells_the_side_of_its_window():
    values = noise(169, 3)
    assert WindowBias().side(values.shape) == 7
    assert WindowBias().side((100, 3)) == WindowBias().side((170, 3)) == 0


TINY = {"width": 16, "depth": 1, "heads": 2}


@pytest.fixture
def file(tmp_path):
    """A file of a small ViT for images of 224 pixels."""
    convert.to_torch(filled(abstract_model("vit_tiny_patch16_224", 10, **TINY)), tmp_path / "x.pth")
    return tmp_path / "x.pth"


@sweep("size", [32, 64, 160, 384], core=[32])
def test_a_file_for_224_pixels_serves_other_sizes(size, file):
    torch = pytest.importorskip("torch")
    plain = convert.from_torch(file, "vit_tiny_patch16_224", **TINY)
    found = convert.from_torch(file, "vit_tiny_patch16_224", image_size=size, **TINY)
    side = size // 16
    assert (plain.image_shape, found.image_shape) == ((224, 224, 3), (size, size, 3))
    assert found.source.matched == f"pos_embed was resized from 14×14 to {side}×{side}"
    before, after = (np.asarray(one.pos_embed[...]) for one in (plain, found))
    np.testing.assert_array_equal(after[:, :1], before[:, :1])
    expected = pytorchs(torch, before[:, 1:].reshape(1, 14, 14, 16), side).reshape(1, side * side, 16)
    np.testing.assert_allclose(after[:, 1:], expected, rtol=1e-4, atol=1e-5)


@sweep("kind", ["x.pth", "x.safetensors"], core=["x.safetensors"])
def test_the_size_of_a_file_is_found_in_it(kind, tmp_path):
    small = filled(abstract_model("vit_tiny_patch16_224", 10, image_size=32))
    convert.to_torch(small, tmp_path / kind)
    back = convert.from_torch(tmp_path / kind)
    assert back.name in ("vit_tiny_patch16_224", "deit_tiny_patch16_224")
    assert (back.options, back.source.matched) == ((("image_size", 32),), "")
    np.testing.assert_array_equal(back.pos_embed[...], small.pos_embed[...])


SWIN = {"width": 8, "depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1)}


def test_where_shapes_do_not_tell_the_size_it_has_to_be_said(tmp_path):
    name = "swin_tiny_patch4_window7_224"
    small = filled(abstract_model(name, 10, image_size=32, **SWIN))
    convert.to_torch(small, tmp_path / "x.pth")
    with pytest.raises(ConversionError, match="say which images its weights are for, as in image_size=224"):
        convert.from_torch(tmp_path / "x.pth", name, **SWIN)
    back = convert.from_torch(tmp_path / "x.pth", name, image_size=32, **SWIN)
    assert back.source.matched == ""
    large = abstract_model(name, 10, image_size=224, **SWIN)
    weights, said = resized(large, convert.to_state_dict(small))
    assert weights["layers.1.blocks.0.attn.relative_position_bias_table"].shape == (169, 1)
    assert said == "layers.1.blocks.0.attn.relative_position_bias_table was resized from 4×4 to 7×7; and 2 more"


def test_a_shape_that_is_for_no_grid_is_told_as_a_misfit(file, tmp_path):
    weights = convert.to_state_dict(convert.from_torch(file, "vit_tiny_patch16_224", **TINY))
    weights["pos_embed"] = weights["pos_embed"][:, :100]
    model = abstract_model("vit_tiny_patch16_224", 10, **TINY)
    assert resized(model, weights)[1] == ""
    with pytest.raises(ConversionError, match=r"misshapen \(1\): pos_embed \[1, 100, 16\] where the model has"):
        convert.load_state_dict(model, weights, "x.pth")
