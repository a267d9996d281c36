"""Wide ResNets (Zagoruyko & Komodakis 2016): pre-activation blocks, depth 6n + 4, width k."""

from __future__ import annotations

import jax
from flax import nnx
from jax.nn.initializers import zeros

from jaxkd.models.registry import Classifier, family
from jaxkd.nn.layers import BatchNorm, Conv, Linear, conv_norm, global_average_pool
from jaxkd.nn.stack import stack_blocks
from jaxkd.types import Outputs


class WideBlock(nnx.Module):
    """BatchNorm, ReLU and 3×3 convolution, twice; where the shape changes, the shortcut starts after the first ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.bn1 = BatchNorm(inputs)
        self.conv1 = Conv(inputs, outputs, 3, stride, rngs=rngs)
        self.bn2 = BatchNorm(outputs)
        self.conv2 = Conv(outputs, outputs, 3, rngs=rngs)
        self.convShortcut = None if inputs == outputs else Conv(inputs, outputs, 1, stride, rngs=rngs)

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        active = self.bn1.preactivation(images, train).relu()
        out = conv_norm(self.conv1, self.bn2, active, train).relu()
        shortcut = images if self.convShortcut is None else self.convShortcut(active)
        return shortcut + self.conv2(out)


class WideStage(nnx.Module):
    """Blocks of one width; the first changes the shape."""

    def __init__(self, inputs: int, outputs: int, blocks: int, stride: int, *, rngs: nnx.Rngs):
        first = WideBlock(inputs, outputs, stride, rngs=rngs)
        self.layer = stack_blocks(first, [WideBlock(outputs, outputs, 1, rngs=rngs) for _ in range(blocks - 1)])

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        for block in self.layer:
            images = block(images, train)
        return images


class WideResNet(Classifier):
    """WRN-depth-width for images of any size from 4×4.

    Features: f0 the stem, f1 to f3 the stages (before the closing BatchNorm), f4 the pooled embedding.
    """

    def __init__(self, depth: int, width: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
        if depth % 6 != 4 or depth < 10:
            raise ValueError(f"depth {depth}: a wide ResNet has depth 6n + 4 (10, 16, 22, 28, …)")
        if width < 1:
            raise ValueError(f"width {width}: must be at least 1")
        blocks = (depth - 4) // 6
        stages = (16 * width, 32 * width, 64 * width)
        self.conv1 = Conv(channels, 16, 3, rngs=rngs)
        self.block1 = WideStage(16, stages[0], blocks, 1, rngs=rngs)
        self.block2 = WideStage(stages[0], stages[1], blocks, 2, rngs=rngs)
        self.block3 = WideStage(stages[1], stages[2], blocks, 2, rngs=rngs)
        self.bn1 = BatchNorm(stages[2])
        self.fc = Linear(stages[2], num_classes, bias_init=zeros, rngs=rngs)

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        features = [self.conv1(images)]
        for stage in (self.block1, self.block2, self.block3):
            features.append(stage(features[-1], train))
        norms = self.preactivation_norms()
        # Running statistics move where the network itself passes through a norm, so the other passes use a frozen view.
        closing = norms[-1].preactivation(features[-1], train)
        inner = [norm.frozen(out, train) for norm, out in zip(norms[:-1], features[:-1], strict=True)]
        features.append(global_average_pool(closing.relu()))
        return Outputs(self.fc(features[-1]), tuple(features), (*inner, closing.value), self.fc.function())

    def preactivation_norms(self) -> tuple[BatchNorm, ...]:
        """Return the BatchNorm that follows each stage, whose output the next ReLU receives."""
        return (*(stage.layer[0].bn1 for stage in (self.block1, self.block2, self.block3)), self.bn1)


@family(r"wrn_(?P<depth>\d+)_(?P<width>\d+)", ("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"))
def wrn(depth: int, width: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> WideResNet:
    """Build a wide ResNet in RepDistiller's spelling, `wrn_40_2`."""
    return WideResNet(depth, width, num_classes=num_classes, channels=channels, rngs=rngs)


@family(r"WRN(?P<depth>\d+)-(?P<width>\d+)", ("WRN28-1", "WRN28-8"))
def ats_wrn(depth: int, width: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> WideResNet:
    """Build a wide ResNet in the spelling of ATS, `WRN28-8`."""
    return wrn(depth, width, num_classes=num_classes, channels=channels, rngs=rngs)
