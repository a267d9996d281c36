"""The parts of EfficientNet and MobileNetV3 and V4: inverted residual blocks, and the network around them.

timm and torchvision publish the same networks under different keys. A block computes in one way, and a subclass for
each library names its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx

from jaxkd.models.registry import Classifier
from jaxkd.nn.attention import DropPath, dropped
from jaxkd.nn.layers import Activation, BatchNorm, Conv, Linear, SqueezeExcite, conv_norm, global_average_pool
from jaxkd.nn.stack import last_block
from jaxkd.types import Outputs

Layer = tuple[Conv, BatchNorm]
Norm = Callable[[int], BatchNorm]
"""Creates the BatchNorm of that many channels; libraries differ in momentum and epsilon."""


class Style(NamedTuple):
    """The layers that all blocks of a network have in common.

    Attributes:
      norm: creates the BatchNorms.
      squeezed: the activation inside a squeeze-and-excitation.
      gate: what ends a squeeze-and-excitation.
    """

    norm: Norm
    squeezed: Activation
    gate: Callable[[jax.Array], jax.Array]


class Shape(NamedTuple):
    """The sizes of an inverted residual block.

    Attributes:
      inputs: channels that it receives.
      inside: channels of its depthwise convolution; as many as `inputs`, and there is no 1×1 convolution before it.
      outputs: channels of its output.
      window: height and width of the depthwise convolution.
      stride: of the depthwise convolution.
      squeeze: channels inside its squeeze-and-excitation; 0, and there is none.
      activation: after each convolution but the last.
    """

    inputs: int
    inside: int
    outputs: int
    window: int
    stride: int
    squeeze: int
    activation: Activation

    def layers(self, norm: Norm, rngs: nnx.Rngs) -> tuple[Layer | None, Layer, Layer]:
        """Create the convolutions, each with its BatchNorm: the widening one, the depthwise one and the last."""
        inside = self.inside
        widens = inside != self.inputs
        return (
            (Conv(self.inputs, inside, 1, rngs=rngs), norm(inside)) if widens else None,
            (Conv(inside, inside, self.window, self.stride, groups=inside, rngs=rngs), norm(inside)),
            (Conv(inside, self.outputs, 1, rngs=rngs), norm(self.outputs)),
        )

    def squeeze_excite(self, style: Style, names: tuple[str, str], rngs: nnx.Rngs) -> SqueezeExcite | None:
        """Create the squeeze-and-excitation, whose convolutions are called so, or None."""
        if not self.squeeze:
            return None
        return SqueezeExcite(
            self.inside, self.squeeze, names=names, activation=style.squeezed, gate=style.gate, rngs=rngs
        )


class InvertedResidual(nnx.Module):
    """A 1×1 convolution to more channels, a depthwise one, squeeze-and-excitation, and a 1×1 convolution to few.

    The last has no activation (Sandler et al. 2018). Where the block keeps the shape, its input is added.
    """

    def __init__(self, shape: Shape, drop_path: DropPath | None):
        self.activation = shape.activation
        self.adds = shape.stride == 1 and shape.inputs == shape.outputs
        self.drop_path = drop_path if self.adds else None

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        *inner, last = self.layers()
        squeeze = self.squeeze_excite()
        out = images
        for convolution, norm in inner:
            out = self.activation(conv_norm(convolution, norm, out, train))
        out = out if squeeze is None else squeeze(out)
        if self.drop_path is not None:
            return images + self.drop_path(conv_norm(*last, out, train).value, train)
        return conv_norm(*last, out, train, residual=images if self.adds else None).value

    def closing_norm(self) -> BatchNorm:
        """Return the BatchNorm after the last convolution."""
        return self.layers()[-1][1]

    def layers(self) -> list[Layer]:
        """Return the convolutions, each with its BatchNorm, in order."""
        raise TypeError(f"{type(self).__name__} defines no layers()")

    def squeeze_excite(self) -> SqueezeExcite | None:
        """Return the squeeze-and-excitation, if there is one."""
        raise TypeError(f"{type(self).__name__} defines no squeeze_excite()")


class TimmBlock(InvertedResidual):
    """A block under timm's keys: `conv_pw`, `bn1`, `conv_dw`, `bn2`, `se`, `conv_pwl`, `bn3`.

    Without the first convolution the others are called `conv_dw`, `bn1`, `se`, `conv_pw` and `bn2`.
    """

    def __init__(self, shape: Shape, style: Style, drop_path: DropPath | None = None, *, rngs: nnx.Rngs):
        super().__init__(shape, drop_path)
        widening, depthwise, last = shape.layers(style.norm, rngs)
        names = ("conv_pw", "conv_dw", "conv_pwl") if widening else ("conv_dw", "conv_pw")
        layers = [layer for layer in (widening, depthwise, last) if layer]
        self.names = tuple((name, f"bn{number}") for number, name in enumerate(names, start=1))
        for (convolution, norm), layer in zip(self.names, layers, strict=True):
            if layer is last:
                self.se = shape.squeeze_excite(style, ("conv_reduce", "conv_expand"), rngs)
            setattr(self, convolution, layer[0])
            setattr(self, norm, layer[1])

    def layers(self) -> list[Layer]:
        return [(getattr(self, convolution), getattr(self, norm)) for convolution, norm in self.names]

    def squeeze_excite(self) -> SqueezeExcite | None:
        return self.se


class TorchvisionBlock(InvertedResidual):
    """A block under torchvision's keys: `block.0.0`, `block.0.1`, …, counted with the squeeze-and-excitation."""

    def __init__(self, shape: Shape, style: Style, drop_path: DropPath | None = None, *, rngs: nnx.Rngs):
        super().__init__(shape, drop_path)
        *layers, last = (nnx.List(layer) for layer in shape.layers(style.norm, rngs) if layer)
        squeeze = shape.squeeze_excite(style, ("fc1", "fc2"), rngs)
        self.block: nnx.List[Any] = nnx.List([*layers, squeeze, last] if squeeze else [*layers, last])

    def layers(self) -> list[Layer]:
        return [tuple(part) for part in self.block if isinstance(part, nnx.List)]

    def squeeze_excite(self) -> SqueezeExcite | None:
        return next((part for part in self.block if isinstance(part, SqueezeExcite)), None)


class Parts(NamedTuple):
    """The layers of a network: stem, stages, the convolution before the pooling, and the classifier."""

    stem: Layer
    stages: Sequence[Iterable[Any]]
    last: Layer
    classifier: Linear


class InvertedResidualNetwork(Classifier):
    """A stem, stages of inverted residual blocks, a 1×1 convolution, a pooling and a classifier.

    Features: f0 the stem (after its activation), then the last maps of each smaller size, then the embedding. A block
    ends without an activation, so there the preactivation is the feature itself, as the next block receives it.

    A subclass creates the layers and lists them in `parts`.

    Attributes:
      activation: after the stem and after the last convolution.
      ends: which stages' outputs are features, see `ends_of_sizes`.
      drop: dropout between the embedding and the classifier, or None.
    """

    activation: Activation
    ends: tuple[int, ...]
    drop: nnx.Dropout | None

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        stem, stages, last, classifier = self.parts()
        before = conv_norm(*stem, images, train)
        out = self.activation(before)
        features, preactivations = [out], [before.value]
        for position, stage in enumerate(stages):
            out, inner = self.run_stage(stage, out, train)
            if position in self.ends:
                features.append(out)
                preactivations.append(inner)
        pooled = global_average_pool(self.activation(conv_norm(*last, out, train)))
        features.append(self.embed(pooled, train))
        logits = classifier(dropped(self.drop, features[-1], train))
        return Outputs(logits, tuple(features), tuple(preactivations), classifier.function())

    def run_stage(self, stage: Iterable[Any], images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Return the output of a stage and the preactivation that belongs to it."""
        for block in stage:
            images = block(images, train)
        return images, images

    def embed(self, pooled: jax.Array, train: bool) -> jax.Array:
        """Return the embedding, which the classifier takes, of the pooled maps."""
        return pooled

    def preactivation_norms(self) -> tuple[BatchNorm, ...]:
        """Return the last BatchNorm before each of the preactivations."""
        (_, norm), stages, *_ = self.parts()
        return (norm, *(last_block(stages[position]).closing_norm() for position in self.ends))

    def parts(self) -> Parts:
        """Return the layers."""
        raise TypeError(f"{type(self).__name__} defines no parts()")


def ends_of_sizes(strides: Sequence[int]) -> tuple[int, ...]:
    """Return which stages are the last before the maps shrink, leaving out those with maps as large as the stem's.

    Args:
      strides: of the stages.

    Example:
      >>> ends_of_sizes([1, 2, 2, 2, 1, 2, 1])
      (1, 2, 4, 6)
    """
    following = [*strides[1:], 2]
    return tuple(i for i, stride in enumerate(following) if stride > 1 and max(strides[: i + 1]) > 1)


def to_eighths(channels: float) -> int:
    """Return the nearest multiple of 8, but none below nine tenths of the channels, as all these networks are rounded.

    Example:
      >>> [to_eighths(channels) for channels in (4, 18, 61.6)]
      [8, 24, 64]
    """
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
