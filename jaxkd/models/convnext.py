"""ConvNeXt (Liu et al. 2022), under the names and keys of timm and torchvision.

The libraries share the names `convnext_tiny`, `convnext_small` and `convnext_base`, and the networks, but not the keys:
torchvision's have the plain names here, timm's are `timm_convnext_tiny`, …. The smaller ones, from `convnext_atto` to
`convnext_nano`, are timm's alone; their linear layers are 1×1 convolutions in its keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros

from jaxkd.models.registry import Classifier, family
from jaxkd.nn.attention import DropPath, LayerNorm, drop_paths
from jaxkd.nn.initializers import normal
from jaxkd.nn.layers import Conv, Linear, check_image_size, global_average_pool
from jaxkd.nn.operations import gelu, saved
from jaxkd.nn.stack import stack_blocks
from jaxkd.nn.tokens import PatchConv
from jaxkd.types import Outputs

EPSILON = 1e-6
INITIAL_SCALE = 1e-6
"""The layer scale of a fresh network: its blocks begin as almost nothing."""

WIDENING = 4
"""The width of a block inside, as a multiple of its channels."""

_normal = normal(0.02)  # PyTorch's trunc_normal_ cuts at ±2, a hundred deviations away


class Plan(NamedTuple):
    """Blocks and channels of each stage, and whether timm's keys have the linear layers as 1×1 convolutions."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    convolutions: bool = False


PLANS = {
    "atto": Plan((2, 2, 6, 2), (40, 80, 160, 320), convolutions=True),
    "femto": Plan((2, 2, 6, 2), (48, 96, 192, 384), convolutions=True),
    "pico": Plan((2, 2, 6, 2), (64, 128, 256, 512), convolutions=True),
    "nano": Plan((2, 2, 8, 2), (80, 160, 320, 640), convolutions=True),
    "tiny": Plan((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": Plan((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": Plan((3, 3, 27, 3), (128, 256, 512, 1024)),
}


class ConvNeXtBlock(nnx.Module):
    """A depthwise 7×7 convolution, LayerNorm, a linear layer to four times the channels, GELU and one back; a shortcut.

    The branch is scaled, channel by channel, before its input is added. A subclass names the layers.
    """

    drop_path: DropPath | None

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        scale, convolution, norm, widen, narrow = self.layers()
        hidden = saved(widen(norm(convolution(images))))
        branch = saved(narrow(gelu(hidden)))
        branch = branch * scale.reshape(1, 1, 1, -1).astype(branch.dtype)
        return images + (branch if self.drop_path is None else self.drop_path(branch, train))

    def layers(self) -> tuple[jax.Array, Conv, LayerNorm, Conv | Linear, Conv | Linear]:
        """Return the scale, the convolution, the normalisation, and the two linear layers."""
        raise TypeError(f"{type(self).__name__} defines no layers()")


class TimmBlock(ConvNeXtBlock):
    """A block under timm's keys: `gamma`, `conv_dw`, `norm`, `mlp.fc1`, `mlp.fc2`."""

    def __init__(self, width: int, drop_path: DropPath | None, convolutions: bool, *, rngs: nnx.Rngs):
        linear = _pointwise if convolutions else _linear
        self.gamma = nnx.Param(jnp.full(width, INITIAL_SCALE, jnp.float32))
        self.conv_dw = _depthwise(width, rngs)
        self.norm = LayerNorm(width, epsilon=EPSILON)
        layers = {"fc1": linear(width, WIDENING * width, rngs), "fc2": linear(WIDENING * width, width, rngs)}
        self.mlp: nnx.Dict[Any] = nnx.Dict(layers)
        self.drop_path = drop_path

    def layers(self) -> tuple[jax.Array, Conv, LayerNorm, Conv | Linear, Conv | Linear]:
        return self.gamma[...], self.conv_dw, self.norm, self.mlp["fc1"], self.mlp["fc2"]


class TorchvisionBlock(ConvNeXtBlock):
    """A block under torchvision's keys: `layer_scale`, `block.0`, `block.2`, `block.3`, `block.5`."""

    def __init__(self, width: int, drop_path: DropPath | None, *, rngs: nnx.Rngs):
        self.layer_scale = nnx.Param(jnp.full((width, 1, 1), INITIAL_SCALE, jnp.float32))
        self.block: nnx.Dict[Any] = nnx.Dict(
            {
                "0": _depthwise(width, rngs),
                "2": LayerNorm(width, epsilon=EPSILON),  # positions 1 and 4 are a change of layout and the GELU
                "3": _linear(width, WIDENING * width, rngs),
                "5": _linear(WIDENING * width, width, rngs),
            }
        )
        self.drop_path = drop_path

    def layers(self) -> tuple[jax.Array, Conv, LayerNorm, Conv | Linear, Conv | Linear]:
        return self.layer_scale[...], self.block["0"], self.block["2"], self.block["3"], self.block["5"]


class Stage(NamedTuple):
    """A LayerNorm and a convolution that halve the maps, which the first stage has not, and blocks."""

    shrinking: tuple[LayerNorm, PatchConv] | None
    blocks: Iterable[Any]


class ConvNeXt(Classifier):
    """A ConvNeXt for images of any size from 32×32; published for 224×224.

    Features: f0 the stem (patches of 4×4 and LayerNorm), f1 to f4 the stages, f5 the pooled and normalised embedding.
    There is no ReLU, so the preactivations are the features themselves, and no BatchNorm.

    A subclass creates the layers and lists them in `parts`.
    """

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        (patches, norm), stages, closing, classifier = self.parts()
        check_image_size(images, halvings=len(stages) + 1)
        features = [norm(patches(images))]
        for shrinking, blocks in stages:
            out = features[-1]
            if shrinking is not None:
                out = shrinking[1](shrinking[0](out))
            for block in blocks:
                out = block(out, train)
            features.append(out)
        embedding = closing(global_average_pool(features[-1]))
        return Outputs(classifier(embedding), (*features, embedding), tuple(features), classifier.function())

    def parts(self) -> tuple[tuple[PatchConv, LayerNorm], list[Stage], LayerNorm, Linear]:
        """Return the stem, the stages, the last LayerNorm and the classifier."""
        raise TypeError(f"{type(self).__name__} defines no parts()")


class TimmConvNeXt(ConvNeXt):
    """A ConvNeXt under timm's keys: `stem.0`, `stages.0.blocks.0.gamma`, …, `head.norm`, `head.fc`.

    Args:
      plan: its stages.
      num_classes: K.
      drop_path: the probability with which the last block's branch is left out; it grows from 0 over the blocks.
      channels: channels of the images.
      rngs: keys of the initial weights, and of dropout.
    """

    def __init__(self, plan: Plan, *, num_classes: int, drop_path: float = 0.0, channels: int = 3, rngs: nnx.Rngs):
        drops = iter(drop_paths(drop_path, sum(plan.depths), rngs=rngs))
        first, last = plan.widths[0], plan.widths[-1]
        self.stem: nnx.List[Any] = nnx.List([_patches(channels, first, 4, rngs), LayerNorm(first, epsilon=EPSILON)])
        stages = []
        for position, (depth, width) in enumerate(zip(plan.depths, plan.widths, strict=True)):
            shrinking = {"downsample": _shrinking(plan.widths[position - 1], width, rngs)} if position else {}
            blocks = [TimmBlock(width, next(drops), plan.convolutions, rngs=rngs) for _ in range(depth)]
            stages.append(nnx.Dict({**shrinking, "blocks": stack_blocks(blocks[0], blocks[1:])}))
        self.stages: nnx.List[Any] = nnx.List(stages)
        head = {"norm": LayerNorm(last, epsilon=EPSILON), "fc": _linear(last, num_classes, rngs)}
        self.head: nnx.Dict[Any] = nnx.Dict(head)

    def parts(self) -> tuple[tuple[PatchConv, LayerNorm], list[Stage], LayerNorm, Linear]:
        stages = [
            Stage(tuple(stage["downsample"]) if "downsample" in stage else None, stage["blocks"])
            for stage in self.stages
        ]
        return tuple(self.stem), stages, self.head["norm"], self.head["fc"]


class TorchvisionConvNeXt(ConvNeXt):
    """A ConvNeXt under torchvision's keys: `features.0.0`, `features.1.0.layer_scale`, …, `classifier.2`.

    Args: as those of `TimmConvNeXt`.
    """

    def __init__(self, plan: Plan, *, num_classes: int, drop_path: float = 0.0, channels: int = 3, rngs: nnx.Rngs):
        drops = iter(drop_paths(drop_path, sum(plan.depths), rngs=rngs))
        first, last = plan.widths[0], plan.widths[-1]
        parts: list[nnx.List[Any]] = [nnx.List([_patches(channels, first, 4, rngs), LayerNorm(first, epsilon=EPSILON)])]
        for position, (depth, width) in enumerate(zip(plan.depths, plan.widths, strict=True)):
            if position:
                parts.append(_shrinking(plan.widths[position - 1], width, rngs))
            blocks = [TorchvisionBlock(width, next(drops), rngs=rngs) for _ in range(depth)]
            parts.append(stack_blocks(blocks[0], blocks[1:]))
        self.features: nnx.List[Any] = nnx.List(parts)
        norm, classifier = LayerNorm(last, epsilon=EPSILON), _linear(last, num_classes, rngs)
        self.classifier: nnx.Dict[Any] = nnx.Dict({"0": norm, "2": classifier})  # position 1 flattens

    def parts(self) -> tuple[tuple[PatchConv, LayerNorm], list[Stage], LayerNorm, Linear]:
        stem, first, *rest = self.features
        pairs = zip(rest[::2], rest[1::2], strict=True)
        stages = [Stage(None, first), *(Stage(tuple(shrinking), blocks) for shrinking, blocks in pairs)]
        return tuple(stem), stages, self.classifier["0"], self.classifier["2"]


def _patches(inputs: int, outputs: int, size: int, rngs: nnx.Rngs) -> PatchConv:
    return PatchConv(inputs, outputs, size, kernel_init=_normal, bias_init=zeros, rngs=rngs)


def _shrinking(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.List[Any]:
    return nnx.List([LayerNorm(inputs, epsilon=EPSILON), _patches(inputs, outputs, 2, rngs)])


def _depthwise(width: int, rngs: nnx.Rngs) -> Conv:
    return Conv(width, width, 7, groups=width, bias=True, kernel_init=_normal, rngs=rngs)


def _pointwise(inputs: int, outputs: int, rngs: nnx.Rngs) -> Conv:
    return Conv(inputs, outputs, 1, bias=True, kernel_init=_normal, rngs=rngs)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> Linear:
    return Linear(inputs, outputs, kernel_init=_normal, bias_init=zeros, rngs=rngs)


@family(r"convnext_(?P<size>tiny|small|base)", ("convnext_tiny", "convnext_small", "convnext_base"), size=224)
def torchvision_convnext(
    size: str, *, num_classes: int, drop_path: float = 0.0, channels: int = 3, rngs: nnx.Rngs
) -> ConvNeXt:
    """Build a ConvNeXt under torchvision's keys."""
    return TorchvisionConvNeXt(PLANS[size], num_classes=num_classes, drop_path=drop_path, channels=channels, rngs=rngs)


@family(
    r"timm_convnext_(?P<size>tiny|small|base)",
    ("timm_convnext_tiny", "timm_convnext_small", "timm_convnext_base"),
    size=224,
)
@family(
    r"convnext_(?P<size>atto|femto|pico|nano)",
    ("convnext_atto", "convnext_femto", "convnext_pico", "convnext_nano"),
    size=224,
)
def timm_convnext(
    size: str, *, num_classes: int, drop_path: float = 0.0, channels: int = 3, rngs: nnx.Rngs
) -> ConvNeXt:
    """Build a ConvNeXt under timm's keys."""
    return TimmConvNeXt(PLANS[size], num_classes=num_classes, drop_path=drop_path, channels=channels, rngs=rngs)
