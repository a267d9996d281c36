"""DenseNet (Huang et al. 2017), under the names and keys of torchvision, which timm shares."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros

from jaxkd.models.registry import Classifier, family
from jaxkd.nn.initializers import kaiming_fan_in
from jaxkd.nn.layers import (
    BatchNorm,
    Conv,
    Linear,
    Preactivation,
    average_pool,
    check_image_size,
    conv_norm,
)
from jaxkd.nn.stack import pooled_outputs
from jaxkd.types import Outputs

GROWTH = 32
WIDENING = 4
"""The width of a layer inside, as a multiple of the growth."""

BLOCKS: dict[int, tuple[int, ...]] = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
"""By depth, the number of layers in each dense block."""


class DenseLayer(nnx.Module):
    """BatchNorm, ReLU and 1×1 convolution, then BatchNorm, ReLU and 3×3 convolution; it gives `growth` new channels."""

    def __init__(self, inputs: int, growth: int, *, rngs: nnx.Rngs):
        inside = WIDENING * growth
        self.norm1 = BatchNorm(inputs)
        self.conv1 = Conv(inputs, inside, 1, kernel_init=kaiming_fan_in, rngs=rngs)
        self.norm2 = BatchNorm(inside)
        self.conv2 = Conv(inside, growth, 3, kernel_init=kaiming_fan_in, rngs=rngs)

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        active = self.norm1.preactivation(images, train).relu()
        return self.conv2(conv_norm(self.conv1, self.norm2, active, train).relu())


class Transition(nnx.Module):
    """The end of a dense block: BatchNorm, ReLU, a 1×1 convolution to half the channels, and averages of 2×2 pixels."""

    def __init__(self, inputs: int, *, rngs: nnx.Rngs):
        self.norm = BatchNorm(inputs)
        self.conv = Conv(inputs, inputs // 2, 1, kernel_init=kaiming_fan_in, rngs=rngs)

    def __call__(self, before: Preactivation) -> jax.Array:
        """Return the maps that the next block receives, of what the ReLU receives."""
        return average_pool(self.conv(before.relu()))


class DenseNet(Classifier):
    """A DenseNet for images of any size from 32×32; published for 224×224.

    A layer receives the outputs of all layers before it in its block.

    Features: f0 the stem after its max pooling, one per dense block (after the BatchNorm and the ReLU that follow it),
    then the pooled embedding.

    Args:
      blocks: the number of layers in each dense block.
      growth: the channels that each layer adds.
      num_classes: K.
      channels: channels of the images.
      rngs: keys of the initial weights.
    """

    def __init__(
        self,
        blocks: tuple[int, ...] = BLOCKS[121],
        growth: int = GROWTH,
        *,
        num_classes: int,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        width = 2 * growth
        parts: dict[str, Any] = {
            "conv0": Conv(channels, width, 7, 2, kernel_init=kaiming_fan_in, rngs=rngs),
            "norm0": BatchNorm(width),
        }
        for number, layers in enumerate(blocks, start=1):
            dense = {f"denselayer{i + 1}": DenseLayer(width + i * growth, growth, rngs=rngs) for i in range(layers)}
            parts[f"denseblock{number}"] = nnx.Dict(dense)
            width += layers * growth
            if number < len(blocks):
                parts[f"transition{number}"] = Transition(width, rngs=rngs)
                width //= 2
        parts[f"norm{len(blocks) + 1}"] = BatchNorm(width)
        self.features = nnx.Dict(parts)
        self.classifier = Linear(width, num_classes, bias_init=zeros, rngs=rngs)
        self.blocks = tuple(blocks)

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        check_image_size(images, len(self.blocks) + 1)
        stem = conv_norm(self.features["conv0"], self.features["norm0"], images, train)
        before = [stem.max_pool(3, padding=1)]  # as large as the feature
        out = before[-1].relu()
        _, *norms = self.preactivation_norms()
        for number, (layers, norm) in enumerate(zip(self.blocks, norms, strict=True), start=1):
            dense = self.features[f"denseblock{number}"]
            for i in range(1, layers + 1):
                out = jnp.concatenate([out, dense[f"denselayer{i}"](out, train)], axis=-1)
            before.append(norm.preactivation(out, train))
            if number < len(self.blocks):
                out = self.features[f"transition{number}"](before[-1])
        return pooled_outputs(before, self.classifier)

    def preactivation_norms(self) -> tuple[BatchNorm, ...]:
        """Return the last BatchNorm before each of the preactivations."""
        inner = [self.features[f"transition{number}"].norm for number in range(1, len(self.blocks))]
        return (self.features["norm0"], *inner, self.features[f"norm{len(self.blocks) + 1}"])


@family(r"densenet(?P<depth>121|169|201)", tuple(f"densenet{depth}" for depth in BLOCKS), size=224)
def densenet(depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> DenseNet:
    """Build torchvision's `densenet121` and its like."""
    return DenseNet(BLOCKS[depth], num_classes=num_classes, channels=channels, rngs=rngs)
