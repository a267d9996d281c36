"""MobileNetV2 (Sandler et al. 2018) for ImageNet, in torchvision's layout."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from jaxkd.models.layers import Preactivation
from jaxkd.models.mobilenet_v2 import EMBEDDING, STAGES, STEM, MobileNetV2, new_blocks, new_classifier, new_layer
from jaxkd.models.registry import family


def _relu6(before: Preactivation) -> jax.Array:
    return jax.nn.relu6(before.value)


class MobileNetV2ImageNet(MobileNetV2):
    """MobileNetV2 for images of any size; published for 224×224. Its ReLUs are capped at 6.

    Features: f0 the stem (after its ReLU), f1 to f4 the last maps of each size, f5 the pooled embedding. A linear
    bottleneck ends without a ReLU, so there the preactivation is the feature itself, as the next block receives it.

    torchvision drops a fifth of the embedding at random in training; networks here take no random key, so this one
    keeps all of it.
    """

    activation = staticmethod(_relu6)

    def __init__(self, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
        stem = nnx.List(new_layer(channels, STEM, 3, 2, rngs=rngs))
        blocks = new_blocks(STEM, STAGES, _nested, self.activation, rngs)
        last = nnx.List(new_layer(STAGES[-1].width, EMBEDDING, 1, rngs=rngs))
        self.features = nnx.List([stem, *blocks, last])
        self.classifier = nnx.Dict({"1": new_classifier(num_classes, rngs)})  # position 0 is the dropout's

    def parts(self):
        features: Any = self.features
        stem, *blocks, last = features
        return tuple(stem), blocks, tuple(last), self.classifier["1"]


def _nested(inputs: int, outputs: int, stride: int, expansion: int, rngs: nnx.Rngs) -> nnx.Dict:
    """A layer with ReLU is a row of its own, the last one is not; without expansion there is no first layer."""
    width = inputs * expansion
    rows = [new_layer(inputs, width, 1, rngs=rngs)] if expansion > 1 else []
    rows.append(new_layer(width, width, 3, stride, width, rngs=rngs))
    parts: list[nnx.Module] = [*(nnx.List(row) for row in rows), *new_layer(width, outputs, 1, rngs=rngs)]
    return nnx.Dict({str(position): part for position, part in enumerate(parts)})


@family(r"MobileNetV2_Imagenet|mobilenet_v2", ("MobileNetV2_Imagenet", "mobilenet_v2"), size=224)
def imagenet_mobilenet_v2(*, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
    """As CTKD and torchvision name it."""
    return MobileNetV2ImageNet(num_classes=num_classes, channels=channels, rngs=rngs)
