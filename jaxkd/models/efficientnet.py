"""EfficientNet-B0 to B3 (Tan & Le 2019), under the keys of timm and of torchvision.

The libraries share the names `efficientnet_b0`, …, and the networks, but not the keys: torchvision's have the plain
names here, timm's are `timm_efficientnet_b0`, ….
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.nn.initializers import zeros

from jaxkd.models.inverted_residual import (
    InvertedResidual,
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
from jaxkd.nn.attention import drop_paths, dropout
from jaxkd.nn.initializers import variance_scaling
from jaxkd.nn.layers import BatchNorm, Conv, Linear, silu
from jaxkd.nn.stack import stack_blocks

STYLE = Style(BatchNorm, squeezed=silu, gate=jax.nn.sigmoid)
STEM, EMBEDDING = 32, 1280


class Stage(NamedTuple):
    """A run of blocks of one width in EfficientNet-B0.

    Attributes:
      expansion: how many times wider than its input a block is inside.
      window: height and width of the depthwise convolutions.
      stride: of the first block.
      width: the channels of its output.
      blocks: the number of blocks.
    """

    expansion: int
    window: int
    stride: int
    width: int
    blocks: int


STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2), 3: (1.2, 1.4)}
"""By how much the widths and the numbers of blocks of B0 to B3 are multiplied."""


def scaled(stages: tuple[Stage, ...], width: float, depth: float) -> tuple[Stage, ...]:
    """Return stages with these multiples of their widths, rounded to eights, and of their blocks, rounded up."""
    return tuple(
        stage._replace(width=to_eighths(width * stage.width), blocks=math.ceil(depth * stage.blocks))
        for stage in stages
    )


class EfficientNet(InvertedResidualNetwork):
    """EfficientNet for images of any size; B0 was published for 224×224, B1 to B3 for 240×240 to 300×300.

    Features: f0 the stem (after its activation), f1 to f4 the last maps of each smaller size, f5 the pooled embedding.
    A block ends without an activation, so there the preactivation is the feature itself, as the next block receives it.
    """

    activation = staticmethod(silu)


class TimmEfficientNet(EfficientNet):
    """EfficientNet under timm's keys: `conv_stem`, `bn1`, `blocks.0.0.conv_dw`, …, `conv_head`, `bn2`, `classifier`.

    Args:
      stages: its stages.
      stem: channels of the stem.
      embedding: channels of the embedding.
      num_classes: K.
      drop: dropout of the embedding before the classifier.
      drop_path: the probability with which the last block's branch is left out; it grows from 0 over the blocks.
      channels: channels of the images.
      rngs: keys of the initial weights, and of dropout.
    """

    def __init__(
        self,
        stages: tuple[Stage, ...] = STAGES,
        stem: int = STEM,
        embedding: int = EMBEDDING,
        *,
        num_classes: int,
        drop: float = 0.0,
        drop_path: float = 0.0,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        self.conv_stem = Conv(channels, stem, 3, 2, rngs=rngs)
        self.bn1 = BatchNorm(stem)
        self.blocks = nnx.List(_stages(TimmBlock, stem, stages, drop_path, rngs))
        self.conv_head = Conv(stages[-1].width, embedding, 1, rngs=rngs)
        self.bn2 = BatchNorm(embedding)
        self.classifier = _classifier(embedding, num_classes, rngs)
        self.drop = dropout(drop, rngs=rngs)
        self.ends = ends_of_sizes([stage.stride for stage in stages])

    def parts(self) -> Parts:
        blocks: Any = self.blocks
        return Parts((self.conv_stem, self.bn1), blocks, (self.conv_head, self.bn2), self.classifier)


class TorchvisionEfficientNet(EfficientNet):
    """EfficientNet under torchvision's keys: `features.0.0`, `features.1.0.block.0.0`, …, `classifier.1`.

    Args: as those of `TimmEfficientNet`.
    """

    def __init__(
        self,
        stages: tuple[Stage, ...] = STAGES,
        stem: int = STEM,
        embedding: int = EMBEDDING,
        *,
        num_classes: int,
        drop: float = 0.0,
        drop_path: float = 0.0,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        first = nnx.List([Conv(channels, stem, 3, 2, rngs=rngs), BatchNorm(stem)])
        blocks = _stages(TorchvisionBlock, stem, stages, drop_path, rngs)
        last = nnx.List([Conv(stages[-1].width, embedding, 1, rngs=rngs), BatchNorm(embedding)])
        self.features = nnx.List([first, *blocks, last])
        self.classifier = nnx.Dict({"1": _classifier(embedding, num_classes, rngs)})  # position 0 is the dropout's
        self.drop = dropout(drop, rngs=rngs)
        self.ends = ends_of_sizes([stage.stride for stage in stages])

    def parts(self) -> Parts:
        features: Any = self.features
        stem, *blocks, last = features
        return Parts(tuple(stem), blocks, tuple(last), self.classifier["1"])


def _stages(
    block: Callable[..., InvertedResidual], inputs: int, stages: tuple[Stage, ...], drop_path: float, rngs: nnx.Rngs
) -> list[nnx.List[Any]]:
    """Create the blocks of each stage; the squeeze inside a block has a quarter of the channels that it receives."""
    drops = iter(drop_paths(drop_path, sum(stage.blocks for stage in stages), rngs=rngs))
    found = []
    for expansion, window, stride, width, count in stages:
        blocks = []
        for position in range(count):
            squeeze = max(1, inputs // 4)
            shape = Shape(inputs, expansion * inputs, width, window, 1 if position else stride, squeeze, silu)
            blocks.append(block(shape, STYLE, next(drops), rngs=rngs))
            inputs = width
        found.append(stack_blocks(blocks[0], blocks[1:]))
    return found


_by_outputs = variance_scaling(1 / 3, "fan_out", "uniform")
"""Uniform within ±1/sqrt(outputs)."""


def _classifier(inputs: int, num_classes: int, rngs: nnx.Rngs) -> Linear:
    return Linear(inputs, num_classes, kernel_init=_by_outputs, bias_init=zeros, rngs=rngs)


NAMES = tuple(f"efficientnet_b{variant}" for variant in SCALES)


@family(
    r"(?P<library>(?:timm_)?)efficientnet_b(?P<variant>[0-3])",
    (*NAMES, *(f"timm_{name}" for name in NAMES)),
    size=224,
)
def efficientnet(
    library: str,
    variant: int,
    *,
    num_classes: int,
    drop: float = 0.0,
    drop_path: float = 0.0,
    channels: int = 3,
    rngs: nnx.Rngs,
) -> EfficientNet:
    """Build EfficientNet under torchvision's keys, or timm's."""
    build = TimmEfficientNet if library else TorchvisionEfficientNet
    width, depth = SCALES[variant]
    return build(
        scaled(STAGES, width, depth),
        to_eighths(width * STEM),
        to_eighths(width * EMBEDDING),
        num_classes=num_classes,
        drop=drop,
        drop_path=drop_path,
        channels=channels,
        rngs=rngs,
    )
