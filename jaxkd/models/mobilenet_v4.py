"""MobileNetV4 (Qin et al. 2024): the small network of convolutions alone, under timm's name and keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.nn.initializers import zeros

from jaxkd.models.inverted_residual import InvertedResidualNetwork, Layer, Parts, ends_of_sizes
from jaxkd.models.registry import family
from jaxkd.nn.attention import dropout
from jaxkd.nn.initializers import normal
from jaxkd.nn.layers import BatchNorm, Conv, Linear, Preactivation, conv_norm, relu

STEM, LAST, EMBEDDING = 32, 960, 1280


class Plain(NamedTuple):
    """A convolution with its BatchNorm and ReLU: window, stride and channels of its output."""

    window: int
    stride: int
    outputs: int


class Universal(NamedTuple):
    """A universal inverted bottleneck.

    Attributes:
      start: window of the depthwise convolution before the widening one; 0, and there is none.
      middle: window of the depthwise convolution after it; 0, and there is none.
      stride: of the depthwise convolution after it, else of the one before.
      expansion: how many times wider than its input it is inside.
      outputs: channels of its output.
    """

    start: int
    middle: int
    stride: int
    expansion: int
    outputs: int


STAGES: tuple[tuple[Plain | Universal, ...], ...] = (
    (Plain(3, 2, 32), Plain(1, 1, 32)),
    (Plain(3, 2, 96), Plain(1, 1, 64)),
    (Universal(5, 5, 2, 3, 96), *[Universal(0, 3, 1, 2, 96)] * 4, Universal(3, 0, 1, 4, 96)),
    (
        Universal(3, 3, 2, 6, 128),
        Universal(5, 5, 1, 4, 128),
        Universal(0, 5, 1, 4, 128),
        Universal(0, 5, 1, 3, 128),
        *[Universal(0, 3, 1, 4, 128)] * 2,
    ),
)
"""The stages of the small network between its stem and its last convolution."""


class PlainBlock(nnx.Module):
    """A convolution, its BatchNorm and a ReLU."""

    def __init__(self, inputs: int, shape: Plain, *, rngs: nnx.Rngs):
        self.conv = Conv(inputs, shape.outputs, shape.window, shape.stride, rngs=rngs)
        self.bn1 = BatchNorm(shape.outputs)

    def __call__(self, images: jax.Array, train: bool) -> Preactivation:
        return conv_norm(self.conv, self.bn1, images, train)

    def closing_norm(self) -> BatchNorm:
        """Return the BatchNorm before the ReLU."""
        return self.bn1


class UniversalBlock(nnx.Module):
    """A universal inverted bottleneck: an inverted residual block with a depthwise convolution at the start as well.

    Neither that one nor the last convolution has an activation. Where the block keeps the shape, its input is added.
    """

    def __init__(self, inputs: int, shape: Universal, *, rngs: nnx.Rngs):
        start, middle, stride, expansion, outputs = shape
        inside = expansion * inputs
        before, after = (1, stride) if middle else (stride, 1)
        self.dw_start = _depthwise(inputs, start, before, rngs)
        self.pw_exp = _layer(Conv(inputs, inside, 1, rngs=rngs), inside)
        self.dw_mid = _depthwise(inside, middle, after, rngs)
        self.pw_proj = _layer(Conv(inside, outputs, 1, rngs=rngs), outputs)
        self.adds = stride == 1 and inputs == outputs

    def __call__(self, images: jax.Array, train: bool) -> Preactivation:
        out = images if self.dw_start is None else conv_norm(*_pair(self.dw_start), images, train).value
        out = conv_norm(*_pair(self.pw_exp), out, train).relu()
        out = out if self.dw_mid is None else conv_norm(*_pair(self.dw_mid), out, train).relu()
        return conv_norm(*_pair(self.pw_proj), out, train, residual=images if self.adds else None)

    def closing_norm(self) -> BatchNorm:
        """Return the BatchNorm after the last convolution."""
        return self.pw_proj["bn"]


def _layer(convolution: Conv, outputs: int) -> nnx.Dict[Any]:
    return nnx.Dict({"conv": convolution, "bn": BatchNorm(outputs)})


def _pair(layer: nnx.Dict[Any]) -> Layer:
    return layer["conv"], layer["bn"]


def _depthwise(width: int, window: int, stride: int, rngs: nnx.Rngs) -> nnx.Dict[Any] | None:
    return _layer(Conv(width, width, window, stride, groups=width, rngs=rngs), width) if window else None


class MobileNetV4(InvertedResidualNetwork):
    """MobileNetV4 of convolutions for images of any size; published for 224×224.

    Features: f0 the stem (after its ReLU), f1 to f4 the last maps of each smaller size, f5 the embedding: the pooled
    maps after a hidden layer, its BatchNorm and its ReLU. Stages of plain convolutions end in a ReLU; the others do
    not, so there the preactivation is the feature itself, as the next block receives it.

    Args:
      stages: the blocks of each stage.
      last: channels of the convolution before the pooling.
      embedding: channels of the embedding.
      num_classes: K.
      drop: dropout of the embedding before the classifier.
      channels: channels of the images.
      rngs: keys of the initial weights, and of dropout.
    """

    activation = staticmethod(relu)

    def __init__(
        self,
        stages: tuple[tuple[Plain | Universal, ...], ...] = STAGES,
        last: int = LAST,
        embedding: int = EMBEDDING,
        *,
        num_classes: int,
        drop: float = 0.0,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        self.conv_stem = Conv(channels, STEM, 3, 2, rngs=rngs)
        self.bn1 = BatchNorm(STEM)
        inputs, blocks = STEM, []
        for stage in (*stages, (Plain(1, 1, last),)):
            row = []
            for shape in stage:
                block = PlainBlock if isinstance(shape, Plain) else UniversalBlock
                row.append(block(inputs, shape, rngs=rngs))  # type: ignore[arg-type]  # each kind takes its own shape
                inputs = shape.outputs
            blocks.append(nnx.List(row))
        self.blocks: nnx.List[Any] = nnx.List(blocks)
        self.conv_head = Conv(last, embedding, 1, rngs=rngs)
        self.norm_head = BatchNorm(embedding)
        self.classifier = Linear(embedding, num_classes, kernel_init=normal(0.01), bias_init=zeros, rngs=rngs)
        self.drop = dropout(drop, rngs=rngs)
        self.ends = ends_of_sizes([stage[0].stride for stage in stages])

    def run_stage(self, stage: Iterable[Any], images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        before = Preactivation.of(images)
        for block in stage:
            before = block(images, train)
            images = before.relu() if isinstance(block, PlainBlock) else before.value
        return images, before.value

    def embed(self, pooled: jax.Array, train: bool) -> jax.Array:
        return conv_norm(self.conv_head, self.norm_head, pooled[:, None, None], train).relu()[:, 0, 0]

    def parts(self) -> Parts:
        *stages, (last,) = self.blocks
        return Parts((self.conv_stem, self.bn1), stages, (last.conv, last.bn1), self.classifier)


@family(r"mobilenetv4_conv_small", ("mobilenetv4_conv_small",), size=224)
def mobilenet_v4_conv_small(*, num_classes: int, drop: float = 0.0, channels: int = 3, rngs: nnx.Rngs) -> MobileNetV4:
    """Build timm's `mobilenetv4_conv_small`."""
    return MobileNetV4(num_classes=num_classes, drop=drop, channels=channels, rngs=rngs)
