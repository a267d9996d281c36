"""The classifier of a network, and a fresh one for other classes."""

import numpy as np
import pytest
from flax import nnx
from tiny import TinyNet

from jaxkd import models


def variables(network):
    return {path: np.array(variable[...]) for path, variable in nnx.to_flat_state(nnx.state(network))}


FAMILIES = ("MobileNetV1", "MobileNetV2", "ResNet18_cifar", "ShuffleV1", "mobilenet_v2", "vgg11_bn", "vgg8", "wrn_16_1")


@pytest.mark.parametrize(
    "name",
    [name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in models.list()],
)
def test_every_network_has_one_linear_layer_that_makes_its_logits(name):
    network = nnx.eval_shape(lambda: models.create(name, num_classes=7))
    [layer] = models.head(network)
    shapes = {
        path[-1]: variable.shape
        for path, variable in nnx.to_flat_state(nnx.state(network))
        if ".".join(map(str, path[:-1])) == layer
    }
    assert shapes["bias"] == (7,)
    assert shapes["kernel"][1] == 7


@pytest.mark.parametrize(("name", "options"), [("resnet8", {"shortcut": "pad"}), ("resnet32", {})])
def test_a_fresh_classifier_leaves_all_else_as_it_is(name, options):
    network = models.create(name, num_classes=5, seed=1, **options)
    network.normalization, network.resize_to = models.registry.Normalization((0.5,) * 3, (0.25,) * 3), 48
    changed, fresh = models.reset_classifier(network, 3, seed=2), models.create(name, 3, seed=2, **options)
    before, after, drawn = variables(network), variables(changed), variables(fresh)
    assert before.keys() == after.keys()
    [layer] = models.head(network)
    for path, value in after.items():
        expected = drawn if ".".join(map(str, path[:-1])) == layer else before
        np.testing.assert_array_equal(value, expected[path])
    assert (changed.num_classes, changed.name, changed.options) == (3, name, network.options)
    assert (changed.normalization, changed.resize_to) == (network.normalization, 48)


def test_the_head_of_another_network_is_not_guessed():
    for ask in (models.head, lambda network: models.reset_classifier(network, 3)):
        with pytest.raises(ValueError, match=r"TinyNet makes the logits.*trainable=\('fc',\)"):
            ask(TinyNet())
