"""The rewritten function is plain operations that compute the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from seeded import HALF, seeded
from sweeps import sweep

from jaxkd import models
from jaxkd.export.portable import portable, program
from jaxkd.export.source import classifier

PLAIN = {
    *("add", "broadcast_in_dim", "concatenate", "conv_general_dilated", "convert_element_type", "div", "dot_general"),
    *("max", "min", "mul", "pad", "reduce_sum", "reshape", "slice", "split", "squeeze", "sub", "transpose"),
}
"""Of what networks of the zoo are made when calls, loops, branches and the folding of BatchNorm are gone."""


def operations(closed):
    return [equation.primitive.name for equation in closed.jaxpr.eqns]


SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("ShuffleV1", "ShuffleV2", "MobileNetV2", "mobilenet_v2", "MobileNetV1", "wrn_40_2", "resnet18")
]


@sweep("name", ["resnet8", "resnet32", "vgg8", *SLOW], core=["resnet8"])
def test_networks_become_plain_operations(name):
    network = classifier(seeded(name), (32, 32, 3), HALF)
    (batch,) = export.symbolic_shape("batch")
    closed = program(network, network.pixels(batch))
    assert set(operations(closed)) <= PLAIN
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = network.predict(pixels)
    found = jax.jit(portable(network))(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_only_what_the_logits_need_is_left():
    """No preactivation that a feature loss would read, and nothing of BatchNorm but a shift."""
    network = classifier(seeded("resnet8"), (8, 8, 3), HALF)
    names = operations(program(network, network.pixels(2)))
    assert names.count("conv_general_dilated") == 7 + 2  # its layers, and the shortcuts of two stages
    assert names.count("max") == 7
    assert "rsqrt" not in names


@sweep("name", ["resnet8", "vgg8", pytest.param("ShuffleV1", marks=pytest.mark.slow)], core=["resnet8"])
def test_multiply_accumulates_are_those_of_the_description(name):
    network = classifier(seeded(name), (32, 32, 3), HALF)
    assert network.macs == models.describe(name, 10, (32, 32, 3)).macs


@pytest.mark.parametrize("reverse", [False, True])
def test_loops_are_written_out(reverse):
    def loop(total, row):
        return total * row.sum() + 1.0, (row * total, total)

    def function(images):
        total, stacked = lax.scan(loop, jnp.float32(1.0), images, reverse=reverse)
        return total + stacked[0].sum() * jnp.arange(3, dtype=jnp.float32) @ stacked[1]

    images = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert "scan" not in operations(program(function, images))
    np.testing.assert_allclose(portable(function)(images), function(images), rtol=1e-6)


def test_of_a_choice_between_platforms_the_default_is_kept():
    choose = functools.partial(lax.platform_dependent, cpu=lambda x: x * 0.0, default=lambda x: x + 1.0)
    assert portable(lambda x: choose(x))(jnp.float32(1.0)) == 2.0


def test_a_branch_on_a_value_stays():
    def function(x):
        return lax.cond(x.sum() > 0, lambda x: x * 2.0, lambda x: x - 1.0, x)

    for value in (1.0, -1.0):
        x = jnp.full(2, value)
        np.testing.assert_array_equal(portable(function)(x), function(x))


@pytest.mark.parametrize(
    ("part", "gathers"),
    [
        (lambda x: x[:, 0], 0),
        (lambda x: x[:, 2, :, 1], 0),
        (lambda x: x[:, 1::2, 2::3], 0),
        (lambda x: x[:, jnp.array([0, 3, 4])], 1),
        (lambda x: x[:, jnp.array([0, 1]), jnp.array([0, 1])], 1),
        (lambda x: x[:, jnp.array([[0, 1], [2, 3]])], 1),
    ],
    ids=["one", "of two axes", "grid", "other steps", "diagonal", "in a square"],
)
def test_what_is_taken_from_known_places_is_a_slice_where_it_can_be(part, gathers):
    """LiteRT has no gather from a batch of any size."""
    (batch,) = export.symbolic_shape("batch")
    plain = program(part, jax.ShapeDtypeStruct((batch, 6, 9, 2), jnp.float32))
    assert [equation.primitive.name for equation in plain.jaxpr.eqns].count("gather") == gathers
    values = np.random.default_rng(0).normal(size=(3, 6, 9, 2)).astype(np.float32)
    np.testing.assert_array_equal(portable(part)(values), part(values))


TRANSFORMERS = {
    "deit_tiny_distilled_patch16_224": {"width": 24, "depth": 3, "heads": 3, "patch_size": 8, "image_size": 32},
    "swin_tiny_patch4_window7_224": {"image_size": 32},
    "pit_ti_224": {"image_size": 32, "patch_size": 4, "stride": 2},
    "t2t_vit_7": {"width": 16, "depth": 5, "heads": 2, "token_width": 8, "image_size": 32},
}


@sweep("name", TRANSFORMERS, core=["deit_tiny_distilled_patch16_224"], thorough=())
def test_tokens_that_are_repeated_for_each_image_leave_the_batch_free(name):
    model = models.create(name, num_classes=10, **TRANSFORMERS[name])
    network = classifier(model, (32, 32, 3), HALF)
    (batch,) = export.symbolic_shape("batch")
    leaves = export.export(jax.jit(portable(network)))(network.pixels(batch))
    for count in (1, 3):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), np.uint8)
        np.testing.assert_allclose(leaves.call(pixels), network.predict(pixels), atol=1e-5)
