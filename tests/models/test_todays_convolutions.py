"""ConvNeXt, EfficientNet, MobileNetV3 and V4, RegNet, ResNet-C and -D and DenseNet against timm's and torchvision's."""

import functools
import itertools
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.nn.initializers import zeros
from reference import golden, listing, reference_weights
from seeded import filled
from values import relative_error

import jaxkd
from jaxkd import convert, data, losses, models, optimizers
from jaxkd.convert.architectures import CHANNELS, CLASSES, abstract_model, entries
from jaxkd.convert.identify import named
from jaxkd.convert.manifest import Stated
from jaxkd.convert.torch_models import select
from jaxkd.formats.files import ConversionError
from jaxkd.models import convnext, densenet, efficientnet, mobilenet_v3, mobilenet_v4, regnet, resnet_d
from jaxkd.models.inverted_residual import ends_of_sizes
from jaxkd.nn.layers import SqueezeExcite, average_pool, hard_swish, relu
from jaxkd.nn.tokens import PatchConv

# The libraries' own numbers.

GOLDENS = {
    "timm-convnext_atto": "convnext_atto",
    "timm-resnet18d": "resnet18d",
    "timm-regnety_004": "regnety_004",
    "timm-mobilenetv4_conv_small": "mobilenetv4_conv_small",
    "timm-efficientnet_b0": "timm_efficientnet_b0",
    "torchvision-mobilenet_v3_small": "mobilenet_v3_small",
    "torchvision-densenet121": "densenet121",
    "timm-convnext_tiny": "timm_convnext_tiny",
    "timm-mobilenetv3_large_100": "mobilenetv3_large_100",
    "timm-resnet50": "resnet50",
    "torchvision-convnext_tiny": "convnext_tiny",
    "torchvision-efficientnet_b0": "efficientnet_b0",
    "torchvision-mobilenet_v3_large": "mobilenet_v3_large",
    "torchvision-regnet_y_400mf": "regnet_y_400mf",
}


def by_hand(values, thorough):
    """The values of `thorough` for CI, the others for a run by hand: seconds each."""
    return [
        pytest.param(value, marks=pytest.mark.thorough if value in thorough else pytest.mark.slow) for value in values
    ]


@pytest.mark.parametrize(
    "file", by_hand(GOLDENS, ["timm-convnext_atto", "timm-regnety_004", "torchvision-mobilenet_v3_small"])
)
def test_state_dict_and_logits_are_the_librarys(file):
    expected, reference = listing(f"models/timm/{file}"), golden(f"models/timm/{file}")
    model = abstract_model(GOLDENS[file], expected["classes"])
    given = reference_weights(expected["state_dict"])
    convert.load_state_dict(model, given, file)

    weights = convert.to_state_dict(model)
    assert [[key, list(value.shape)] for key, value in weights.items()] == expected["state_dict"]
    assert all(np.array_equal(weights[key], value) for key, value in given.items())
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == expected["parameters"]

    images = np.random.default_rng(zlib.crc32(b"input")).standard_normal(expected["input_shape"]).astype(np.float32)
    outputs = run(model, jnp.asarray(images.transpose(0, 2, 3, 1)))
    assert relative_error(outputs.logits, reference["logits"]) < 1e-4
    np.testing.assert_allclose(outputs.classify(outputs.features[-1]), outputs.logits, rtol=1e-4, atol=1e-5)


def run(model, images, train=False):
    graph, state = nnx.split(model)
    return jax.jit(lambda state: nnx.merge(graph, state)(images, train=train))(state)


def parameters(name):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract_model(name, 1000), nnx.Param)))


PUBLISHED = {
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "mobilenet_v3_large": 5_483_032,
    "regnet_x_400mf": 5_495_976,
    "regnet_x_800mf": 7_259_656,
    "regnet_x_1_6gf": 9_190_136,
    "regnet_x_3_2gf": 15_296_552,
    "regnet_x_8gf": 39_572_648,
    "regnet_x_16gf": 54_278_536,
    "regnet_x_32gf": 107_811_560,
    "regnet_y_400mf": 4_344_144,
    "regnet_y_800mf": 6_432_512,
    "regnet_y_1_6gf": 11_202_430,
    "regnet_y_3_2gf": 19_436_338,
    "regnet_y_8gf": 39_381_472,
    "regnet_y_16gf": 83_590_140,
    "regnet_y_32gf": 145_046_770,
}
"""Parameters with 1000 classes, as torchvision's documentation has them."""


@pytest.mark.parametrize("name", by_hand(PUBLISHED, ["efficientnet_b2", "regnet_x_1_6gf", "regnet_y_800mf"]))
def test_other_sizes_have_the_published_parameters(name):
    assert parameters(name) == PUBLISHED[name]


MILLIONS = {
    "convnext_femto": 5.22,
    "convnext_pico": 9.05,
    "convnext_nano": 15.59,
    "mobilenetv3_small_100": 2.54,
    "regnetx_002": 2.68,
    "regnetx_004": 5.16,
    "regnetx_006": 6.20,
    "regnetx_040": 22.12,
    "regnetx_064": 26.21,
    "regnetx_120": 46.11,
    "regnety_002": 3.16,
    "regnety_006": 6.06,
    "regnety_040": 20.65,
    "regnety_064": 30.58,
    "regnety_120": 51.82,
    "resnet26d": 16.01,
    "resnet34d": 21.82,
    "resnet50d": 25.58,
    "resnet101d": 44.57,
    "resnet50c": 25.58,
}
"""Millions of parameters with 1000 classes, as timm's tables have them."""


@pytest.mark.parametrize("name", by_hand(MILLIONS, ["regnetx_004", "regnety_002", "resnet50c"]))
def test_timms_other_sizes_have_the_published_parameters(name):
    assert round(parameters(name) / 1e6, 2) == MILLIONS[name]


def test_regnets_of_equal_numbers_are_wider_in_torchvision():
    assert regnet.stages(regnet.PLANS["x"][400], regnet.to_nearest)[-1] == (384, 16, 12)
    assert regnet.stages(regnet.PLANS["x"][400], regnet.to_nearest_or_up)[-1] == (400, 16, 12)
    with pytest.raises(ValueError, match="there is no RegNetY of 9900 million multiply-accumulates, but of 200, 400, "):
        models.create("regnet_y_9_9gf")


# What their layers compute.


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_squeeze_and_excitation_by_hand():
    layer = SqueezeExcite(
        4, 2, names=("conv_reduce", "conv_expand"), activation=hard_swish, gate=jax.nn.hard_sigmoid, rngs=nnx.Rngs(0)
    )
    layer.conv_reduce.bias[...] = jnp.array([0.5, -0.25])
    images = noise(2, 3, 5, 4)
    reduce, expand = (np.asarray(conv.kernel[...])[0, 0] for conv in (layer.conv_reduce, layer.conv_expand))
    hidden = np.asarray(images).mean((1, 2)) @ reduce + np.array([0.5, -0.25])
    hidden = hidden * np.clip(hidden + 3, 0, 6) / 6
    gates = np.clip(hidden @ expand + 3, 0, 6) / 6
    np.testing.assert_allclose(layer(images), np.asarray(images) * gates[:, None, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 2)])
def test_averaging_shortcuts_and_transitions_is_pytorchs(size):
    torch = pytest.importorskip("torch")
    images = np.array(noise(2, *size, 3))
    theirs = torch.from_numpy(images.transpose(0, 3, 1, 2))
    ceiling = torch.nn.functional.avg_pool2d(theirs, 2, ceil_mode=True, count_include_pad=False)
    np.testing.assert_allclose(
        average_pool(jnp.asarray(images), partial=True), ceiling.numpy().transpose(0, 2, 3, 1), atol=1e-6
    )
    if min(size) > 1:
        floor = torch.nn.functional.avg_pool2d(theirs, 2).numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(average_pool(jnp.asarray(images)), floor, atol=1e-6)


@pytest.mark.parametrize(("window", "size"), [(2, 6), (2, 7), (4, 9)])
def test_patches_and_their_gradients_are_pytorchs(window, size):
    torch = pytest.importorskip("torch")
    images, kernel = noise(2, size, size, 3), noise(window, window, 3, 5, seed=1)

    @jax.jit
    def gradients(kernel, images):
        def total(kernel, images):
            layer = PatchConv(3, 5, window, bias_init=zeros, rngs=nnx.Rngs(0))
            layer.kernel[...] = kernel
            return jnp.sum(jnp.sin(layer(images)))

        return jax.value_and_grad(total, argnums=(0, 1))(kernel, images)

    value, (of_kernel, of_images) = gradients(kernel, images)
    weight = torch.tensor(np.asarray(kernel).transpose(3, 2, 0, 1).copy(), requires_grad=True)
    given = torch.tensor(np.asarray(images).transpose(0, 3, 1, 2).copy(), requires_grad=True)
    total = torch.nn.functional.conv2d(given, weight, stride=window).sin().sum()
    total.backward()
    np.testing.assert_allclose(value, total.item(), rtol=1e-4)
    np.testing.assert_allclose(of_kernel.transpose(3, 2, 0, 1), weight.grad.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_images.transpose(0, 3, 1, 2), given.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_the_last_stage_of_each_size_smaller_than_the_stems():
    assert ends_of_sizes([1, 2, 2, 2, 1, 2, 1]) == (1, 2, 4, 6)  # EfficientNet, and MobileNetV3 large
    assert ends_of_sizes([2, 2, 2, 1, 2]) == (0, 1, 3, 4)  # MobileNetV3 small
    assert ends_of_sizes([2, 2]) == (0, 1)


# Files of them.


def file_of(name):
    """Arrays of a network's keys and shapes that take no memory."""
    numbers = {CLASSES: 10, CHANNELS: 3}
    shapes = {key: tuple(numbers.get(size, size) for size in shape) for key, shape in named(name).shapes.items()}
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


WORDS = {"downsample": "shortcut_path", "block": "unit", "blocks": "units", "conv": "convolution", "bn": "norm"}


def in_other_words(key):
    return re.sub(r"[a-z]+", lambda word: WORDS.get(word[0], word[0]), key)


def refusal(weights):
    with pytest.raises(ConversionError) as caught:
        select(weights, "x.pth")
    return caught.value.reason


def test_both_libraries_keys_of_one_network_are_told_apart():
    for name in ("efficientnet_b0", "timm_efficientnet_b0", "convnext_tiny", "timm_convnext_tiny"):
        weights = file_of(name)
        found = select({f"model.{key}": value for key, value in weights.items()}, "x.pth")
        assert found.candidate.name == name
        assert all(found.weights[key] is value for key, value in weights.items())


def test_of_two_networks_of_equal_shapes_renamed_keys_are_for_the_one_that_they_are_like():
    for name in ("efficientnet_b0", "timm_efficientnet_b0", "resnet50c", "resnet50d"):
        weights = file_of(name)
        renamed = {in_other_words(key): value for key, value in weights.items()}
        found = select(renamed, "x.pth")
        assert found.candidate.name == name
        assert all(found.weights[key] is value for key, value in weights.items())
    opaque = {f"tensor{number}": value for number, value in enumerate(file_of("resnet50d").values())}
    assert "fits several networks alike; the file fits resnet50c" in refusal(opaque)
    opaque = {f"tensor{number}": value for number, value in enumerate(file_of("efficientnet_b0").values())}
    assert "and timm_efficientnet_b0 (num_classes=10)" in refusal(opaque)


def test_the_twins_that_pad_as_tensorflow_does_are_named():
    for name, twin in (
        ("timm_efficientnet_b0", "tf_efficientnet_b0"),
        ("mobilenetv3_large_100", "tf_mobilenetv3_large_100"),
    ):
        weights = file_of(name)
        assert f"timm's {twin}, which is not in the zoo, has the same keys" in select(weights, "x.pth").matched
        for known in ({"name": name}, {"stated": Stated(name, {}, None)}):
            assert select(weights, "x.pth", **known).matched == ""
    assert select(file_of("efficientnet_b0"), "x.pth").matched == ""


# Small networks of each family.

STAGES = (efficientnet.Stage(1, 3, 2, 8, 1), efficientnet.Stage(2, 3, 2, 12, 2))
V3 = mobilenet_v3.Plan(
    (
        (mobilenet_v3.Block(3, 16, 8, True, relu, 2),),
        (mobilenet_v3.Block(3, 16, 12, False, hard_swish, 2), mobilenet_v3.Block(5, 24, 12, True, hard_swish, 1)),
    ),
    last=16,
    embedding=24,
)
V4 = (
    (mobilenet_v4.Plain(3, 2, 8),),
    (mobilenet_v4.Universal(3, 5, 2, 2, 12), mobilenet_v4.Universal(3, 0, 1, 2, 12)),
)
PLAN = regnet.Plan(depth=8, initial=8, slope=2.0, multiplier=2.0, group=4)
NARROW = convnext.Plan((1, 5), (8, 16))
SMALL = {
    "convnext": (convnext.TimmConvNeXt, (NARROW,), {"drop_path": 0.2}),
    "torchvision convnext": (convnext.TorchvisionConvNeXt, (NARROW,), {}),
    "efficientnet": (efficientnet.TimmEfficientNet, (STAGES, 8, 16), {"drop": 0.1, "drop_path": 0.2}),
    "torchvision efficientnet": (efficientnet.TorchvisionEfficientNet, (STAGES, 8, 16), {}),
    "mobilenet_v3": (mobilenet_v3.TimmMobileNetV3, (V3,), {"drop": 0.1}),
    "torchvision mobilenet_v3": (mobilenet_v3.TorchvisionMobileNetV3, (V3,), {}),
    "mobilenet_v4": (mobilenet_v4.MobileNetV4, (V4, 16, 24), {"drop": 0.1}),
    "regnet": (regnet.TimmRegNet, (PLAN, 0.75), {}),
    "torchvision regnet": (regnet.TorchvisionRegNet, (PLAN, 0), {}),
    "resnet_d": (resnet_d.DeepStemResNet, (resnet_d.BasicBlockD, [1, 1]), {}),
    "densenet": (densenet.DenseNet, ((2, 1), 4), {}),
}
"""Networks with layers of every kind and few weights; those with equal blocks in a row have stacks."""


def small(name, **options):
    build, sizes, own = SMALL[name]
    return build(*sizes, num_classes=10, rngs=nnx.Rngs(0), **own, **options)


@pytest.mark.parametrize("name", SMALL)
def test_maps_preactivations_norms_and_grey_images_of_odd_sizes(name):
    def look(images):
        model = small(name, channels=1)
        norms = model.preactivation_norms() if hasattr(model, "preactivation_norms") else ()
        return model(images), [norm.scale[...] for norm in norms]

    outputs, scales = jax.eval_shape(look, jnp.zeros((2, 33, 46, 1)))
    *maps, embedding = outputs.features
    assert [len(feature.shape) for feature in maps] == [4] * 3
    assert len(embedding.shape) == 2
    assert outputs.logits.shape == (2, 10)
    assert [before.shape for before in outputs.preactivations] == [feature.shape for feature in maps]
    assert [scale.shape for scale in scales] in ([feature.shape[-1:] for feature in maps], [])
    assert bool(scales) != ("convnext" in name)
    half, _ = jax.eval_shape(look, jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.bfloat16))
    assert {out.dtype for out in (*half.features[:-1], *half.preactivations)} == {jnp.dtype("bfloat16")}
    assert {out.dtype for out in (half.features[-1], half.logits)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_there_and_back(name):
    """Stacks in lists and stacks of blocks with names of their own are taken apart and put together again."""
    model = nnx.eval_shape(lambda: small(name))
    given = reference_weights([(entry.name, entry.torch_shape) for entry in entries(model)])
    convert.load_state_dict(model, given, name)
    back = convert.to_state_dict(model)
    assert {key for key in back if not key.endswith("num_batches_tracked")} == set(given)
    assert all(np.array_equal(back[key], value) for key, value in given.items())


def test_named_blocks_in_a_stack_have_the_keys_of_blocks_written_out():
    listed = [entry.name for entry in entries(nnx.eval_shape(lambda: small("regnet")))]
    keys = [key for key in listed if key.endswith("conv1.conv.weight")]
    assert regnet.stages(PLAN, regnet.to_nearest) == [(8, 4, 2), (16, 4, 6)]
    expected = [f"s{stage}.b{block}" for stage, blocks in ((1, 2), (2, 6)) for block in range(1, blocks + 1)]
    assert [key.removesuffix(".conv1.conv.weight") for key in keys] == expected


SGD = optimizers.sgd(0.001, momentum=0.9)
BATCH, STEPS = 4, 3


def distilled(student, teacher):
    """What three steps say, learning logits, a contrast of embeddings and a map."""
    pixels = np.random.default_rng(0).integers(0, 256, (STEPS * BATCH, 32, 32, 3), np.uint8)
    images = data.from_arrays(pixels, np.arange(len(pixels)) % 10, num_classes=10)
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    terms = {
        "kd": losses.KD(4.0),
        "dkd": losses.DKD(),
        "crd": losses.CRD(images.labels, negatives=4, feature_dim=8),
        "at": losses.AT(),
    }
    distiller.compile(SGD, terms, image_shape=(32, 32, 3))
    before = jax.tree.map(np.array, distiller.state.params)
    logs = distiller.fit(images, epochs=1, batch_size=BATCH, verbose=0).history
    assert int(distiller.state.step) == STEPS
    moved = jax.tree.map(lambda old, new: bool((old != np.asarray(new)).any()), before, distiller.state.params)
    assert all(jax.tree.leaves(moved))
    return {name: logs[name][-1] for name in terms}


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        pytest.param(student, teacher, marks=pytest.mark.slow)
        for student, teacher in itertools.pairwise([*SMALL, next(iter(SMALL))])
    ],
)
def test_each_learns_from_the_next(student, teacher):
    """Gradients flow through all of a student's weights; a teacher's are as they were."""
    # Of reference weights, since a fresh layer scale of 1e-6 hides what is behind it.
    networks = (filled(nnx.jit(functools.partial(small, name))()) for name in (student, teacher))
    found = distilled(*networks)
    assert all(np.isfinite(value) and value > 0 for value in found.values()), found
