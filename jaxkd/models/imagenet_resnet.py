"""ImageNet's ResNets (He et al. 2016), plain and wide (Zagoruyko & Komodakis 2016), laid out as torchvision's files."""

from __future__ import annotations

from flax import nnx

from jaxkd.models.registry import family
from jaxkd.models.staged_resnet import DEPTHS, StagedResNet, bottlenecks


@family(r"ResNet(?P<depth>18|34)", ("ResNet18", "ResNet34"), size=224)
@family(r"ResNet(?P<depth>18)Double", ("ResNet18Double",), size=224)
@family(r"resnet(?P<depth>34)x4", ("resnet34x4",), size=224)
@family(r"resnet(?P<depth>18|34|50|101|152)", ("resnet18", "resnet34", "resnet50", "resnet101"), size=224)
def imagenet_resnet(depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
    """torchvision's `resnet18`, and the names CTKD gives it.

    Whatever they promise, CTKD's `ResNet18Double` is as wide as a ResNet-18 and its `resnet34x4` as a ResNet-34.
    """
    return StagedResNet(*DEPTHS[depth], num_classes=num_classes, channels=channels, rngs=rngs)


@family(r"wrn_(?P<depth>50)_(?P<width>2)", ("wrn_50_2",), size=224)
@family(r"wide_resnet(?P<depth>50|101)_(?P<width>2)", ("wide_resnet50_2",), size=224)
def imagenet_wide_resnet(depth: int, width: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
    """torchvision's `wide_resnet50_2`, and CTKD's name for it: bottlenecks twice as wide inside, with the same sums."""
    blocks = DEPTHS[depth][1]
    return StagedResNet(bottlenecks(1, 64 * width), blocks, num_classes=num_classes, channels=channels, rngs=rngs)
