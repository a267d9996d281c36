"""ShuffleNetV2 (Ma et al. 2018) for ImageNet in its four widths, in torchvision's layout."""

from __future__ import annotations

import jax
from flax import nnx

from jaxkd.models.layers import BatchNorm, DefaultConv, Linear, max_pool
from jaxkd.models.registry import family
from jaxkd.models.shufflenet_v2 import STEM, WIDTHS, Layer, ShuffleNetV2, ShuffleUnit, branch_layers, stages_of


class BranchedShuffleUnit(ShuffleUnit):
    """torchvision's names: the layers of `branch1` and `branch2` under their positions, among which ReLUs count."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        left, right = branch_layers(inputs, outputs, stride, rngs)
        self.branch1 = _positioned(left, (0, 2)) if left else None
        self.branch2 = _positioned(right, (0, 3, 5))

    def branches(self) -> tuple[list[Layer], list[Layer]]:
        left = [] if self.branch1 is None else _layers(self.branch1, (0, 2))
        return left, _layers(self.branch2, (0, 3, 5))


def _positioned(layers: list[Layer], positions: tuple[int, ...]) -> nnx.Dict:
    named: dict[str, nnx.Module] = {}
    for position, (convolution, norm) in zip(positions, layers, strict=True):
        named[str(position)], named[str(position + 1)] = convolution, norm
    return nnx.Dict(named)


def _layers(named: nnx.Dict, positions: tuple[int, ...]) -> list[Layer]:
    return [(named[str(position)], named[str(position + 1)]) for position in positions]


class ShuffleNetV2ImageNet(ShuffleNetV2):
    """ShuffleNetV2 for images of any size; published for 224×224. `tenths` is its width, 10 the paper's ×1.

    Features: f0 the stem (after its pooling), f1 to f3 the stages (after their last ReLU), f4 the pooled embedding. The
    preactivations are the same maps before that ReLU, of channels that only passed through the last block as well.
    """

    def __init__(self, tenths: int = 10, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
        widths = WIDTHS[tenths]
        self.conv1 = nnx.List([DefaultConv(channels, STEM, 3, 2, rngs=rngs), BatchNorm(STEM)])
        self.stage2, self.stage3, self.stage4 = stages_of(BranchedShuffleUnit, widths, rngs)
        last = DefaultConv(widths.stages[-1], widths.embedding, 1, rngs=rngs)
        self.conv5 = nnx.List([last, BatchNorm(widths.embedding)])
        self.fc = Linear(widths.embedding, num_classes, rngs=rngs)

    def parts(self):
        stages = [self.stage2, self.stage3, self.stage4]
        return tuple(self.conv1), stages, tuple(self.conv5), self.fc

    def pool_stem(self, stem: jax.Array) -> jax.Array:
        """torchvision pools after the ReLU, which makes no difference: both keep the order of numbers."""
        return max_pool(stem, 3, 1)


@family(r"ShuffleV2_Imagenet", ("ShuffleV2_Imagenet",), size=224)
def imagenet_shufflenet_v2(*, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
    """The ×1 form, as CTKD names it."""
    return ShuffleNetV2ImageNet(num_classes=num_classes, channels=channels, rngs=rngs)


# Python reads the underscore in "1_5" as it reads the one in "1_000": the group becomes 15.
@family(
    r"shufflenet_v2_x(?P<tenths>0_5|1_0|1_5|2_0)",
    ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    size=224,
)
def imagenet_shufflenet_v2_of_width(tenths: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
    """All widths, as torchvision names them."""
    return ShuffleNetV2ImageNet(tenths, num_classes=num_classes, channels=channels, rngs=rngs)
