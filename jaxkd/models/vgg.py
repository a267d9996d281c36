"""VGGs with BatchNorm (Simonyan & Zisserman 2015) for small images: five blocks and one linear layer."""

from __future__ import annotations

import jax
from flax import nnx
from jax.nn.initializers import normal, zeros

from jaxkd.base import Outputs
from jaxkd.models.layers import BatchNorm, Conv, Linear, conv_norm, global_average_pool, max_pool
from jaxkd.models.registry import family

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Depth to the number of convolutions in each block."""


class VGG(nnx.Module):
    """A VGG for images of any size from 8×8.

    Features: f0 to f4 the blocks (after their last ReLU), f5 the pooled embedding. The fourth block is followed by a
    pooling only for images of 64×64, as in RepDistiller.
    """

    def __init__(self, depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
        inputs = (channels, *WIDTHS[:-1])
        blocks = [_block(*sizes, rngs) for sizes in zip(inputs, WIDTHS, CONVOLUTIONS[depth], strict=True)]
        self.block0, self.block1, self.block2, self.block3, self.block4 = blocks
        self.classifier = Linear(WIDTHS[-1], num_classes, kernel_init=normal(0.01), bias_init=zeros, rngs=rngs)

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        pooled = [True, True, True, images.shape[1] == 64, False]
        preactivations, features, out = [], [], images
        for block, pool in zip(self._blocks(), pooled, strict=True):
            for position in range(0, len(block) // 2 * 3, 3):
                convolution, norm = block[str(position)], block[str(position + 1)]
                before = conv_norm(convolution, norm, out, train)
                out = before.relu()
            preactivations.append(before.value)
            features.append(out)
            out = max_pool(out) if pool else out
        features.append(global_average_pool(out))
        logits = self.classifier(features[-1])
        return Outputs(logits, tuple(features), tuple(preactivations), self.classifier.function())

    def preactivation_norms(self) -> tuple[BatchNorm, ...]:
        """The last BatchNorm of each block."""
        return tuple(block[str(len(block) // 2 * 3 - 2)] for block in self._blocks())

    def _blocks(self) -> tuple[nnx.Dict, ...]:
        return (self.block0, self.block1, self.block2, self.block3, self.block4)


def _block(inputs: int, outputs: int, convolutions: int, rngs: nnx.Rngs) -> nnx.Dict:
    """Convolution and BatchNorm under the positions they have in PyTorch, where each pair is followed by a ReLU."""
    layers: dict[str, nnx.Module] = {}
    for i in range(convolutions):
        layers[str(3 * i)] = Conv(inputs if i == 0 else outputs, outputs, 3, bias=True, rngs=rngs)
        layers[str(3 * i + 1)] = BatchNorm(outputs)
    return nnx.Dict(layers)


@family(r"vgg(?P<depth>8|11|13|16|19)", tuple(f"vgg{depth}" for depth in CONVOLUTIONS))
def vgg(depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
    """RepDistiller's spelling: `vgg13`."""
    return VGG(depth, num_classes=num_classes, channels=channels, rngs=rngs)


@family(r"VGG(?P<depth>8|11|13|16|19)", ("VGG8",))
def ats_vgg(depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
    """The spelling of ATS: `VGG8`."""
    return vgg(depth, num_classes=num_classes, channels=channels, rngs=rngs)
