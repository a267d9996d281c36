"""ResNeXts (Xie et al. 2017): ResNets of bottlenecks whose 3×3 convolution is grouped."""

from __future__ import annotations

from flax import nnx

from jaxkd.models.registry import family
from jaxkd.models.staged_resnet import DEPTHS, StagedResNet, bottlenecks


@family(r"resnext(?P<depth>50|101)_(?P<groups>\d+)x(?P<width>\d+)d", ("resnext50_32x4d",), size=224)
def imagenet_resnext(depth: int, groups: int, width: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
    """torchvision's spelling: `resnext50_32x4d` has 32 groups of 4 channels in its first stage."""
    blocks = DEPTHS[depth][1]
    return StagedResNet(bottlenecks(groups, width), blocks, num_classes=num_classes, channels=channels, rngs=rngs)


@family(r"ResNeXt(?P<depth>\d+)-(?P<groups>\d+)-(?P<width>\d+)d", ("ResNeXt29-4-4d",))
def cifar_resnext(depth: int, groups: int, width: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
    """The spelling of ATS: `ResNeXt29-4-4d` has three stages for small images, and 4 groups of 4 channels at first."""
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
