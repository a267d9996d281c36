"""MobileNetV2 (Sandler et al. 2018) in two forms: RepDistiller's for CIFAR, and torchvision's for ImageNet.

Both are the same network, `MobileNetV2`, and name its layers as their published files do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.nn.initializers import zeros

from jaxkd.models.registry import Classifier, family
from jaxkd.nn.initializers import normal
from jaxkd.nn.layers import BatchNorm, Conv, Linear, Preactivation, conv_norm, global_average_pool
from jaxkd.types import Outputs

Layer = tuple[Conv, BatchNorm]
Activation = Callable[[Preactivation], jax.Array]


class Stage(NamedTuple):
    """A run of blocks of one width.

    Attributes:
      expansion: how many times wider than its input a block is inside.
      width: the channels of its output.
      blocks: the number of blocks.
      stride: the stride of the first block; the others keep the size.
    """

    expansion: int
    width: int
    blocks: int
    stride: int


STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
SMALL_STAGES = tuple(
    stage._replace(width=stage.width // 2, stride=1 if position == 1 else stage.stride)
    for position, stage in enumerate(STAGES)
)
"""The stages of the CIFAR form: half as wide, and the second keeps the size."""

STEM, EMBEDDING = 32, 1280
FEATURE_BLOCKS = (3, 6, 13, 17)
"""The numbers of blocks after which f1 to f4 are taken: the last maps of each size."""


class InvertedResidual(nnx.Module):
    """A 1×1 convolution to more channels, a depthwise 3×3, and a 1×1 to few channels without ReLU; and a shortcut.

    The layers are in `conv`; the two forms give them different positions.
    """

    def __init__(self, conv: nnx.Dict[Any], activation: Activation):
        self.conv = conv
        self.activation = activation

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        *inner, (projection, norm) = self.layers()
        out = images
        for layer in inner:
            out = self.activation(conv_norm(*layer, out, train))
        # Only the first block of a stage has a stride, and each stage changes the width.
        shortcut = images if norm.scale.size == images.shape[-1] else None
        return conv_norm(projection, norm, out, train, residual=shortcut).value

    def layers(self) -> list[Layer]:
        """Return its convolutions, each with its BatchNorm, in order."""
        flat: list[Any] = []
        for position in sorted(self.conv):
            part = self.conv[position]
            flat.extend(part if isinstance(part, nnx.List) else [part])
        return list(zip(flat[::2], flat[1::2], strict=True))


class MobileNetV2(Classifier):
    """The network of both forms, which name its layers, list them in `parts` and set the width and the kind of ReLU.

    Features: f0 the stem (after its ReLU), f1 to f4 the last maps of each size, f5 the pooled embedding. A linear
    bottleneck ends without a ReLU, so there the preactivation is the feature itself, as the next block receives it.
    """

    activation: Activation

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        (convolution, norm), blocks, (last_convolution, last_norm), classifier = self.parts()
        stem = conv_norm(convolution, norm, images, train)
        out = self.activation(stem)
        features, preactivations = [out], [stem.value]
        for position, block in enumerate(blocks, start=1):
            out = block(out, train)
            if position in FEATURE_BLOCKS:
                features.append(out)
                preactivations.append(out)
        out = self.activation(conv_norm(last_convolution, last_norm, out, train))
        features.append(global_average_pool(out))
        return Outputs(classifier(features[-1]), tuple(features), tuple(preactivations), classifier.function())

    def preactivation_norms(self) -> tuple[BatchNorm, ...]:
        """Return the last BatchNorm before each of the preactivations."""
        (_, norm), blocks, _, _ = self.parts()
        return (norm, *(blocks[count - 1].layers()[-1][1] for count in FEATURE_BLOCKS))

    def parts(self) -> tuple[Layer, list[InvertedResidual], Layer, Linear]:
        """Return stem, blocks, the convolution before the pooling, and the classifier."""
        raise TypeError(f"{type(self).__name__} defines no parts()")


def new_layer(inputs: int, outputs: int, window: int, stride: int = 1, groups: int = 1, *, rngs: nnx.Rngs) -> Layer:
    """Create a convolution and its BatchNorm."""
    return Conv(inputs, outputs, window, stride, groups=groups, rngs=rngs), BatchNorm(outputs)


def new_classifier(num_classes: int, rngs: nnx.Rngs) -> Linear:
    """Create the linear layer on the embedding, initialised as in both forms."""
    return Linear(EMBEDDING, num_classes, kernel_init=normal(0.01), bias_init=zeros, rngs=rngs)


def new_blocks(
    inputs: int, stages: Sequence[Stage], arrange: Callable[..., nnx.Dict[Any]], activation: Activation, rngs: nnx.Rngs
) -> list[InvertedResidual]:
    """Create the blocks of all stages in one list.

    Args:
      inputs: channels of the stem.
      stages: the stages after it.
      arrange: creates the layers of a block at a form's positions; called with the channels in and out, the stride,
        the expansion and `rngs`.
      activation: the kind of ReLU.
      rngs: keys of the initial weights.
    """
    blocks = []
    for expansion, width, count, stride in stages:
        for position in range(count):
            conv = arrange(inputs, width, stride if position == 0 else 1, expansion, rngs)
            blocks.append(InvertedResidual(conv, activation))
            inputs = width
    return blocks


class SmallMobileNetV2(MobileNetV2):
    """MobileNetV2 of half the width, for small images of any size; published for 32×32.

    Features: f0 the stem (after its ReLU), f1 to f4 the last maps of each size, f5 the pooled embedding. A linear
    bottleneck ends without a ReLU, so there the preactivation is the feature itself, as the next block receives it.
    """

    activation = staticmethod(Preactivation.relu)

    def __init__(self, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
        stem, last = STEM // 2, SMALL_STAGES[-1].width
        self.conv1: nnx.List[Any] = nnx.List(new_layer(channels, stem, 3, 2, rngs=rngs))
        blocks = iter(new_blocks(stem, SMALL_STAGES, _flat, self.activation, rngs))
        self.blocks = nnx.List([nnx.List([next(blocks) for _ in range(stage.blocks)]) for stage in SMALL_STAGES])
        self.conv2: nnx.List[Any] = nnx.List(new_layer(last, EMBEDDING, 1, rngs=rngs))
        self.classifier = nnx.List([new_classifier(num_classes, rngs)])

    def parts(self) -> tuple[Layer, list[InvertedResidual], Layer, Linear]:
        blocks = [block for stage in self.blocks for block in stage]
        return tuple(self.conv1), blocks, tuple(self.conv2), self.classifier[0]


def _flat(inputs: int, outputs: int, stride: int, expansion: int, rngs: nnx.Rngs) -> nnx.Dict[Any]:
    """Create the three layers of a block in one list, in which ReLUs have a position too."""
    width = inputs * expansion
    layers = (
        new_layer(inputs, width, 1, rngs=rngs),
        new_layer(width, width, 3, stride, width, rngs=rngs),
        new_layer(width, outputs, 1, rngs=rngs),
    )
    return nnx.Dict({str(3 * i + j): part for i, layer in enumerate(layers) for j, part in enumerate(layer)})


@family(r"MobileNetV2", ("MobileNetV2",))
def mobilenet_v2(*, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> MobileNetV2:
    """Build the CIFAR form, under the name of RepDistiller and ATS."""
    return SmallMobileNetV2(num_classes=num_classes, channels=channels, rngs=rngs)


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

    def parts(self) -> tuple[Layer, list[InvertedResidual], Layer, Linear]:
        features: Any = self.features
        stem, *blocks, last = features
        return tuple(stem), blocks, tuple(last), self.classifier["1"]


def _nested(inputs: int, outputs: int, stride: int, expansion: int, rngs: nnx.Rngs) -> nnx.Dict[Any]:
    """Create the layers of a block, those with a ReLU each in its own list; without expansion the first is left out."""
    width = inputs * expansion
    rows = [new_layer(inputs, width, 1, rngs=rngs)] if expansion > 1 else []
    rows.append(new_layer(width, width, 3, stride, width, rngs=rngs))
    parts: list[nnx.Module] = [*(nnx.List(row) for row in rows), *new_layer(width, outputs, 1, rngs=rngs)]
    return nnx.Dict({str(position): part for position, part in enumerate(parts)})


@family(r"MobileNetV2_Imagenet|mobilenet_v2", ("MobileNetV2_Imagenet", "mobilenet_v2"), size=224, small="MobileNetV2")
def imagenet_mobilenet_v2(*, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> MobileNetV2:
    """Build the ImageNet form, under the names of CTKD and torchvision."""
    return MobileNetV2ImageNet(num_classes=num_classes, channels=channels, rngs=rngs)
