"""VGGs with BatchNorm (Simonyan & Zisserman 2015) for small images (`VGG`) and for ImageNet (`ImageNetVGG`)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros

from jaxkd.models.registry import Classifier, family
from jaxkd.nn.initializers import normal
from jaxkd.nn.layers import BatchNorm, Conv, Linear, check_image_size, conv_norm, global_average_pool, max_pool
from jaxkd.types import Outputs, at_least_float32

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""By depth, the number of convolutions in each block."""


class VGG(Classifier):
    """A VGG for images of any size from 8×8, with one linear layer as the classifier.

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
        """Return the last BatchNorm of each block."""
        return tuple(block[str(len(block) // 2 * 3 - 2)] for block in self._blocks())

    def _blocks(self) -> tuple[nnx.Dict[Any], ...]:
        return (self.block0, self.block1, self.block2, self.block3, self.block4)


def _block(inputs: int, outputs: int, convolutions: int, rngs: nnx.Rngs) -> nnx.Dict[Any]:
    """Create convolutions and BatchNorms at their positions in PyTorch, where a ReLU follows each pair."""
    layers: dict[str, nnx.Module] = {}
    for i in range(convolutions):
        layers[str(3 * i)] = Conv(inputs if i == 0 else outputs, outputs, 3, bias=True, rngs=rngs)
        layers[str(3 * i + 1)] = BatchNorm(outputs)
    return nnx.Dict(layers)


@family(r"vgg(?P<depth>8|11|13|16|19)", tuple(f"vgg{depth}" for depth in CONVOLUTIONS))
def vgg(depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> VGG:
    """Build a VGG for small images in RepDistiller's spelling, `vgg13`."""
    return VGG(depth, num_classes=num_classes, channels=channels, rngs=rngs)


@family(r"VGG(?P<depth>8|11|13|16|19)", ("VGG8",))
def ats_vgg(depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> VGG:
    """Build a VGG for small images in the spelling of ATS, `VGG8`."""
    return vgg(depth, num_classes=num_classes, channels=channels, rngs=rngs)


FEATURES = {11: (2, 3, 6, 10, 28), 13: (2, 5, 9, 12, 34)}
"""By depth, the layers whose outputs CTKD takes as f0 to f4: positions of ReLUs and poolings in `features`."""

GRID = 7
"""Height and width of the maps that the classifier takes."""


class ImageNetVGG(Classifier):
    """A VGG for images of any size from 32×32, with a classifier of three linear layers.

    Features: f0 to f3 early outputs, see `FEATURES`, f4 the last maps, f5 the embedding: the last maps averaged to a
    grid of 7×7 and flattened in PyTorch's order, channel by channel.

    torchvision drops out half of the classifier's hidden units in training. Here nothing is dropped, as models are
    called without a random key; in evaluation there is no difference.
    """

    def __init__(self, depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
        layers: dict[str, Any] = {}
        position, inputs = 0, channels
        for width, convolutions in zip(WIDTHS, CONVOLUTIONS[depth], strict=True):
            for _ in range(convolutions):
                layers[str(position)] = Conv(inputs, width, 3, bias=True, rngs=rngs)
                layers[str(position + 1)] = BatchNorm(width)
                position, inputs = position + 3, width  # the third is a ReLU
            position += 1  # a max pooling
        self.features = nnx.Dict(layers)
        sizes = {"0": (WIDTHS[-1] * GRID**2, 4096), "3": (4096, 4096), "6": (4096, num_classes)}
        self.classifier = nnx.Dict(
            {
                name: Linear(*size, kernel_init=normal(0.01), bias_init=zeros, rngs=rngs)
                for name, size in sizes.items()  # between them stand ReLUs and dropouts
            }
        )
        self.depth = depth

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        check_image_size(images, halvings=5)
        preactivations: list[jax.Array] = []
        features: list[jax.Array] = []
        out, position = images, 0
        for convolutions in CONVOLUTIONS[self.depth]:
            for _ in range(convolutions):
                before = conv_norm(self.features[str(position)], self.features[str(position + 1)], out, train)
                out = before.relu()
                if position + 2 in FEATURES[self.depth]:
                    preactivations.append(before.value)
                    features.append(out)
                position += 3
            out = max_pool(out)
            if position in FEATURES[self.depth]:
                preactivations.append(max_pool(before.value))  # maximum and ReLU commute
                features.append(out)
            position += 1
        embedding = _to_grid(at_least_float32(out)).transpose(0, 3, 1, 2).reshape(out.shape[0], -1)
        classify = self._classifier()
        return Outputs(classify(embedding), (*features, embedding), tuple(preactivations), classify)

    def preactivation_norms(self) -> tuple[BatchNorm, ...]:
        """Return the last BatchNorm before each of the preactivations."""
        layers = self.features  # it lies one layer before a ReLU, and two before a pooling
        return tuple(layers[str(i - 1 if str(i - 1) in layers else i - 2)] for i in FEATURES[self.depth])

    def _classifier(self) -> jax.tree_util.Partial:
        return jax.tree_util.Partial(_perceptron, [self.classifier[name].function() for name in ("0", "3", "6")])


def _perceptron(layers: list[jax.tree_util.Partial], embedding: jax.Array) -> jax.Array:
    *hidden, last = layers
    for layer in hidden:
        embedding = jax.nn.relu(layer(embedding))
    return last(embedding)


def _to_grid(maps: jax.Array) -> jax.Array:
    """Average maps of any size to 7×7; windows overlap where the size is no multiple of 7."""
    for axis in (1, 2):
        size = maps.shape[axis]
        if size != GRID:
            windows = [(i * size // GRID, -(-(i + 1) * size // GRID)) for i in range(GRID)]
            means = [jax.lax.slice_in_dim(maps, *window, axis=axis).mean(axis) for window in windows]
            maps = jnp.stack(means, axis)
    return maps


@family(r"vgg(?P<depth>11|13)_imagenet", ("vgg11_imagenet", "vgg13_imagenet"), size=224, small="vgg{depth}")
@family(r"vgg(?P<depth>11|13)_bn", ("vgg11_bn", "vgg13_bn"), size=224, small="vgg{depth}")
def imagenet_vgg(depth: int, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> ImageNetVGG:
    """Build torchvision's `vgg11_bn`, CTKD's `vgg11_imagenet`."""
    return ImageNetVGG(depth, num_classes=num_classes, channels=channels, rngs=rngs)
