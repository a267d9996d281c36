"""CIFAR ResNets (He et al. 2016): three stages of basic blocks, depth 6n + 2, under RepDistiller's and ATS's names."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.models.registry import Classifier, family
from jaxkd.nn.layers import BatchNorm, Conv, Linear, Preactivation, conv_norm
from jaxkd.nn.stack import last_block, pooled_outputs, preactivations, stack_blocks
from jaxkd.types import Outputs

Shortcut = Literal["projection", "pad"]


class BasicBlock(nnx.Module):
    """Two 3×3 convolutions and a shortcut.

    Where the shape changes, the shortcut is a 1×1 convolution (`"projection"`, the paper's option B) or has no
    parameters: every other pixel, with zero channels on both sides (`"pad"`, option A).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut, *, rngs: nnx.Rngs):
        self.conv1 = Conv(inputs, outputs, 3, stride, rngs=rngs)
        self.bn1 = BatchNorm(outputs)
        self.conv2 = Conv(outputs, outputs, 3, rngs=rngs)
        self.bn2 = BatchNorm(outputs)
        projects = shortcut == "projection" and (stride != 1 or inputs != outputs)
        self.downsample: Any = (
            nnx.List([Conv(inputs, outputs, 1, stride, rngs=rngs), BatchNorm(outputs)]) if projects else None
        )
        self.stride = stride

    def __call__(self, before: Preactivation, train: bool) -> Preactivation:
        """Map one preactivation to the next: the ReLU that closes a block in the paper is applied by the next block."""
        images = before.relu()
        out = conv_norm(self.conv1, self.bn1, images, train).relu()
        return conv_norm(self.conv2, self.bn2, out, train, residual=self._shortcut(images, out.shape[-1], train))

    def _shortcut(self, images: jax.Array, channels: int, train: bool) -> jax.Array:
        if self.downsample is not None:
            convolution, norm = self.downsample
            return conv_norm(convolution, norm, images, train).value
        extra = channels - images.shape[-1]
        kept = images[:, :: self.stride, :: self.stride]
        return jnp.pad(kept, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))


class ResNet(Classifier):
    """A CIFAR ResNet for images of any size from 4×4; `widths` are the channels of the stem and the three stages.

    Features: f0 the stem, f1 to f3 the stages (after their last ReLU), f4 the pooled embedding.
    """

    def __init__(
        self,
        depth: int,
        widths: tuple[int, int, int, int],
        *,
        num_classes: int,
        channels: int = 3,
        shortcut: Shortcut = "projection",
        rngs: nnx.Rngs,
    ):
        if depth % 6 != 2 or depth < 8:
            raise ValueError(f"depth {depth}: a CIFAR ResNet of basic blocks has depth 6n + 2 (8, 14, 20, 26, …)")
        if shortcut not in ("projection", "pad"):
            raise ValueError(
                f"shortcut {shortcut!r}: choose 'projection' (1×1 convolution) or 'pad' (subsample, zero-pad)"
            )
        stem, *stages = widths
        if shortcut == "pad" and stem != stages[0]:
            raise ValueError(f"shortcut 'pad' needs a first stage as wide as the stem; widths are {widths}")
        blocks = (depth - 2) // 6
        self.conv1 = Conv(channels, stem, 3, rngs=rngs)
        self.bn1 = BatchNorm(stem)
        self.layer1 = _stage(stem, stages[0], blocks, 1, shortcut, rngs)
        self.layer2 = _stage(stages[0], stages[1], blocks, 2, shortcut, rngs)
        self.layer3 = _stage(stages[1], stages[2], blocks, 2, shortcut, rngs)
        self.fc = Linear(stages[2], num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        stem = conv_norm(self.conv1, self.bn1, images, train)
        return pooled_outputs(preactivations(stem, (self.layer1, self.layer2, self.layer3), train), self.fc)

    def preactivation_norms(self) -> tuple[BatchNorm, ...]:
        """Return the last BatchNorm before each of the preactivations."""
        return (self.bn1, *(last_block(stage).bn2 for stage in (self.layer1, self.layer2, self.layer3)))


def _stage(inputs: int, outputs: int, blocks: int, stride: int, shortcut: Shortcut, rngs: nnx.Rngs) -> nnx.List[Any]:
    first = BasicBlock(inputs, outputs, stride, shortcut, rngs=rngs)
    return stack_blocks(first, [BasicBlock(outputs, outputs, 1, shortcut, rngs=rngs) for _ in range(blocks - 1)])


_DEPTHS = (8, 14, 20, 32, 44, 56, 110)


@family(r"resnet(?P<depth>8|14|20|26|32|38|44|56|62|110)", tuple(f"resnet{depth}" for depth in _DEPTHS))
def resnet(
    depth: int, *, num_classes: int, channels: int = 3, shortcut: Shortcut = "projection", rngs: nnx.Rngs
) -> ResNet:
    """Build the plain CIFAR ResNet: 16, 32 and 64 channels."""
    return ResNet(depth, (16, 16, 32, 64), num_classes=num_classes, channels=channels, shortcut=shortcut, rngs=rngs)


@family(r"ResNet(?P<depth>14|20|26|32|38|44|56|62|110)", ("ResNet14", "ResNet110"))
def ats_resnet(
    depth: int, *, num_classes: int, channels: int = 3, shortcut: Shortcut = "projection", rngs: nnx.Rngs
) -> ResNet:
    """Build the plain CIFAR ResNet under its names in ATS."""
    return resnet(depth, num_classes=num_classes, channels=channels, shortcut=shortcut, rngs=rngs)


@family(r"resnet(?P<depth>\d+)x(?P<width>4)", ("resnet8x4", "resnet32x4"))
def wide_resnet(depth: int, width: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> ResNet:
    """Build a CIFAR ResNet that is four times as wide, with a stem of 32 channels."""
    return ResNet(
        depth, (32, 16 * width, 32 * width, 64 * width), num_classes=num_classes, channels=channels, rngs=rngs
    )


@family(r"resnet(?P<depth>\d+)x4_double", ("resnet8x4_double",))
def doubled_resnet(depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> ResNet:
    """Build a `resnet…x4` with twice the channels everywhere."""
    return ResNet(depth, (64, 128, 256, 512), num_classes=num_classes, channels=channels, rngs=rngs)
