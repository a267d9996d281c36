"""ImageNet's ResNets, ResNeXts and VGGs, and their kin for small images, beside what the reference numbers say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sweeps import sweep

from jaxkd import models
from jaxkd.convert.architectures import abstract_model, entries
from jaxkd.models.resnet_imagenet import BasicBlock, StagedResNet
from jaxkd.models.vgg import _to_grid
from jaxkd.nn.layers import Conv

SMALLEST = {"resnet18": 32, "ResNet18_cifar": 8, "ResNet50": 8, "ResNeXt11-4-4d": 4, "vgg11_bn": 32}


@pytest.fixture(scope="module")
def network():
    """Networks by name, each made once and filled in a moment, with statistics that are not those of a fresh one."""
    made = {}

    def make(name):
        if name not in made:
            graph, state = nnx.split(abstract_model(name, 10))
            made[name] = nnx.merge(graph, jax.tree_util.tree_map_with_path(values, nnx.to_pure_dict(state)))
        return made[name]

    return make


NOISE = np.random.default_rng(0).standard_normal(9973).astype(np.float32)  # a prime number: no axis repeats it


def values(path, leaf):
    kind, noise = path[-1].key, np.resize(np.roll(NOISE, len(str(path))), leaf.shape)
    if kind == "kernel":
        noise *= np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
    else:
        noise = 1 + 0.1 * abs(noise) if kind in ("scale", "var") else 0.3 * noise
    return jnp.asarray(noise)


def images(size, channels=3, count=2):
    values = np.random.default_rng(1).standard_normal((count, size, size, channels))
    return jnp.asarray(values, jnp.float32)


def listing(name):
    return [(entry.name, entry.torch_shape) for entry in entries(abstract_model(name, 100))]


# Names.


@sweep(
    ("name", "same"),
    [
        ("ResNet18", "resnet18"),
        ("ResNet18Double", "resnet18"),
        ("ResNet34", "resnet34"),
        ("resnet34x4", "resnet34"),
        ("wrn_50_2", "wide_resnet50_2"),
        ("vgg11_imagenet", "vgg11_bn"),
        ("vgg13_imagenet", "vgg13_bn"),
    ],
    core=[("ResNet18", "resnet18")],
)
def test_one_network_has_the_names_of_two_repositories(name, same):
    assert listing(name) == listing(same)
    assert abstract_model(name, 10).image_shape == (224, 224, 3)
    assert {name, same} <= set(models.list())


@pytest.mark.thorough
def test_networks_of_one_layout_differ_in_width_and_depth_only():
    keys = {name: [key for key, _ in listing(name)] for name in ("resnet50", "wide_resnet50_2", "resnext50_32x4d")}
    assert keys["resnet50"] == keys["wide_resnet50_2"] == keys["resnext50_32x4d"]
    deeper = [key for key, _ in listing("resnet101")]
    assert [key for key in deeper if key in keys["resnet50"]] == keys["resnet50"]
    assert {key.split(".")[1] for key in deeper if key.startswith("layer3")} == {str(i) for i in range(23)}


def test_small_images_have_names_of_their_own():
    for name in ("ResNet18", "ResNet34"):
        small, large = abstract_model(f"{name}_cifar", 10), abstract_model(name, 10)
        assert small.image_shape == (32, 32, 3)
        assert (small.conv1.kernel.shape, large.conv1.kernel.shape) == ((3, 3, 3, 64), (7, 7, 3, 64))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ResNeXt30-4-4d", "depth 30: a ResNeXt of three stages has depth 9n . 2"),
        ("ResNeXt29-0-4d", "groups 0: must be at least 1"),
        ("resnext50_32x0d", "width 0: must be at least 1"),
        ("resnet17", "unknown model 'resnet17': did you mean resnet1"),
    ],
)
def test_networks_that_do_not_exist(name, message):
    with pytest.raises(ValueError, match=message):
        models.create(name)


# Images.


@sweep("name", SMALLEST, core=["ResNet18_cifar"])
def test_the_smallest_images(name):
    size, model = SMALLEST[name], abstract_model(name, 10)
    graph, state = nnx.split(model)

    def shapes(size):
        run = jax.eval_shape(lambda state: nnx.merge(graph, state)(images(size)), state)
        return [feature.shape[1:3] for feature in run.features[:-1]]

    assert shapes(size)[-1] == (1, 1)
    with pytest.raises(ValueError, match=f"images of {size - 1}×{size - 1} are too small .* {size}×{size} or larger"):
        shapes(size - 1)


@sweep("name", SMALLEST, core=["ResNet18_cifar"])
def test_images_of_other_channels(name):
    graph, state = nnx.split(abstract_model(name, 10, channels=1))
    run = jax.eval_shape(lambda state: nnx.merge(graph, state)(images(32, channels=1)), state)
    assert run.logits.shape == (2, 10)
    assert nnx.merge(graph, state).image_shape[-1] == 1


# Outputs.


@sweep("name", SMALLEST, core=["ResNet18_cifar"], thorough=())
def test_preactivations_are_what_the_relu_before_each_feature_receives(name, network):
    model, given = network(name), images(2 * SMALLEST[name])
    outputs = model(given)
    assert len(outputs.preactivations) == len(outputs.features) - 1
    for before, feature in zip(outputs.preactivations, outputs.features, strict=False):
        np.testing.assert_array_equal(np.maximum(before, 0), feature)
        assert float(before.min()) < 0


@sweep("name", [name for name in SMALLEST if name != "ResNet50"], core=["ResNet18_cifar"], thorough=())  # copies
def test_the_norms_are_the_last_ones_before_the_preactivations(name, network):
    model, given = network(name), images(2 * SMALLEST[name])
    outputs, norms = model(given), model.preactivation_norms()
    assert len(norms) == len(outputs.preactivations)
    for i, norm in enumerate(norms):
        bias = norm.bias[...]
        norm.bias[...] = bias + 1.0
        shifted = model(given).preactivations
        norm.bias[...] = bias
        np.testing.assert_allclose(shifted[i], outputs.preactivations[i] + 1.0, atol=1e-4)


@sweep("name", SMALLEST, core=["ResNet18_cifar"])
def test_the_classifier_is_a_function_of_the_embedding(name, network):
    outputs = network(name)(images(2 * SMALLEST[name]))
    np.testing.assert_allclose(outputs.classify(outputs.features[-1]), outputs.logits, rtol=1e-6)
    assert np.ptp(np.asarray(outputs.logits)) > 0


@sweep("name", SMALLEST, core=["ResNet18_cifar"])
def test_bfloat16_images_make_bfloat16_maps_and_a_float32_embedding(name):
    graph, state = nnx.split(abstract_model(name, 10))
    given = images(2 * SMALLEST[name]).astype(jnp.bfloat16)
    outputs = jax.eval_shape(lambda state: nnx.merge(graph, state)(given), state)
    *maps, embedding = outputs.features
    assert {out.dtype for out in (*maps, *outputs.preactivations)} == {jnp.dtype("bfloat16")}
    assert {out.dtype for out in (embedding, outputs.logits)} == {jnp.dtype("float32")}


def test_training_moves_all_running_statistics(network):
    model = network("ResNet34_cifar")
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    graph, state = nnx.split(model)
    after = jax.jit(lambda state, given: _statistics_after(graph, state, given))(state, images(8))
    pairs = list(zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))
    assert len(pairs) > 40
    for old, new in pairs:
        moved = np.abs(np.asarray(new) - old).reshape(-1, old.shape[-1]).max(-1)
        assert (moved > 0).all()


def _statistics_after(graph, state, given):
    model = nnx.merge(graph, state)
    model(given, train=True)
    return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


# The VGGs' grid.


@sweep("size", [(1, 1), (2, 3), (6, 7), (7, 7), (8, 9), (13, 14), (20, 15)], core=[(1, 1), (8, 9)])
def test_averaging_to_a_grid_is_pytorchs(size):
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    theirs = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(maps.transpose(0, 3, 1, 2)), (7, 7))
    np.testing.assert_allclose(_to_grid(jnp.asarray(maps)), theirs.numpy().transpose(0, 2, 3, 1), atol=1e-6)


def test_averaging_to_a_grid():
    ramp = jnp.broadcast_to(jnp.arange(14.0).reshape(1, 14, 1, 1), (1, 14, 1, 1))
    grid = np.asarray(_to_grid(ramp))[0, :, :, 0]
    np.testing.assert_allclose(grid, np.tile(np.arange(0.5, 14, 2)[:, None], (1, 7)))


@pytest.mark.thorough
def test_the_embedding_of_a_vgg_is_flattened_channel_by_channel(network):
    outputs = network("vgg11_bn")(images(64, count=1))
    maps, embedding = outputs.features[-2:]
    np.testing.assert_array_equal(embedding.reshape(512, 7, 7), _to_grid(maps)[0].transpose(2, 0, 1))


# Initial weights.


@sweep(
    "name",
    ["ResNet18_cifar", "ResNeXt11-4-4d", pytest.param("vgg11_bn", marks=pytest.mark.slow)],
    core=["ResNeXt11-4-4d"],
)
def test_convolutions_start_as_the_authors(name):
    found = 0
    for _, module in nnx.iter_modules(models.create(name, num_classes=10)):
        if isinstance(module, Conv):
            kernel = np.asarray(module.kernel[...])
            expected = np.sqrt(2 / (kernel.shape[0] ** 2 * kernel.shape[-1]))  # of a grouped one too
            assert abs(kernel.std() / expected - 1) < 6 / np.sqrt(2 * kernel.size)
            assert module.bias is None or not np.asarray(module.bias[...]).any()
            found += 1
    assert found >= 8


def test_the_linear_layer_starts_as_pytorchs():
    layer = StagedResNet(BasicBlock, [1], num_classes=1000, rngs=nnx.Rngs(0)).fc
    for variable in (layer.kernel, layer.bias):
        drawn = np.asarray(variable[...])
        assert abs(drawn).max() <= 1 / 8
        assert abs(drawn.std() / (np.sqrt(1 / 3) / 8) - 1) < 0.1


@pytest.mark.slow
def test_the_linear_layers_of_a_vgg_start_as_the_authors():
    for layer in models.create("vgg11_bn", num_classes=1000).classifier.values():
        assert abs(np.asarray(layer.kernel[...]).std() / 0.01 - 1) < 0.01
        assert not np.asarray(layer.bias[...]).any()
