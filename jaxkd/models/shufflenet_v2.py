"""ShuffleNetV2 (Ma et al. 2018) in two forms: RepDistiller's for CIFAR, and torchvision's for ImageNet.

Both are the same network, `ShuffleNetV2`, and name its layers as their published files do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.models.registry import Classifier, family
from jaxkd.nn.layers import (
    BatchNorm,
    Conv,
    DefaultConv,
    Linear,
    Preactivation,
    channel_shuffle,
    conv_norm,
    global_average_pool,
    max_pool,
)
from jaxkd.nn.stack import Stack, preactivations, stack_blocks
from jaxkd.types import Outputs

Layer = tuple[Conv, BatchNorm]


class Widths(NamedTuple):
    """Channels of the three stages and of the embedding."""

    stages: tuple[int, int, int]
    embedding: int


STEM = 24
BLOCKS = (4, 8, 4)
WIDTHS = {
    5: Widths((48, 96, 192), 1024),
    10: Widths((116, 232, 464), 1024),
    15: Widths((176, 352, 704), 1024),
    20: Widths((244, 488, 976), 2048),
}
"""The paper's four sizes, by width in tenths: 5 is its ×0.5."""


class ShuffleUnit(nnx.Module):
    """Half of the channels pass through, the others take a 1×1, a depthwise 3×3 and a 1×1; then all are shuffled.

    With stride 2 both branches see all channels, and the first is a depthwise 3×3 and a 1×1 convolution.
    """

    def __call__(self, before: jax.Array, train: bool) -> jax.Array:
        """Map one preactivation to the next: a channel is rectified where it is read, not where it is computed.

        Channels that pass through blocks therefore still are preactivations at the end of a stage.
        """
        left, right = self.branches()
        if left:
            kept, worked = _apply(left, jax.nn.relu(before), train).value, before
        else:
            kept, worked = jnp.split(before, 2, axis=-1)
        out = _apply(right[:1], jax.nn.relu(worked), train).relu()
        return channel_shuffle(jnp.concatenate([kept, _apply(right[1:], out, train).value], axis=-1), 2)

    def norm_after(self, norm_before: BatchNorm) -> BatchNorm:
        """Join the last BatchNorms of all channels of the output into one; `norm_before` is that of the input."""
        left, right = self.branches()
        kept, worked = left[-1][1] if left else norm_before, right[-1][1]
        half = worked.scale.size
        joined = BatchNorm(2 * half)
        for name in ("scale", "bias", "mean", "var"):
            values = jnp.concatenate([getattr(kept, name)[:half], getattr(worked, name)[...]])
            getattr(joined, name)[...] = channel_shuffle(values, 2)
        return joined

    def branches(self) -> tuple[list[Layer], list[Layer]]:
        """Return the convolutions of both branches, each with its BatchNorm; with stride 1 the first has none."""
        raise TypeError(f"{type(self).__name__} defines no branches()")


def _apply(layers: list[Layer], images: jax.Array, train: bool) -> Preactivation:
    *inner, last = layers
    for layer in inner:
        images = conv_norm(*layer, images, train).value
    return conv_norm(*last, images, train)


def branch_layers(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> tuple[list[Layer], list[Layer]]:
    """Create the layers of both branches of a unit, `[N, H, W, inputs] -> [N, H / stride, W / stride, outputs]`."""
    half = outputs // 2
    left = [_depthwise(inputs, 2, rngs), _pointwise(inputs, half, rngs)] if stride == 2 else []
    entry = _pointwise(inputs if stride == 2 else half, half, rngs)
    return left, [entry, _depthwise(half, stride, rngs), _pointwise(half, half, rngs)]


def _pointwise(inputs: int, outputs: int, rngs: nnx.Rngs) -> Layer:
    return DefaultConv(inputs, outputs, 1, rngs=rngs), BatchNorm(outputs)


def _depthwise(channels: int, stride: int, rngs: nnx.Rngs) -> Layer:
    return DefaultConv(channels, channels, 3, stride, groups=channels, rngs=rngs), BatchNorm(channels)


class ShuffleNetV2(Classifier):
    """The network of both forms, which name its layers and list them in `parts`.

    Features: f0 the stem, f1 to f3 the stages (after their last ReLU), f4 the pooled embedding. The preactivations are
    the same maps before that ReLU, of channels that only passed through the last block as well.
    """

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        (convolution, norm), stages, head, classifier = self.parts()
        stem = self.pool_stem(conv_norm(convolution, norm, images, train).value)
        before = preactivations(stem, stages, train)
        features = [jax.nn.relu(one) for one in before]
        out = conv_norm(*head, features[-1], train).relu()
        features.append(global_average_pool(out))
        return Outputs(classifier(features[-1]), tuple(features), tuple(before), classifier.function())

    def preactivation_norms(self) -> tuple[BatchNorm, ...]:
        """Return for each preactivation the last BatchNorms of its channels, joined into one."""
        (_, norm), stages, _, _ = self.parts()
        norms = [norm]
        for stage in stages:
            for block in stage:
                units = [block[i] for i in range(len(block))] if isinstance(block, Stack) else [block]
                for unit in units:
                    norm = unit.norm_after(norm)
            norms.append(norm)
        return tuple(norms)

    def parts(self) -> tuple[Layer, list[nnx.List[Any]], Layer, Linear]:
        """Return stem, stages, the convolution before the pooling, and the classifier."""
        raise TypeError(f"{type(self).__name__} defines no parts()")

    def pool_stem(self, stem: jax.Array) -> jax.Array:
        """Apply what is between the stem's BatchNorm and the first stage: nothing here."""
        return stem


def stages_of(unit: Callable[..., ShuffleUnit], widths: Widths, rngs: nnx.Rngs) -> list[nnx.List[Any]]:
    """Create the three stages; the first unit of each halves height and width."""
    stages, inputs = [], STEM
    for outputs, blocks in zip(widths.stages, BLOCKS, strict=True):
        first = unit(inputs, outputs, 2, rngs=rngs)
        stages.append(stack_blocks(first, [unit(outputs, outputs, 1, rngs=rngs) for _ in range(blocks - 1)]))
        inputs = outputs
    return stages


class SmallShuffleUnit(ShuffleUnit):
    """A unit with RepDistiller's names: `conv1`, `bn1` and on, the first branch before the second."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        left, right = branch_layers(inputs, outputs, stride, rngs)
        for number, (convolution, norm) in enumerate([*left, *right], start=1):
            setattr(self, f"conv{number}", convolution)
            setattr(self, f"bn{number}", norm)
        self.layers = len(left) + len(right)

    def branches(self) -> tuple[list[Layer], list[Layer]]:
        numbers = range(1, self.layers + 1)
        layers = [(getattr(self, f"conv{number}"), getattr(self, f"bn{number}")) for number in numbers]
        return layers[:-3], layers[-3:]


class SmallShuffleNetV2(ShuffleNetV2):
    """ShuffleNetV2 ×1 for small images of any size; published for 32×32. The stem is a 1×1 convolution.

    Features: f0 the stem, f1 to f3 the stages (after their last ReLU), f4 the pooled embedding. The preactivations are
    the same maps before that ReLU, of channels that only passed through the last block as well.
    """

    def __init__(self, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
        widths = WIDTHS[10]
        self.conv1, self.bn1 = _pointwise(channels, STEM, rngs)
        self.layer1, self.layer2, self.layer3 = stages_of(SmallShuffleUnit, widths, rngs)
        self.conv2, self.bn2 = _pointwise(widths.stages[-1], widths.embedding, rngs)
        self.linear = Linear(widths.embedding, num_classes, rngs=rngs)

    def parts(self) -> tuple[Layer, list[nnx.List[Any]], Layer, Linear]:
        stages = [self.layer1, self.layer2, self.layer3]
        return (self.conv1, self.bn1), stages, (self.conv2, self.bn2), self.linear


@family(r"ShuffleV2", ("ShuffleV2",))
def shufflenet_v2(*, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> ShuffleNetV2:
    """Build the CIFAR form, under RepDistiller's name."""
    return SmallShuffleNetV2(num_classes=num_classes, channels=channels, rngs=rngs)


class BranchedShuffleUnit(ShuffleUnit):
    """A unit with torchvision's names: the layers of `branch1` and `branch2` by position, ReLUs counted."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        left, right = branch_layers(inputs, outputs, stride, rngs)
        self.branch1 = _positioned(left, (0, 2)) if left else None
        self.branch2 = _positioned(right, (0, 3, 5))

    def branches(self) -> tuple[list[Layer], list[Layer]]:
        left = [] if self.branch1 is None else _layers(self.branch1, (0, 2))
        return left, _layers(self.branch2, (0, 3, 5))


def _positioned(layers: list[Layer], positions: tuple[int, ...]) -> nnx.Dict[Any]:
    named: dict[str, nnx.Module] = {}
    for position, (convolution, norm) in zip(positions, layers, strict=True):
        named[str(position)], named[str(position + 1)] = convolution, norm
    return nnx.Dict(named)


def _layers(named: nnx.Dict[Any], positions: tuple[int, ...]) -> list[Layer]:
    return [(named[str(position)], named[str(position + 1)]) for position in positions]


class ShuffleNetV2ImageNet(ShuffleNetV2):
    """ShuffleNetV2 for images of any size; published for 224×224. `tenths` is its width, 10 the paper's ×1.

    Features: f0 the stem (after its pooling), f1 to f3 the stages (after their last ReLU), f4 the pooled embedding. The
    preactivations are the same maps before that ReLU, of channels that only passed through the last block as well.
    """

    def __init__(self, tenths: int = 10, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
        widths = WIDTHS[tenths]
        self.conv1: nnx.List[Any] = nnx.List([DefaultConv(channels, STEM, 3, 2, rngs=rngs), BatchNorm(STEM)])
        self.stage2, self.stage3, self.stage4 = stages_of(BranchedShuffleUnit, widths, rngs)
        last = DefaultConv(widths.stages[-1], widths.embedding, 1, rngs=rngs)
        self.conv5: nnx.List[Any] = nnx.List([last, BatchNorm(widths.embedding)])
        self.fc = Linear(widths.embedding, num_classes, rngs=rngs)

    def parts(self) -> tuple[Layer, list[nnx.List[Any]], Layer, Linear]:
        stages = [self.stage2, self.stage3, self.stage4]
        return tuple(self.conv1), stages, tuple(self.conv5), self.fc

    def pool_stem(self, stem: jax.Array) -> jax.Array:
        """Pool before the ReLU; torchvision pools after it, which gives the same, as both keep the order of numbers."""
        return max_pool(stem, 3, 1)


@family(r"ShuffleV2_Imagenet", ("ShuffleV2_Imagenet",), size=224, small="ShuffleV2")
def imagenet_shufflenet_v2(*, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> ShuffleNetV2:
    """Build the ImageNet form ×1, under CTKD's name."""
    return ShuffleNetV2ImageNet(num_classes=num_classes, channels=channels, rngs=rngs)


# Python reads the underscore in "1_5" as it reads the one in "1_000": the group becomes 15.
@family(
    r"shufflenet_v2_x(?P<tenths>0_5|1_0|1_5|2_0)",
    ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    size=224,
    small="ShuffleV2",
)
def imagenet_shufflenet_v2_of_width(
    tenths: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs
) -> ShuffleNetV2:
    """Build the ImageNet form of any width, under torchvision's names."""
    return ShuffleNetV2ImageNet(tenths, num_classes=num_classes, channels=channels, rngs=rngs)
