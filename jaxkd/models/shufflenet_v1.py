"""ShuffleNetV1 (Zhang et al. 2018) for CIFAR, with three groups as in RepDistiller and ATS."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.models.registry import Classifier, family
from jaxkd.nn.convolution import convolve
from jaxkd.nn.layers import BatchNorm, DefaultConv, Linear, Preactivation, channel_shuffle, conv_norm
from jaxkd.nn.stack import last_block, pooled_outputs, preactivations, stack_blocks
from jaxkd.types import Outputs

STEM = 24
WIDTHS = (240, 480, 960)
BLOCKS = (4, 8, 4)
GROUPS = 3


class ShuffleUnit(nnx.Module):
    """Two grouped 1×1 convolutions around a depthwise 3×3, with a channel shuffle after the first, and a shortcut.

    With stride 2 the shortcut is an average pooling and its channels are put beside the block's instead of added.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        width = outputs // 4
        self.groups = 1 if inputs == STEM else GROUPS  # the stem has too few channels for groups
        self.conv1 = DefaultConv(inputs, width, 1, groups=self.groups, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = DefaultConv(width, width, 3, stride, groups=width, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv3 = DefaultConv(width, outputs, 1, groups=GROUPS, rngs=rngs)
        self.bn3 = BatchNorm(outputs)
        self.stride = stride

    def __call__(self, before: Preactivation, train: bool) -> Preactivation:
        """Map one preactivation to the next: the ReLU that closes a unit in the paper is applied by the next unit."""
        images = before.relu()
        out = conv_norm(self.conv1, self.bn1, images, train).relu()
        out = conv_norm(self.conv2, self.bn2, channel_shuffle(out, self.groups), train).relu()
        if self.stride == 1:
            return conv_norm(self.conv3, self.bn3, out, train, residual=images)
        beside = [conv_norm(self.conv3, self.bn3, out, train).value, _average_pool(images)]
        return Preactivation.of(jnp.concatenate(beside, axis=-1))


def _average_pool(images: jax.Array) -> jax.Array:
    """Halve height and width, taking the mean of 3×3 windows in which the border of zeros counts."""
    channels = images.shape[-1]
    return convolve(images, jnp.full((3, 3, 1, channels), 1 / 9, images.dtype), 2, 1, channels)


class ShuffleNetV1(Classifier):
    """ShuffleNetV1 for small images of any size; published for 32×32.

    Features: f0 the stem, f1 to f3 the stages (after their last ReLU), f4 the pooled embedding.
    """

    def __init__(self, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
        self.conv1 = DefaultConv(channels, STEM, 1, rngs=rngs)
        self.bn1 = BatchNorm(STEM)
        inputs = (STEM, *WIDTHS)
        stages = [_stage(*sizes, rngs) for sizes in zip(inputs, WIDTHS, BLOCKS, strict=False)]
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = Linear(WIDTHS[-1], num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        stem = conv_norm(self.conv1, self.bn1, images, train)
        return pooled_outputs(preactivations(stem, (self.layer1, self.layer2, self.layer3), train), self.linear)

    def preactivation_norms(self) -> tuple[BatchNorm, ...]:
        """Return the last BatchNorm before each of the preactivations."""
        return (self.bn1, *(last_block(stage).bn3 for stage in (self.layer1, self.layer2, self.layer3)))


def _stage(inputs: int, outputs: int, blocks: int, rngs: nnx.Rngs) -> nnx.List[Any]:
    first = ShuffleUnit(inputs, outputs - inputs, 2, rngs=rngs)
    return stack_blocks(first, [ShuffleUnit(outputs, outputs, 1, rngs=rngs) for _ in range(blocks - 1)])


@family(r"Shuffle(Net)?V1", ("ShuffleV1", "ShuffleNetV1"))
def shufflenet_v1(*, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> ShuffleNetV1:
    """Build RepDistiller's `ShuffleV1`, `ShuffleNetV1` in ATS."""
    return ShuffleNetV1(num_classes=num_classes, channels=channels, rngs=rngs)
