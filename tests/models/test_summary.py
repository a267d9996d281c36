"""Summaries of networks, against what `describe` counts and what can be counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx
from sweeps import sweep
from tiny import TinyNet

import jaxkd
from jaxkd import models


@sweep(
    "name",
    ["resnet8", "wrn_10_1", "vgg8", "ShuffleV1", "MobileNetV2", "deit_tiny_patch16_224", "mobilenet_v3_small"],
    core=["resnet8", "wrn_10_1"],
)
def test_layers_add_up_to_what_describe_counts(name):
    network = nnx.eval_shape(lambda: models.create(name, num_classes=10))
    found, known = jaxkd.summary(network), models.describe(name, 10)
    assert (found.name, found.image_shape, found.num_classes) == (name, known.image_shape, 10)
    assert (found.parameters, found.macs) == (known.parameters, known.macs)
    assert sum(layer.parameters for layer in found.layers) == known.parameters
    assert (found.features, found.preactivations) == (known.features, known.preactivations)
    counted = sum(layer.macs for layer in found.layers)
    assert 0.99 * known.macs <= counted <= known.macs  # what a network computes outside of its layers is in the total
    assert 3 <= len(found.layers) <= 25
    assert max(map(len, str(found).splitlines())) <= 100


def test_rows_are_those_of_the_network():
    assert str(jaxkd.summary(TinyNet(), (8, 8, 3))).splitlines() == [
        "TinyNet: images 8×8×3, 10 classes",
        "layer  kind       output  parameters    MACs",
        "conv   Conv       4×4×8          216  3.46 k",
        "bn     BatchNorm  4×4×8           16",
        "fc     Linear     10              90      80",
        "total                            322  3.54 k",
        "features to distil from:",
        "f0  4×4×8",
        "f1  8",
    ]


def test_depth_tells_blocks_apart_and_stacks_are_counted():
    found = jaxkd.summary(models.create("resnet32", 10), depth=2)
    layer = {layer.name: layer for layer in found.layers}
    assert layer["layer1.1"].kind == "4 × BasicBlock"
    assert layer["layer1.1"].macs == 4 * layer["layer1.0"].macs == 4 * 2 * 1024 * 9 * 16 * 16
    assert layer["layer1.1"].parameters == 4 * layer["layer1.0"].parameters
    one = {layer.name: layer for layer in jaxkd.summary(models.create("resnet32", 10)).layers}
    assert one["layer1"].kind == "5 × BasicBlock"
    assert one["layer1"].macs == layer["layer1.0"].macs + layer["layer1.1"].macs


class Logits(nnx.Module):
    """A network of somebody's own, which returns logits alone and names no images."""

    def __init__(self, rngs):
        self.body = nnx.Sequential(nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs), nnx.relu)
        self.scale = nnx.Param(jnp.ones(8))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, images):
        return self.head(self.dropout(self.body(images).mean((1, 2)) * self.scale[...][None]))


def test_a_network_of_ones_own_is_left_as_it_was():
    network = Logits(nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat))))
    kinds = {path: type(layer) for path, layer in nnx.iter_modules(network)}
    found = jaxkd.summary(network, (8, 6, 3), depth=1)
    assert [(layer.name, layer.kind, layer.output, layer.parameters, layer.macs) for layer in found.layers] == [
        ("body", "Sequential", (8, 6, 8), 8 * 27 + 8 + 16, 48 * 8 * 27),
        ("scale", "", None, 8, 0),
        ("head", "Linear", (10,), 90, 80),
    ]
    assert found.features == ()
    assert "no features: it returns logits alone" in str(found)
    assert {path: type(layer) for path, layer in nnx.iter_modules(network)} == kinds
    after = nnx.to_pure_dict(nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat)))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, before, after))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, images, train=False):
        maps = linen.Conv(8, (3, 3))(images)
        return linen.Dense(10)(linen.BatchNorm(use_running_average=not train)(maps).mean((1, 2)))


def test_linen_modules_and_chosen_features():
    network = nnx.bridge.ToNNX(Linen(), rngs=nnx.Rngs(0))
    network.lazy_init(jnp.zeros((1, 8, 8, 3)))
    found = jaxkd.summary(models.with_features(network, ["Conv_0"]), (8, 8, 3))
    rows = {layer.name: (layer.output, layer.parameters, layer.macs) for layer in found.layers}
    assert rows == {
        "Conv_0": ((8, 8, 8), 224, 64 * 8 * 27),
        "BatchNorm_0": ((8, 8, 8), 16, 0),
        "Dense_0": ((10,), 90, 80),
    }
    assert (found.name, found.features, found.layers_of_features) == ("Linen", ((8, 8, 8), (8,)), ("Conv_0",))
    assert "f0 Conv_0  8×8×8" in str(found)


def test_features_by_name_are_recorded_once_beside_the_layers():
    network = models.with_features(TinyNet(), ["conv", "bn"])
    found = jaxkd.summary(network, (8, 8, 3))
    assert [layer.name for layer in found.layers] == ["conv", "bn", "fc"]
    assert found.features == ((4, 4, 8), (4, 4, 8), (8,))


def test_networks_of_an_ensemble_are_told_apart():
    found = jaxkd.summary(models.Ensemble([TinyNet(), TinyNet(width=4)]), (8, 8, 3))
    assert [(layer.name, layer.parameters) for layer in found.layers] == [("networks.0", 322), ("networks.1", 166)]


def test_in_a_notebook_it_is_a_table():
    shown = jaxkd.summary(TinyNet(), (8, 8, 3))._repr_html_()
    assert shown.count("<tr>") == 1 + 3 + 1 + 1 + 2
    assert ">4×4×8</td>" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "TinyNet does not say what images it takes: give image_shape="),
        ({"image_shape": (8, 8)}, "give .height, width, channels."),
        ({"image_shape": (8, 8, 3), "depth": 0}, "depth=0: must be at least 1"),
    ],
)
def test_what_cannot_be_summarized(options, message):
    with pytest.raises(ValueError, match=message):
        jaxkd.summary(TinyNet(), **options)
