"""What networks offer and cost, against counts by hand and the published ones."""

import jax
import jax.numpy as jnp
import pytest
from small_transformers import transformers
from sweeps import sweep

from jaxkd import models


def residual_stage(pixels, inputs, outputs, blocks, projects):
    """Multiply-accumulates of basic blocks on maps of this many pixels."""
    first = 9 * inputs * outputs + 9 * outputs * outputs + (inputs * outputs if projects else 0)
    return pixels * (first + (blocks - 1) * 18 * outputs * outputs)


@sweep(("depth", "millions"), [(20, 41), (56, 126), (110, 253)], core=[(20, 41)])
def test_cifar_resnets_counted_by_hand(depth, millions):
    blocks = (depth - 2) // 6
    by_hand = (
        1024 * 9 * 3 * 16
        + residual_stage(1024, 16, 16, blocks, projects=False)
        + residual_stage(256, 16, 32, blocks, projects=True)
        + residual_stage(64, 32, 64, blocks, projects=True)
        + 64 * 100
    )
    assert models.describe(f"resnet{depth}").macs == by_hand
    assert round(by_hand / 1e6) == millions


def test_grouped_convolutions_are_counted_once():
    by_hand, inputs, pixels = 1024 * 9 * 3 * 64, 64, 1024
    for stage, planes in enumerate((64, 128, 256)):
        width = planes // 16 * 4
        for block in range(3):
            entering, pixels = pixels, pixels // 4 if stage and not block else pixels
            by_hand += entering * inputs * width  # the stride is in the grouped convolution after it
            by_hand += pixels * width * (width // 4) * 9 + pixels * width * 4 * planes
            by_hand += 0 if block else pixels * inputs * 4 * planes
            inputs = 4 * planes
    by_hand += 1024 * 100
    assert models.describe("ResNeXt29-4-4d").macs == by_hand


def test_depthwise_convolutions_are_counted_once():
    by_hand, width, size = 112 * 112 * 9 * 3 * 32, 32, 112
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    widths = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    for stride, outputs in zip(strides, widths, strict=True):
        size //= stride
        by_hand += size * size * (9 * width + width * outputs)
        width = outputs
    assert models.describe("MobileNetV1", num_classes=1000).macs == by_hand + 1024 * 1000


PUBLISHED = {
    "resnet18": (11_689_512, 1.81),
    "resnet34": (21_797_672, 3.66),
    "resnet50": (25_557_032, 4.09),
    "resnet101": (44_549_160, 7.80),
    "wide_resnet50_2": (68_883_240, 11.40),
    "resnext50_32x4d": (25_028_904, 4.23),
    "vgg11_bn": (132_868_840, 7.61),
    "vgg13_bn": (133_053_736, 11.31),
    "mobilenet_v2": (3_504_872, 0.30),
    "shufflenet_v2_x1_0": (2_278_604, 0.14),
    "deit_tiny_patch16_224": (5_717_416, 1.25),
    "swin_t": (28_288_354, 4.49),
    "pit_ti_224": (4_847_272, 0.70),
    "pvt_v2_b0": (3_666_760, 0.57),
    "convnext_tiny": (28_589_128, 4.46),
    "efficientnet_b0": (5_288_548, 0.39),
    "mobilenet_v3_large": (5_483_032, 0.22),
    "regnet_y_400mf": (4_344_144, 0.40),
}
"""Parameters and billions of multiply-accumulates, with 1000 classes at 224×224."""


@sweep("name", PUBLISHED, core=["resnet18", "mobilenet_v2"], thorough=())
def test_imagenet_networks_are_as_large_as_published(name):
    found = models.describe(name, num_classes=1000)
    parameters, billions = PUBLISHED[name]
    assert found.image_shape == (224, 224, 3)
    assert found.parameters == parameters
    assert abs(found.macs / 1e9 - billions) <= 0.0051


@sweep("name", ["resnet8", "wrn_10_1", "vgg8"], core=["resnet8"])
def test_shapes_are_those_of_the_outputs(name):
    found = models.describe(name, 10, image_shape=(16, 24, 1), channels=1)
    outputs = models.create(name, 10, channels=1)(jnp.zeros((2, 16, 24, 1)))
    assert found.features == tuple(feature.shape[1:] for feature in outputs.features)
    assert found.preactivations == tuple(before.shape[1:] for before in outputs.preactivations)
    assert (found.embedding,) == found.features[-1]


def test_options_and_images_are_taken_into_account():
    plain, padded = models.describe("resnet20"), models.describe("resnet20", shortcut="pad")
    assert plain.parameters - padded.parameters == 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert plain.macs - padded.macs == 256 * 16 * 32 + 64 * 32 * 64
    assert padded.options == (("shortcut", "pad"),)
    large = models.describe("resnet20", image_shape=(64, 64, 3))
    assert large.macs - 6400 == 4 * (plain.macs - 6400)
    assert large.parameters == plain.parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", models.list())
def test_every_network_offers_a_preactivation_per_map_and_an_embedding(name):
    found = models.describe(name, num_classes=7)
    assert found.macs > 0
    *maps, embedding = found.features
    assert len(maps) >= 4
    assert len(embedding) == 1
    before = 0 if name in transformers() else len(maps)  # a transformer has no ReLU that anything could be before
    assert [len(shape) for shape in (*maps, *found.preactivations)] == [3] * (len(maps) + before)


def test_nothing_is_computed():
    """A network of half a gigabyte is described while nothing of that size exists."""
    before = {id(array) for array in jax.live_arrays()}
    models.describe("vgg13_bn", num_classes=1000)
    new = [array for array in jax.live_arrays() if id(array) not in before]
    assert sum(array.nbytes for array in new) < 2**20


def test_printed_as_a_table():
    printed = str(models.describe("resnet8", num_classes=10, shortcut="pad"))
    assert printed.splitlines() == [
        "resnet8, shortcut pad: images 32×32×3, 10 classes",
        "75,290 parameters, 12.2 M multiply-accumulates",
        "    feature   preactivation",
        "f0  32×32×16  32×32×16",
        "f1  32×32×16  32×32×16",
        "f2  16×16×32  16×16×32",
        "f3  8×8×64    8×8×64",
        "f4  64",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "resnet21"}, "unknown model 'resnet21'"),
        ({"name": "vgg8", "shortcut": "pad"}, "vgg8 has no option shortcut"),
        ({"name": "resnet8", "image_shape": (32, 32)}, "give .height, width, channels., as in .32, 32, 3."),
        ({"name": "resnet8", "image_shape": (0, 32, 3)}, "give .height, width, channels."),
        ({"name": "resnet8", "image_shape": (28, 28, 1)}, "resnet8 takes 3 channels here; give channels=1 as well"),
        ({"name": "resnet18", "image_shape": (16, 16, 3)}, "images of 16×16 are too small"),
    ],
)
def test_what_cannot_be_described(given, message):
    with pytest.raises(ValueError, match=message):
        models.describe(**given)
