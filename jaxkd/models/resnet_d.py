"""ResNet-C and ResNet-D (He et al. 2019, "Bag of Tricks"), under timm's names and keys."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from jaxkd.models.registry import family
from jaxkd.models.resnet_imagenet import BasicBlock, Block, Bottleneck, ResidualBlock, StagedResNet
from jaxkd.nn.layers import BatchNorm, Conv, Preactivation, average_pool, conv_norm


class AveragedShortcut(ResidualBlock):
    """A block whose shortcut averages 2×2 pixels where it halves the map; its 1×1 convolution then sees all of them."""

    def _add_shortcut(self, name: str, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        layers = {"1": Conv(inputs, outputs, 1, rngs=rngs), "2": BatchNorm(outputs)}  # position 0 is the pooling's
        setattr(self, name, nnx.Dict(layers) if stride != 1 or inputs != outputs else None)
        self.shortcut_name = name
        self.shortcut_stride = stride
        self.outputs = outputs

    def _shortcut(self, images: jax.Array, train: bool) -> jax.Array:
        projection: Any = getattr(self, self.shortcut_name)
        if projection is None:
            return images
        smaller = images if self.shortcut_stride == 1 else average_pool(images, partial=True)
        return conv_norm(projection["1"], projection["2"], smaller, train).value


class BasicBlockD(AveragedShortcut, BasicBlock):
    """Two 3×3 convolutions, with a shortcut that averages."""


class BottleneckD(AveragedShortcut, Bottleneck):
    """1×1, 3×3 and 1×1 convolution, with a shortcut that averages."""


class DeepStemResNet(StagedResNet):
    """A ResNet whose stem is three 3×3 convolutions of 32, 32 and 64 channels, the first with stride 2.

    Features: f0 the stem after its max pooling, one per stage (after its last ReLU), then the pooled embedding.
    """

    def _add_stem(self, channels: int, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Dict(
            {
                "0": Conv(channels, 32, 3, 2, rngs=rngs),
                "1": BatchNorm(32),
                "3": Conv(32, 32, 3, rngs=rngs),
                "4": BatchNorm(32),
                "6": Conv(32, 64, 3, rngs=rngs),  # positions 2 and 5 are ReLUs
            }
        )
        self.bn1 = BatchNorm(64)

    def _stem_before_pooling(self, images: jax.Array, train: bool) -> Preactivation:
        layers = self.conv1
        out = conv_norm(layers["0"], layers["1"], images, train).relu()
        out = conv_norm(layers["3"], layers["4"], out, train).relu()
        return conv_norm(layers["6"], self.bn1, out, train)


DEPTHS_D: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: (BasicBlockD, (2, 2, 2, 2)),
    26: (BottleneckD, (2, 2, 2, 2)),
    34: (BasicBlockD, (3, 4, 6, 3)),
    50: (BottleneckD, (3, 4, 6, 3)),
    101: (BottleneckD, (3, 4, 23, 3)),
    152: (BottleneckD, (3, 8, 36, 3)),
}
DEPTHS_C: dict[int, tuple[Block, tuple[int, ...]]] = {
    depth: (Bottleneck, DEPTHS_D[depth][1]) for depth in (50, 101, 152)
}
"""By depth, the kind of block and the number of blocks in each stage."""


@family(r"resnet(?P<depth>18|26|34|50|101|152)d", ("resnet18d", "resnet26d", "resnet34d", "resnet50d"), size=224)
def resnet_d(depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> DeepStemResNet:
    """Build timm's `resnet50d` and its like: the deep stem, and shortcuts that average."""
    return DeepStemResNet(*DEPTHS_D[depth], num_classes=num_classes, channels=channels, rngs=rngs)


@family(r"resnet(?P<depth>50|101|152)c", ("resnet50c",), size=224)
def resnet_c(depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> DeepStemResNet:
    """Build timm's `resnet50c` and its like: the deep stem alone."""
    return DeepStemResNet(*DEPTHS_C[depth], num_classes=num_classes, channels=channels, rngs=rngs)
