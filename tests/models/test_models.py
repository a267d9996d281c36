"""The zoo against the authors' networks: keys, shapes, parameter counts, logits and features."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import golden, listing, reference_weights
from sweeps import sweep
from values import relative_error

from jaxkd import convert
from jaxkd.convert.architectures import abstract_model

CTKD = (
    "resnet8 resnet20 resnet56 resnet110 resnet8x4 resnet32x4 vgg8 wrn_16_2 wrn_40_1 ResNet50 MobileNetV2 ShuffleV2 "
    "ResNet18"
)
ATS = "ResNet14 WRN28-1 ResNeXt29-4-4d"
# One of each family.
CORE = "ctkd/resnet8 ctkd/wrn_16_2 ctkd/vgg8 ctkd/ResNet18 ctkd/MobileNetV2 ctkd/ShuffleV2 ats/ResNeXt29-4-4d"
# Of the same families, of other sizes or under other names.
SLOW = (
    "ctkd/resnet14 ctkd/resnet32 ctkd/resnet44 ctkd/resnet8x4_double ctkd/vgg11 ctkd/vgg13 ctkd/vgg16 ctkd/vgg19 "
    "ctkd/wrn_16_1 ctkd/wrn_40_2 ctkd/ShuffleV1 ctkd/shufflenet_v2_x0_5 ctkd/MobileNetV2_Imagenet ctkd/ResNet18Double "
    "ctkd/ResNet34 ctkd/resnet34x4 ctkd/resnext50_32x4d ctkd/wrn_50_2 ctkd/ShuffleV2_Imagenet ctkd/vgg11_imagenet "
    "ctkd/vgg13_imagenet ats/ResNet110 ats/VGG8 ats/WRN28-8 ats/MobileNetV2 ats/ShuffleNetV1"
)
ENTRIES = [
    *(f"ctkd/{name}" for name in CTKD.split()),
    *(f"ats/{name}" for name in ATS.split()),
    *(pytest.param(entry, marks=pytest.mark.slow) for entry in SLOW.split()),
]


@sweep("entry", ENTRIES, core=CORE.split())
def test_state_dict_logits_and_features_are_the_authors(entry):
    expected = listing(f"models/{entry}")
    # Put together again by Flax, which sorts attributes: the order of keys is tested where it is hardest.
    model = abstract_model(expected["name"], expected["num_classes"])
    convert.load_state_dict(model, reference_weights(expected["state_dict"]), entry)

    weights = convert.to_state_dict(model)
    assert [[key, list(value.shape)] for key, value in weights.items()] == expected["state_dict"]
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == expected["parameters"]

    reference = golden(f"models/{entry}")
    rng = np.random.default_rng(zlib.crc32(b"input"))
    images = rng.standard_normal(expected["input_shape"]).astype(np.float32)
    outputs = model(jnp.asarray(images.transpose(0, 2, 3, 1)))
    assert relative_error(outputs.logits, reference["logits"]) < 1e-4
    assert len(outputs.features) == sum(key.endswith("_channel_mean") for key in reference)
    for i, feature in enumerate(outputs.features):
        shape = tuple(reference[f"feature{i}_shape_nchw"])
        assert feature.shape == ((shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape)
        means = np.asarray(feature).mean(axis=tuple(range(1, feature.ndim - 1)))
        assert relative_error(means, reference[f"feature{i}_channel_mean"]) < 1e-4
