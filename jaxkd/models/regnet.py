"""RegNetX and RegNetY (Radosavovic et al. 2020), under the names and keys of timm and torchvision.

Both libraries compute the widths of the stages from a few numbers, and then make them multiples of the group width.
They round differently, so that a network of equal numbers may be wider in torchvision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.nn.initializers import zeros

from jaxkd.models.registry import Classifier, family
from jaxkd.nn.initializers import normal
from jaxkd.nn.layers import BatchNorm, Conv, Linear, Preactivation, SqueezeExcite, conv_norm
from jaxkd.nn.stack import last_block, named_blocks, pooled_outputs, preactivations
from jaxkd.types import Outputs

STEM = 32
SQUEEZE = 0.25
"""Channels inside a RegNetY's squeeze-and-excitation, as a part of those that its block receives."""


class Plan(NamedTuple):
    """The numbers that a RegNet is made from: block i is `initial · multiplier^k` wide, the nearest to a straight line.

    Attributes:
      depth: the number of blocks.
      initial: width of the first block.
      slope: growth of the line per block.
      multiplier: by what widths grow from stage to stage.
      group: channels of each group in the 3×3 convolutions.
    """

    depth: int
    initial: int
    slope: float
    multiplier: float
    group: int


PLANS = {
    "x": {
        200: Plan(13, 24, 36.44, 2.49, 8),
        400: Plan(22, 24, 24.48, 2.54, 16),
        600: Plan(16, 48, 36.97, 2.24, 24),
        800: Plan(16, 56, 35.73, 2.28, 16),
        1600: Plan(18, 80, 34.01, 2.25, 24),
        3200: Plan(25, 88, 26.31, 2.25, 48),
        4000: Plan(23, 96, 38.65, 2.43, 40),
        6400: Plan(17, 184, 60.83, 2.07, 56),
        8000: Plan(23, 80, 49.56, 2.88, 120),
        12000: Plan(19, 168, 73.36, 2.37, 112),
        16000: Plan(22, 216, 55.59, 2.1, 128),
        32000: Plan(23, 320, 69.86, 2.0, 168),
    },
    "y": {
        200: Plan(13, 24, 36.44, 2.49, 8),
        400: Plan(16, 48, 27.89, 2.09, 8),
        600: Plan(15, 48, 32.54, 2.32, 16),
        800: Plan(14, 56, 38.84, 2.4, 16),
        1600: Plan(27, 48, 20.71, 2.65, 24),
        3200: Plan(21, 80, 42.63, 2.66, 24),
        4000: Plan(22, 96, 31.41, 2.24, 64),
        6400: Plan(25, 112, 33.22, 2.27, 72),
        8000: Plan(17, 192, 76.82, 2.19, 56),
        12000: Plan(19, 168, 73.36, 2.37, 112),
        16000: Plan(18, 200, 106.23, 2.48, 112),
        32000: Plan(20, 232, 115.89, 2.53, 232),
    },
}
"""By kind and by millions of multiply-accumulates at 224×224."""


def plan_of(kind: str, megaflops: int) -> Plan:
    """Return the numbers of a published RegNet.

    Raises:
      ValueError: there is none of that size.
    """
    if megaflops not in PLANS[kind]:
        sizes = ", ".join(map(str, PLANS[kind]))
        raise ValueError(
            f"there is no RegNet{kind.upper()} of {megaflops} million multiply-accumulates, but of {sizes}"
        )
    return PLANS[kind][megaflops]


Rounding = Callable[[float, int], int]


def to_nearest(width: float, group: int) -> int:
    """Return the nearest multiple of the group width, as timm does."""
    return round(width / group) * group


def to_nearest_or_up(width: float, group: int) -> int:
    """Return the nearest multiple of the group width, but none below nine tenths of the width, as torchvision does."""
    nearest = max(group, int(width + group / 2) // group * group)
    return nearest + group if nearest < 0.9 * width else nearest


def stages(plan: Plan, rounding: Rounding) -> list[tuple[int, int, int]]:
    """Return width, group width and number of blocks of each stage.

    Example:
      >>> stages(PLANS["x"][400], to_nearest)
      [(32, 16, 1), (64, 16, 2), (160, 16, 7), (384, 16, 12)]
      >>> stages(PLANS["x"][400], to_nearest_or_up)[-1]
      (400, 16, 12)
    """
    line = plan.initial + plan.slope * np.arange(plan.depth)
    powers = np.round(np.log(line / plan.initial) / np.log(plan.multiplier))
    widths = np.round(plan.initial * plan.multiplier**powers / 8).astype(int) * 8
    found = []
    for width, blocks in sorted(Counter(widths.tolist()).items()):
        group = min(plan.group, width)
        found.append((rounding(width, group), group, blocks))
    return found


Layer = tuple[Conv, BatchNorm]


class RegNetBlock(nnx.Module):
    """1×1, grouped 3×3 and 1×1 convolution of one width, in RegNetY with squeeze-and-excitation before the last.

    A subclass names the layers, in the order of its library's keys.
    """

    def __call__(self, before: Preactivation, train: bool) -> Preactivation:
        images = before.relu()
        (first, grouped, last), squeeze, projection = self.parts()
        out = conv_norm(*first, images, train).relu()
        out = conv_norm(*grouped, out, train).relu()
        out = out if squeeze is None else squeeze(out)
        shortcut = images if projection is None else conv_norm(*projection, images, train).value
        return conv_norm(*last, out, train, residual=shortcut)

    def closing_norm(self) -> BatchNorm:
        """Return the BatchNorm at the end of the branch."""
        return self.parts()[0][-1][1]

    def parts(self) -> tuple[tuple[Layer, Layer, Layer], SqueezeExcite | None, Layer | None]:
        """Return the three convolutions with their BatchNorms, the squeeze-and-excitation and the shortcut."""
        raise TypeError(f"{type(self).__name__} defines no parts()")


class BlockShape(NamedTuple):
    """The sizes of a block: channels in and out, stride, group width, channels inside the squeeze (0: none)."""

    inputs: int
    outputs: int
    stride: int
    group: int
    squeeze: int

    def layers(self, rngs: nnx.Rngs) -> list[Layer]:
        """Create the three convolutions of the branch, each with its BatchNorm."""
        inputs, outputs, stride, group, _ = self
        return [
            (Conv(inputs, outputs, 1, rngs=rngs), BatchNorm(outputs)),
            (Conv(outputs, outputs, 3, stride, groups=outputs // group, rngs=rngs), BatchNorm(outputs)),
            (Conv(outputs, outputs, 1, rngs=rngs), BatchNorm(outputs)),
        ]

    def squeeze_excite(self, rngs: nnx.Rngs) -> SqueezeExcite | None:
        """Create the squeeze-and-excitation, or None."""
        return SqueezeExcite(self.outputs, self.squeeze, rngs=rngs) if self.squeeze else None

    def shortcut(self, rngs: nnx.Rngs) -> Layer | None:
        """Create the shortcut's convolution and its BatchNorm where the shape changes, or None."""
        if self.inputs == self.outputs and self.stride == 1:
            return None
        return Conv(self.inputs, self.outputs, 1, self.stride, rngs=rngs), BatchNorm(self.outputs)


class TimmBlock(RegNetBlock):
    """A block under timm's keys: `conv1.conv`, `conv1.bn`, …, `se`, `downsample.conv`."""

    def __init__(self, shape: BlockShape, *, rngs: nnx.Rngs):
        first, grouped, last = (_named(layer) for layer in shape.layers(rngs))
        shortcut = shape.shortcut(rngs)
        self.conv1, self.conv2 = first, grouped
        self.se = shape.squeeze_excite(rngs)
        self.conv3 = last
        self.downsample = None if shortcut is None else _named(shortcut)

    def parts(self) -> tuple[tuple[Layer, Layer, Layer], SqueezeExcite | None, Layer | None]:
        branch = (_layer(self.conv1), _layer(self.conv2), _layer(self.conv3))
        return branch, self.se, None if self.downsample is None else _layer(self.downsample)


class TorchvisionBlock(RegNetBlock):
    """A block under torchvision's keys: `proj.0`, then `f.a.0`, `f.b.0`, `f.se`, `f.c.0`."""

    def __init__(self, shape: BlockShape, *, rngs: nnx.Rngs):
        first, grouped, last = (nnx.List(layer) for layer in shape.layers(rngs))
        shortcut, squeeze = shape.shortcut(rngs), shape.squeeze_excite(rngs)
        self.proj: Any = None if shortcut is None else nnx.List(shortcut)
        self.f: Any = nnx.Dict({"a": first, "b": grouped, **({"se": squeeze} if squeeze else {}), "c": last})

    def parts(self) -> tuple[tuple[Layer, Layer, Layer], SqueezeExcite | None, Layer | None]:
        branch = tuple(self.f["a"]), tuple(self.f["b"]), tuple(self.f["c"])
        return branch, self.f.get("se"), None if self.proj is None else tuple(self.proj)


def _named(layer: Layer) -> nnx.Dict[Any]:
    return nnx.Dict({"conv": layer[0], "bn": layer[1]})


def _layer(named: nnx.Dict[Any]) -> Layer:
    return named["conv"], named["bn"]


class RegNet(Classifier):
    """A RegNet for images of any size; published for 224×224.

    Features: f0 the stem (after its ReLU), f1 to f4 the stages (after their last ReLU), f5 the pooled embedding.
    """

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        stem, blocks, classifier = self.parts()
        before = preactivations(conv_norm(*stem, images, train), [stage.values() for stage in blocks], train)
        return pooled_outputs(before, classifier)

    def preactivation_norms(self) -> tuple[BatchNorm, ...]:
        """Return the last BatchNorm before each of the preactivations."""
        (_, norm), blocks, _ = self.parts()
        return (norm, *(last_block(stage.values()).closing_norm() for stage in blocks))

    def parts(self) -> tuple[Layer, list[nnx.Dict[Any]], Linear]:
        """Return the stem, the stages and the classifier."""
        raise TypeError(f"{type(self).__name__} defines no parts()")


class TimmRegNet(RegNet):
    """A RegNet under timm's keys: `stem.conv`, `s1.b1`, …, `head.fc`.

    Args:
      plan: what its stages are made from.
      squeeze: RegNetY's squeeze-and-excitation, as a part of a block's input; 0 for RegNetX.
      num_classes: K.
      channels: channels of the images.
      rngs: keys of the initial weights.
    """

    def __init__(self, plan: Plan, squeeze: float, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
        self.stem = _named((Conv(channels, STEM, 3, 2, rngs=rngs), BatchNorm(STEM)))
        rows = _shapes(plan, squeeze, to_nearest)
        for number, row in enumerate(rows, start=1):
            blocks = {f"b{i}": TimmBlock(shape, rngs=rngs) for i, shape in enumerate(row, start=1)}
            setattr(self, f"s{number}", named_blocks(blocks))
        self.head = nnx.Dict({"fc": _classifier(rows[-1][-1].outputs, num_classes, rngs)})
        self.stages = len(rows)

    def parts(self) -> tuple[Layer, list[nnx.Dict[Any]], Linear]:
        blocks = [getattr(self, f"s{number}") for number in range(1, self.stages + 1)]
        return _layer(self.stem), blocks, self.head["fc"]


class TorchvisionRegNet(RegNet):
    """A RegNet under torchvision's keys: `stem.0`, `trunk_output.block1.block1-0`, …, `fc`.

    Args: as those of `TimmRegNet`.
    """

    def __init__(self, plan: Plan, squeeze: float, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
        self.stem: nnx.List[Any] = nnx.List([Conv(channels, STEM, 3, 2, rngs=rngs), BatchNorm(STEM)])
        rows = _shapes(plan, squeeze, to_nearest_or_up)
        self.trunk_output = nnx.Dict(
            {
                f"block{number}": named_blocks(
                    {f"block{number}-{i}": TorchvisionBlock(shape, rngs=rngs) for i, shape in enumerate(row)}
                )
                for number, row in enumerate(rows, start=1)
            }
        )
        self.fc = _classifier(rows[-1][-1].outputs, num_classes, rngs)

    def parts(self) -> tuple[Layer, list[nnx.Dict[Any]], Linear]:
        trunk: Any = self.trunk_output
        return tuple(self.stem), [trunk[name] for name in sorted(trunk)], self.fc


def _shapes(plan: Plan, squeeze: float, rounding: Rounding) -> list[list[BlockShape]]:
    """Return the blocks of each stage; the first of each halves the map."""
    inputs, rows = STEM, []
    for width, group, blocks in stages(plan, rounding):
        row = []
        for position in range(blocks):
            row.append(BlockShape(inputs, width, 1 if position else 2, group, round(squeeze * inputs)))
            inputs = width
        rows.append(row)
    return rows


def _classifier(inputs: int, num_classes: int, rngs: nnx.Rngs) -> Linear:
    return Linear(inputs, num_classes, kernel_init=normal(0.01), bias_init=zeros, rngs=rngs)


@family(r"regnetx_(?P<size>\d{3})", ("regnetx_002", "regnetx_004", "regnetx_008"), size=224)
def timm_regnet_x(size: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> TimmRegNet:
    """Build timm's RegNetX: `regnetx_004` takes about 400 million multiply-accumulates."""
    return TimmRegNet(plan_of("x", 100 * size), 0, num_classes=num_classes, channels=channels, rngs=rngs)


@family(r"regnety_(?P<size>\d{3})", ("regnety_002", "regnety_004", "regnety_008"), size=224)
def timm_regnet_y(size: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> TimmRegNet:
    """Build timm's RegNetY: `regnety_004` takes about 400 million multiply-accumulates."""
    return TimmRegNet(plan_of("y", 100 * size), SQUEEZE, num_classes=num_classes, channels=channels, rngs=rngs)


@family(r"regnet_x_(?P<mega>\d+)mf", ("regnet_x_400mf", "regnet_x_800mf"), size=224)
@family(r"regnet_x_(?P<giga>\d+)(?:_(?P<tenths>\d))?gf", ("regnet_x_1_6gf", "regnet_x_3_2gf"), size=224)
def torchvision_regnet_x(
    mega: int = 0, giga: int = 0, tenths: int = 0, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs
) -> TorchvisionRegNet:
    """Build torchvision's RegNetX: `regnet_x_1_6gf` takes about 1.6 billion multiply-accumulates."""
    plan = plan_of("x", mega + 1000 * giga + 100 * tenths)
    return TorchvisionRegNet(plan, 0, num_classes=num_classes, channels=channels, rngs=rngs)


@family(r"regnet_y_(?P<mega>\d+)mf", ("regnet_y_400mf", "regnet_y_800mf"), size=224)
@family(r"regnet_y_(?P<giga>\d+)(?:_(?P<tenths>\d))?gf", ("regnet_y_1_6gf", "regnet_y_3_2gf"), size=224)
def torchvision_regnet_y(
    mega: int = 0, giga: int = 0, tenths: int = 0, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs
) -> TorchvisionRegNet:
    """Build torchvision's RegNetY: `regnet_y_1_6gf` takes about 1.6 billion multiply-accumulates."""
    plan = plan_of("y", mega + 1000 * giga + 100 * tenths)
    return TorchvisionRegNet(plan, SQUEEZE, num_classes=num_classes, channels=channels, rngs=rngs)
