"""The residual blocks of ImageNet's ResNets and ResNeXts: basic (two 3×3 convolutions) and bottleneck (1×1, 3×3, 1×1).

A block goes from one sum to the next: the ReLU that closes a block in the papers opens the one that follows here, so
that what comes out is a preactivation.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from jaxkd.models.layers import BatchNorm, Conv, Preactivation, conv_norm


class ResidualBlock(nnx.Module):
    """A branch, which a subclass defines, and a shortcut beside it.

    The shortcut has parameters, a 1×1 convolution and its BatchNorm, only where the shape changes. Published networks
    agree in everything but its name.

    Attributes:
      outputs: channels of the sum.
    """

    outputs: int

    def _add_shortcut(self, name: str, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        """The last thing a subclass defines, as in PyTorch's listing."""
        changes = stride != 1 or inputs != outputs
        projection = [Conv(inputs, outputs, 1, stride, rngs=rngs), BatchNorm(outputs)] if changes else None
        setattr(self, name, nnx.List(projection) if projection else None)
        self.shortcut_name = name
        self.outputs = outputs

    def __call__(self, before: Preactivation, train: bool) -> Preactivation:
        out = images = before.relu()
        *inner, (last, closing) = self.branch()
        for convolution, norm in inner:
            out = conv_norm(convolution, norm, out, train).relu()
        return conv_norm(last, closing, out, train, residual=self._shortcut(images, train))

    def _shortcut(self, images: jax.Array, train: bool) -> jax.Array:
        projection: Any = getattr(self, self.shortcut_name)
        if projection is None:
            return images
        convolution, norm = projection
        return conv_norm(convolution, norm, images, train).value

    def branch(self) -> list[tuple[Conv, BatchNorm]]:
        """The layers beside the shortcut, each a convolution and its BatchNorm, in order."""
        raise TypeError(f"{type(self).__name__} defines no branch()")

    def closing_norm(self) -> BatchNorm:
        """The BatchNorm at the end of the branch."""
        return self.branch()[-1][1]


class BasicBlock(ResidualBlock):
    """Two 3×3 convolutions of `planes` channels (He et al. 2016)."""

    def __init__(self, inputs: int, planes: int, stride: int, *, shortcut: str = "downsample", rngs: nnx.Rngs):
        self.conv1 = Conv(inputs, planes, 3, stride, rngs=rngs)
        self.bn1 = BatchNorm(planes)
        self.conv2 = Conv(planes, planes, 3, rngs=rngs)
        self.bn2 = BatchNorm(planes)
        self._add_shortcut(shortcut, inputs, planes, stride, rngs)

    def branch(self) -> list[tuple[Conv, BatchNorm]]:
        return [(self.conv1, self.bn1), (self.conv2, self.bn2)]


class Bottleneck(ResidualBlock):
    """1×1, 3×3 and 1×1 convolution, the last to 4 · `planes` channels (He et al. 2016); the stride is in the middle.

    Args:
      inputs: channels of the images.
      planes: a quarter of the channels of the sum.
      stride: of the 3×3 convolution.
      groups: of the 3×3 convolution (Xie et al. 2017).
      base_width: channels of each group where `planes` is 64; they grow with `planes`.
      shortcut: the attribute's name.
      rngs: of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int,
        *,
        groups: int = 1,
        base_width: int = 64,
        shortcut: str = "downsample",
        rngs: nnx.Rngs,
    ):
        width = planes * base_width // 64 * groups
        self.conv1 = Conv(inputs, width, 1, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, stride, groups=groups, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv3 = Conv(width, 4 * planes, 1, rngs=rngs)
        self.bn3 = BatchNorm(4 * planes)
        self._add_shortcut(shortcut, inputs, 4 * planes, stride, rngs)

    def branch(self) -> list[tuple[Conv, BatchNorm]]:
        return [(self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)]
