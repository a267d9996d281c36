"""ImageNet's ResNet-18, 34 and 50 for small images: a 3×3 stem without pooling in front of the same four stages."""

from __future__ import annotations

from functools import partial

from flax import nnx

from jaxkd.models.registry import family
from jaxkd.models.staged_resnet import DEPTHS, StagedResNet


@family(r"ResNet(?P<depth>50)", ("ResNet50",))
@family(r"ResNet(?P<depth>18|34)_cifar", ("ResNet18_cifar", "ResNet34_cifar"))
def cifar_stem_resnet(depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
    """RepDistiller's `ResNet50`. Its ResNet-18 and 34 are named apart from ImageNet's."""
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
