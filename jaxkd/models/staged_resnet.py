"""ResNets of wide stages (He et al. 2016): a stem of 64 channels, then stages of 64, 128, 256, … planes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
from flax import nnx

from jaxkd.base import Outputs
from jaxkd.models.image_size import check_image_size
from jaxkd.models.layers import BatchNorm, Conv, Linear, Preactivation, conv_norm, max_pool
from jaxkd.models.residual_block import BasicBlock, Bottleneck, ResidualBlock
from jaxkd.models.stack import last_block, stack_blocks
from jaxkd.models.stages import pooled_outputs, preactivations

Block = Callable[..., ResidualBlock]

DEPTHS: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
"""Depth to the kind of block and the number of them in each stage."""


class StagedResNet(nnx.Module):
    """A ResNet whose stages have 64, 128, 256, … planes; all but the first halve the maps.

    Features: f0 the stem, one per stage (after its last ReLU), then the pooled embedding. In a network for large images
    f0 is the stem after its max pooling.

    Args:
      block: what the stages consist of: called as `block(inputs, planes, stride, rngs=…)`.
      blocks: the number of blocks in each stage.
      small_images: the stem is a 3×3 convolution; otherwise one of 7×7 and a max pooling, each with stride 2.
      classifier: the name of the linear layer.
      num_classes: K.
      channels: of the images.
      rngs: of the initial weights.
    """

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
        window, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = Conv(channels, 64, window, stride, rngs=rngs)
        self.bn1 = BatchNorm(64)
        outputs = 64
        for position, count in enumerate(blocks):
            planes, stride = 64 * 2**position, 1 if position == 0 else 2
            first = block(outputs, planes, stride, rngs=rngs)
            outputs = first.outputs
            rest = [block(outputs, planes, 1, rngs=rngs) for _ in range(count - 1)]
            setattr(self, f"layer{position + 1}", stack_blocks(first, rest))
        setattr(self, classifier, Linear(outputs, num_classes, rngs=rngs))
        self.small_images = small_images
        self.stages = len(blocks)
        self.classifier_name = classifier

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        check_image_size(images, self.stages - 1 if self.small_images else self.stages + 1)
        before = preactivations(self._stem(images, train), self._stages(), train)
        return pooled_outputs(before, getattr(self, self.classifier_name))

    def preactivation_norms(self) -> tuple[BatchNorm, ...]:
        """The BatchNorm that comes last before each of the preactivations."""
        return (self.bn1, *(last_block(stage).closing_norm() for stage in self._stages()))

    def _stem(self, images: jax.Array, train: bool) -> Preactivation:
        stem = conv_norm(self.conv1, self.bn1, images, train)
        # The ReLU follows. Maximum and ReLU commute, and in this order the preactivation is as large as the feature.
        return stem if self.small_images else Preactivation.of(max_pool(stem.value, 3, padding=1))

    def _stages(self) -> list[nnx.List]:
        return [getattr(self, f"layer{number}") for number in range(1, self.stages + 1)]


def bottlenecks(groups: int, base_width: int) -> Block:
    """Bottlenecks wider than a ResNet's, or grouped as a ResNeXt's.

    Raises:
      ValueError: either is no positive number.
    """
    for name, count in (("groups", groups), ("width", base_width)):
        if count < 1:
            raise ValueError(f"{name} {count}: must be at least 1")
    return partial(Bottleneck, groups=groups, base_width=base_width)
