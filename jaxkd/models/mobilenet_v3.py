"""MobileNetV3 large and small (Howard et al. 2019), under the names and keys of timm and torchvision."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.nn.initializers import zeros

from jaxkd.models.inverted_residual import (
    InvertedResidualNetwork,
    Parts,
    Shape,
    Style,
    TimmBlock,
    TorchvisionBlock,
    ends_of_sizes,
    to_eighths,
)
from jaxkd.models.registry import family
from jaxkd.nn.attention import dropout
from jaxkd.nn.initializers import normal
from jaxkd.nn.layers import Activation, BatchNorm, Conv, Linear, hard_swish, relu
from jaxkd.types import at_least_float32

STEM = 16
TIMM = Style(BatchNorm, squeezed=relu, gate=jax.nn.hard_sigmoid)
TORCHVISION = Style(partial(BatchNorm, momentum=0.01, epsilon=1e-3), squeezed=relu, gate=jax.nn.hard_sigmoid)


class Block(NamedTuple):
    """A row of the paper's tables 1 and 2: the block's depthwise window, channels inside and out, and so on."""

    window: int
    inside: int
    outputs: int
    squeezes: bool
    activation: Activation
    stride: int


class Plan(NamedTuple):
    """A network: the blocks of each stage, the channels of the last convolution, and the embedding's."""

    stages: tuple[tuple[Block, ...], ...]
    last: int
    embedding: int

    def shapes(self) -> list[list[Shape]]:
        """Return the blocks of each stage with the channels that they receive."""
        inputs, found = STEM, []
        for stage in self.stages:
            row = []
            for window, inside, outputs, squeezes, activation, stride in stage:
                squeeze = to_eighths(inside / 4) if squeezes else 0
                row.append(Shape(inputs, inside, outputs, window, stride, squeeze, activation))
                inputs = outputs
            found.append(row)
        return found


LARGE = Plan(
    (
        (Block(3, 16, 16, False, relu, 1),),
        (Block(3, 64, 24, False, relu, 2), Block(3, 72, 24, False, relu, 1)),
        (Block(5, 72, 40, True, relu, 2), *[Block(5, 120, 40, True, relu, 1)] * 2),
        (
            Block(3, 240, 80, False, hard_swish, 2),
            Block(3, 200, 80, False, hard_swish, 1),
            *[Block(3, 184, 80, False, hard_swish, 1)] * 2,
        ),
        (Block(3, 480, 112, True, hard_swish, 1), Block(3, 672, 112, True, hard_swish, 1)),
        (Block(5, 672, 160, True, hard_swish, 2), *[Block(5, 960, 160, True, hard_swish, 1)] * 2),
    ),
    last=960,
    embedding=1280,
)
SMALL = Plan(
    (
        (Block(3, 16, 16, True, relu, 2),),
        (Block(3, 72, 24, False, relu, 2), Block(3, 88, 24, False, relu, 1)),
        (Block(5, 96, 40, True, hard_swish, 2), *[Block(5, 240, 40, True, hard_swish, 1)] * 2),
        (Block(5, 120, 48, True, hard_swish, 1), Block(5, 144, 48, True, hard_swish, 1)),
        (Block(5, 288, 96, True, hard_swish, 2), *[Block(5, 576, 96, True, hard_swish, 1)] * 2),
    ),
    last=576,
    embedding=1024,
)
PLANS = {"large": LARGE, "small": SMALL}


class MobileNetV3(InvertedResidualNetwork):
    """MobileNetV3 for images of any size; published for 224×224.

    Features: f0 the stem (after its activation), f1 to f4 the last maps of each smaller size, f5 the embedding: the
    pooled maps after a hidden layer and its activation. A block ends without an activation, so there the preactivation
    is the feature itself, as the next block receives it.
    """

    activation = staticmethod(hard_swish)


class TimmMobileNetV3(MobileNetV3):
    """MobileNetV3 under timm's keys: `conv_stem`, `bn1`, `blocks.0.0.conv_dw`, …, `conv_head`, `classifier`.

    Args:
      plan: its blocks.
      num_classes: K.
      drop: dropout of the embedding before the classifier.
      channels: channels of the images.
      rngs: keys of the initial weights, and of dropout.
    """

    def __init__(self, plan: Plan, *, num_classes: int, drop: float = 0.0, channels: int = 3, rngs: nnx.Rngs):
        shapes = plan.shapes()
        self.conv_stem = Conv(channels, STEM, 3, 2, rngs=rngs)
        self.bn1 = BatchNorm(STEM)
        stages: list[nnx.List[Any]] = [nnx.List([TimmBlock(shape, TIMM, rngs=rngs) for shape in row]) for row in shapes]
        last = {"conv": Conv(shapes[-1][-1].outputs, plan.last, 1, rngs=rngs), "bn1": BatchNorm(plan.last)}
        self.blocks: nnx.List[Any] = nnx.List([*stages, nnx.List([nnx.Dict(last)])])
        self.conv_head = Conv(plan.last, plan.embedding, 1, bias=True, rngs=rngs)
        self.classifier = _linear(plan.embedding, num_classes, rngs)
        self.drop = dropout(drop, rngs=rngs)
        self.ends = ends_of_sizes([row[0].stride for row in shapes])

    def embed(self, pooled: jax.Array, train: bool) -> jax.Array:
        return jax.nn.hard_swish(at_least_float32(self.conv_head(pooled[:, None, None]))[:, 0, 0])

    def parts(self) -> Parts:
        *stages, (last,) = self.blocks
        return Parts((self.conv_stem, self.bn1), stages, (last["conv"], last["bn1"]), self.classifier)


class TorchvisionMobileNetV3(MobileNetV3):
    """MobileNetV3 under torchvision's keys: `features.0.0`, `features.1.block.0.0`, …, `classifier.0`, `classifier.3`.

    Args: as those of `TimmMobileNetV3`.
    """

    def __init__(self, plan: Plan, *, num_classes: int, drop: float = 0.0, channels: int = 3, rngs: nnx.Rngs):
        shapes, norm = list(chain.from_iterable(plan.shapes())), TORCHVISION.norm
        stem = nnx.List([Conv(channels, STEM, 3, 2, rngs=rngs), norm(STEM)])
        blocks = [TorchvisionBlock(shape, TORCHVISION, rngs=rngs) for shape in shapes]
        last = nnx.List([Conv(shapes[-1].outputs, plan.last, 1, rngs=rngs), norm(plan.last)])
        self.features = nnx.List([stem, *blocks, last])
        hidden, classifier = _linear(plan.last, plan.embedding, rngs), _linear(plan.embedding, num_classes, rngs)
        self.classifier = nnx.Dict({"0": hidden, "3": classifier})  # an activation and the dropout stand in between
        self.drop = dropout(drop, rngs=rngs)
        self.ends = ends_of_sizes([shape.stride for shape in shapes])

    def embed(self, pooled: jax.Array, train: bool) -> jax.Array:
        return jax.nn.hard_swish(self.classifier["0"](pooled))

    def parts(self) -> Parts:
        features: Any = self.features
        stem, *blocks, last = features
        return Parts(tuple(stem), [[block] for block in blocks], tuple(last), self.classifier["3"])


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> Linear:
    return Linear(inputs, outputs, kernel_init=normal(0.01), bias_init=zeros, rngs=rngs)


@family(r"mobilenetv3_(?P<size>large|small)_100", ("mobilenetv3_large_100", "mobilenetv3_small_100"), size=224)
def timm_mobilenet_v3(
    size: str, *, num_classes: int, drop: float = 0.0, channels: int = 3, rngs: nnx.Rngs
) -> TimmMobileNetV3:
    """Build MobileNetV3 under timm's names and keys."""
    return TimmMobileNetV3(PLANS[size], num_classes=num_classes, drop=drop, channels=channels, rngs=rngs)


@family(r"mobilenet_v3_(?P<size>large|small)", ("mobilenet_v3_large", "mobilenet_v3_small"), size=224)
def torchvision_mobilenet_v3(
    size: str, *, num_classes: int, drop: float = 0.0, channels: int = 3, rngs: nnx.Rngs
) -> TorchvisionMobileNetV3:
    """Build MobileNetV3 under torchvision's names and keys."""
    return TorchvisionMobileNetV3(PLANS[size], num_classes=num_classes, drop=drop, channels=channels, rngs=rngs)
