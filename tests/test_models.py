"""The zoo against the authors' networks: keys, shapes, parameter counts, logits and features."""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import GOLDENS, golden, reference_weights

from jaxkd import convert
from jaxkd.convert.zoo import abstract_model

CTKD = (
    "resnet8 resnet14 resnet20 resnet32 resnet44 resnet56 resnet110 resnet8x4 resnet32x4 resnet8x4_double "
    "vgg8 vgg11 vgg13 vgg16 vgg19 wrn_16_1 wrn_16_2 wrn_40_1 wrn_40_2"
)
ATS = "ResNet14 ResNet110 VGG8 WRN28-1 WRN28-8"
ENTRIES = [f"ctkd/{name}" for name in CTKD.split()] + [f"ats/{name}" for name in ATS.split()]


def relative_error(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("entry", ENTRIES)
def test_state_dict_logits_and_features_are_the_authors(entry):
    listing = json.loads((GOLDENS / f"models/{entry}.json").read_text())
    # Put together again by Flax, which sorts attributes: the order of keys is tested where it is hardest.
    model = abstract_model(listing["name"], listing["num_classes"])
    convert.load_state_dict(model, reference_weights(listing["state_dict"]), entry)

    weights = convert.to_state_dict(model)
    assert [[key, list(value.shape)] for key, value in weights.items()] == listing["state_dict"]
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == listing["parameters"]

    reference = golden(f"models/{entry}")
    rng = np.random.default_rng(zlib.crc32(b"input"))
    images = rng.standard_normal(listing["input_shape"]).astype(np.float32)
    outputs = model(jnp.asarray(images.transpose(0, 2, 3, 1)))
    assert relative_error(outputs.logits, reference["logits"]) < 1e-4
    assert len(outputs.features) == sum(key.endswith("_channel_mean") for key in reference)
    for i, feature in enumerate(outputs.features):
        shape = tuple(reference[f"feature{i}_shape_nchw"])
        assert feature.shape == ((shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape)
        means = np.asarray(feature).mean(axis=tuple(range(1, feature.ndim - 1)))
        assert relative_error(means, reference[f"feature{i}_channel_mean"]) < 1e-4
