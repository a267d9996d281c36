"""Every network of the zoo, out to a file and back: the same weights, names and order, and PyTorch reads them too."""

import math

import numpy as np
import pytest
from seeded import HALF, same_weights, seeded
from sweeps import sweep

from jaxkd import convert, models
from jaxkd.convert.architectures import CHANNELS, CLASSES, networks


def size(name: str) -> int:
    """How many numbers a network holds."""
    shapes = next(network.shapes for network in networks() if name in network.names)
    return sum(
        math.prod({CLASSES: 7, CHANNELS: 3}.get(length, length) for length in shape) for shape in shapes.values()
    )


def parameter(name: str):
    return name if size(name) < 800_000 else pytest.param(name, marks=pytest.mark.slow)


@sweep("name", [parameter(name) for name in models.list()], core=["resnet8", "wrn_16_1"])
def test_there_and_back_is_the_identity(name, tmp_path):
    model = seeded(name, num_classes=7)
    model.normalization = HALF
    weights = convert.to_state_dict(model)
    for file, normalization in (("x.pth", None), ("x.safetensors", HALF)):
        convert.to_torch(model, tmp_path / file)
        back = convert.from_torch(tmp_path / file, name)
        assert (back.name, back.num_classes, back.options) == (name, 7, ())
        assert back.normalization == normalization
        assert same_weights(back, model)
        guessed = convert.from_torch(tmp_path / file)
        synonyms = next(network.names for network in networks() if name in network.names)
        assert guessed.name == (synonyms[0] if file == "x.pth" else name)  # a safetensors file says its name
        assert same_weights(guessed, model)
    torch = pytest.importorskip("torch")
    loaded = torch.load(tmp_path / "x.pth", weights_only=True)
    assert list(loaded) == list(weights)
    assert all(np.array_equal(loaded[key].numpy(), weights[key]) for key in weights)
