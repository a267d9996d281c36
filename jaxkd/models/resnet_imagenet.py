"""ResNets as for ImageNet (He et al. 2016): a stem of 64 channels, then stages of 64, 128, 256, … planes.

ResNet, wide ResNet and ResNeXt for ImageNet, and those for CIFAR that are built of the same stages, `StagedResNet`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from flax import nnx

from jaxkd.models.registry import Classifier, family
from jaxkd.nn.layers import BatchNorm, Conv, Linear, Preactivation, check_image_size, conv_norm
from jaxkd.nn.stack import last_block, pooled_outputs, preactivations, stack_blocks
from jaxkd.types import Outputs


class ResidualBlock(nnx.Module):
    """A branch of convolutions, which a subclass defines, plus a shortcut.

    The shortcut has parameters, a 1×1 convolution and its BatchNorm, only where the shape changes. Published networks
    differ in its name alone.

    Attributes:
      outputs: channels of the sum.
    """

    outputs: int

    def _add_shortcut(self, name: str, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        """Add the shortcut; a subclass does so last, to list its parameters in PyTorch's order."""
        changes = stride != 1 or inputs != outputs
        projection = [Conv(inputs, outputs, 1, stride, rngs=rngs), BatchNorm(outputs)] if changes else None
        setattr(self, name, nnx.List(projection) if projection else None)
        self.shortcut_name = name
        self.outputs = outputs

    def __call__(self, before: Preactivation, train: bool) -> Preactivation:
        out = images = before.relu()
        *inner, (last, closing) = self.branch()
        for convolution, norm in inner:
            out = conv_norm(convolution, norm, out, train).relu()
        return conv_norm(last, closing, out, train, residual=self._shortcut(images, train))

    def _shortcut(self, images: jax.Array, train: bool) -> jax.Array:
        projection: Any = getattr(self, self.shortcut_name)
        if projection is None:
            return images
        convolution, norm = projection
        return conv_norm(convolution, norm, images, train).value

    def branch(self) -> list[tuple[Conv, BatchNorm]]:
        """Return the layers of the branch, each a convolution and its BatchNorm, in order."""
        raise TypeError(f"{type(self).__name__} defines no branch()")

    def closing_norm(self) -> BatchNorm:
        """Return the BatchNorm at the end of the branch."""
        return self.branch()[-1][1]


class BasicBlock(ResidualBlock):
    """Two 3×3 convolutions of `planes` channels (He et al. 2016)."""

    def __init__(self, inputs: int, planes: int, stride: int, *, shortcut: str = "downsample", rngs: nnx.Rngs):
        self.conv1 = Conv(inputs, planes, 3, stride, rngs=rngs)
        self.bn1 = BatchNorm(planes)
        self.conv2 = Conv(planes, planes, 3, rngs=rngs)
        self.bn2 = BatchNorm(planes)
        self._add_shortcut(shortcut, inputs, planes, stride, rngs)

    def branch(self) -> list[tuple[Conv, BatchNorm]]:
        return [(self.conv1, self.bn1), (self.conv2, self.bn2)]


class Bottleneck(ResidualBlock):
    """1×1, 3×3 and 1×1 convolution, the last to 4 · `planes` channels (He et al. 2016); the stride is in the middle.

    Args:
      inputs: channels of the images.
      planes: a quarter of the channels of the sum.
      stride: stride of the 3×3 convolution.
      groups: groups of the 3×3 convolution (Xie et al. 2017).
      base_width: channels of each group where `planes` is 64; they grow with `planes`.
      shortcut: the attribute's name.
      rngs: keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int,
        *,
        groups: int = 1,
        base_width: int = 64,
        shortcut: str = "downsample",
        rngs: nnx.Rngs,
    ):
        width = planes * base_width // 64 * groups
        self.conv1 = Conv(inputs, width, 1, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, stride, groups=groups, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv3 = Conv(width, 4 * planes, 1, rngs=rngs)
        self.bn3 = BatchNorm(4 * planes)
        self._add_shortcut(shortcut, inputs, 4 * planes, stride, rngs)

    def branch(self) -> list[tuple[Conv, BatchNorm]]:
        return [(self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)]


Block = Callable[..., ResidualBlock]

DEPTHS: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
"""By depth, the kind of block and the number of blocks in each stage."""


class StagedResNet(Classifier):
    """A ResNet whose stages have 64, 128, 256, … planes; all but the first halve the maps.

    Features: f0 the stem, one per stage (after its last ReLU), then the pooled embedding. In a network for large images
    f0 is the stem after its max pooling.

    Args:
      block: creates the blocks; called as `block(inputs, planes, stride, rngs=…)`.
      blocks: the number of blocks in each stage.
      small_images: the stem is a 3×3 convolution; otherwise one of 7×7 and a max pooling, each with stride 2.
      classifier: the name of the linear layer.
      num_classes: K.
      channels: channels of the images.
      rngs: keys of the initial weights.
    """

    conv1: Any

    def __init__(
        self,
        block: Block,
        blocks: Sequence[int],
        *,
        small_images: bool = False,
        classifier: str = "fc",
        num_classes: int,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        self.small_images = small_images
        self._add_stem(channels, rngs)
        outputs = 64
        for position, count in enumerate(blocks):
            planes, stride = 64 * 2**position, 1 if position == 0 else 2
            first = block(outputs, planes, stride, rngs=rngs)
            outputs = first.outputs
            rest = [block(outputs, planes, 1, rngs=rngs) for _ in range(count - 1)]
            setattr(self, f"layer{position + 1}", stack_blocks(first, rest))
        setattr(self, classifier, Linear(outputs, num_classes, rngs=rngs))
        self.stages = len(blocks)
        self.classifier_name = classifier

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        check_image_size(images, self.stages - 1 if self.small_images else self.stages + 1)
        before = preactivations(self._stem(images, train), self._stages(), train)
        return pooled_outputs(before, getattr(self, self.classifier_name))

    def preactivation_norms(self) -> tuple[BatchNorm, ...]:
        """Return the last BatchNorm before each of the preactivations."""
        return (self.bn1, *(last_block(stage).closing_norm() for stage in self._stages()))

    def _add_stem(self, channels: int, rngs: nnx.Rngs) -> None:
        window, stride = (3, 1) if self.small_images else (7, 2)
        self.conv1 = Conv(channels, 64, window, stride, rngs=rngs)
        self.bn1 = BatchNorm(64)

    def _stem_before_pooling(self, images: jax.Array, train: bool) -> Preactivation:
        return conv_norm(self.conv1, self.bn1, images, train)

    def _stem(self, images: jax.Array, train: bool) -> Preactivation:
        stem = self._stem_before_pooling(images, train)
        return stem if self.small_images else stem.max_pool(3, padding=1)  # as large as the feature

    def _stages(self) -> list[nnx.List[Any]]:
        return [getattr(self, f"layer{number}") for number in range(1, self.stages + 1)]


def bottlenecks(groups: int, base_width: int) -> Block:
    """Return a block type: bottlenecks wider than a ResNet's, or grouped as a ResNeXt's.

    Raises:
      ValueError: where either number is below 1.
    """
    for name, count in (("groups", groups), ("width", base_width)):
        if count < 1:
            raise ValueError(f"{name} {count}: must be at least 1")
    return partial(Bottleneck, groups=groups, base_width=base_width)


@family(r"ResNet(?P<depth>18|34)", ("ResNet18", "ResNet34"), size=224, small="ResNet{depth}_cifar")
@family(r"ResNet(?P<depth>18)Double", ("ResNet18Double",), size=224, small="ResNet{depth}_cifar")
@family(r"resnet(?P<depth>34)x4", ("resnet34x4",), size=224, small="ResNet{depth}_cifar")
@family(
    r"resnet(?P<depth>18|34|50|101|152)",
    ("resnet18", "resnet34", "resnet50", "resnet101"),
    size=224,
    small={"resnet18": "ResNet18_cifar", "resnet34": "ResNet34_cifar", "resnet50": "ResNet50"},
)
def imagenet_resnet(depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> StagedResNet:
    """Build torchvision's `resnet18` and its like, also under their names in CTKD.

    Despite their names, CTKD's `ResNet18Double` is as wide as a ResNet-18 and its `resnet34x4` as a ResNet-34.
    """
    return StagedResNet(*DEPTHS[depth], num_classes=num_classes, channels=channels, rngs=rngs)


@family(r"wrn_(?P<depth>50)_(?P<width>2)", ("wrn_50_2",), size=224, small="wrn_40_2")
@family(r"wide_resnet(?P<depth>50|101)_(?P<width>2)", ("wide_resnet50_2",), size=224, small="wrn_40_2")
def imagenet_wide_resnet(
    depth: int, width: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs
) -> StagedResNet:
    """Build torchvision's `wide_resnet50_2`, CTKD's `wrn_50_2`: bottlenecks that are twice as wide inside."""
    blocks = DEPTHS[depth][1]
    return StagedResNet(bottlenecks(1, 64 * width), blocks, num_classes=num_classes, channels=channels, rngs=rngs)


@family(
    r"resnext(?P<depth>50|101)_(?P<groups>\d+)x(?P<width>\d+)d", ("resnext50_32x4d",), size=224, small="ResNeXt29-4-4d"
)
def imagenet_resnext(
    depth: int, groups: int, width: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs
) -> StagedResNet:
    """Build torchvision's ResNeXts: `resnext50_32x4d` has 32 groups of 4 channels in its first stage."""
    blocks = DEPTHS[depth][1]
    return StagedResNet(bottlenecks(groups, width), blocks, num_classes=num_classes, channels=channels, rngs=rngs)


@family(r"ResNeXt(?P<depth>\d+)-(?P<groups>\d+)-(?P<width>\d+)d", ("ResNeXt29-4-4d",))
def cifar_resnext(
    depth: int, groups: int, width: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs
) -> StagedResNet:
    """Build the ResNeXts of ATS: `ResNeXt29-4-4d` has three stages with 4 groups of 4 channels in the first."""
    if depth % 9 != 2 or depth < 11:
        raise ValueError(f"depth {depth}: a ResNeXt of three stages has depth 9n + 2 (11, 20, 29, 38, …)")
    return StagedResNet(
        bottlenecks(groups, width),
        [(depth - 2) // 9] * 3,
        small_images=True,
        num_classes=num_classes,
        channels=channels,
        rngs=rngs,
    )


@family(r"ResNet(?P<depth>50)", ("ResNet50",))
@family(r"ResNet(?P<depth>18|34)_cifar", ("ResNet18_cifar", "ResNet34_cifar"))
def cifar_stem_resnet(depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> StagedResNet:
    """Build RepDistiller's `ResNet50` for CIFAR, and its ResNet-18 and 34 under names that ImageNet's do not have."""
    block, blocks = DEPTHS[depth]
    return StagedResNet(
        partial(block, shortcut="shortcut"),
        blocks,
        small_images=True,
        classifier="linear",
        num_classes=num_classes,
        channels=channels,
        rngs=rngs,
    )
