"""MobileNetV1 (Howard et al. 2017) for ImageNet: a depthwise 3×3 and a 1×1 convolution, thirteen times."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
from flax import nnx

from jaxkd.models.registry import Classifier, family
from jaxkd.nn.layers import BatchNorm, DefaultConv, Linear, Preactivation, conv_norm
from jaxkd.nn.stack import pooled_outputs, preactivations
from jaxkd.types import Outputs

STEM = 32
UNITS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Width and stride of each depthwise-separable unit."""

STAGE_ENDS = (1, 4, 6, 12, 14)
"""The layers before which f0 to f4 are taken; the stem is layer 0, the units are layers 1 to 13."""


class SeparableUnit(nnx.Dict[Any]):
    """A depthwise 3×3 and a 1×1 convolution, each with BatchNorm and ReLU, under their positions in PyTorch.

    It maps one preactivation to the next: the ReLU that closes a unit in the paper is applied by the unit after it.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        super().__init__(
            {
                "0": DefaultConv(inputs, inputs, 3, stride, groups=inputs, rngs=rngs),
                "1": BatchNorm(inputs),
                "3": DefaultConv(inputs, outputs, 1, rngs=rngs),
                "4": BatchNorm(outputs),
            }
        )

    def __call__(self, before: Preactivation, train: bool) -> Preactivation:
        out = conv_norm(self["0"], self["1"], before.relu(), train).relu()
        return conv_norm(self["3"], self["4"], out, train)


class MobileNetV1(Classifier):
    """MobileNetV1 at full width, for images of any size; published for 224×224.

    Features: f0 the stem, f1 to f4 the last maps of each size from a quarter of the image's down to a 32nd (all after
    their ReLU), f5 the pooled embedding. The preactivations are the same maps before their ReLU.
    """

    def __init__(self, *, num_classes: int, channels: int = 3, rngs: nnx.Rngs):
        stem = nnx.Dict({"0": DefaultConv(channels, STEM, 3, 2, rngs=rngs), "1": BatchNorm(STEM)})
        widths = (STEM, *(width for width, _ in UNITS))
        units = [
            SeparableUnit(inputs, outputs, stride, rngs=rngs)
            for inputs, (outputs, stride) in zip(widths, UNITS, strict=False)
        ]
        self.model = nnx.List([stem, *units])
        self.fc = Linear(widths[-1], num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        stem = self.model[0]
        stages = [self.model[begin:end] for begin, end in pairwise(STAGE_ENDS)]
        return pooled_outputs(preactivations(conv_norm(stem["0"], stem["1"], images, train), stages, train), self.fc)

    def preactivation_norms(self) -> tuple[BatchNorm, ...]:
        """Return the last BatchNorm before each of the preactivations."""
        return (self.model[0]["1"], *(self.model[end - 1]["4"] for end in STAGE_ENDS[1:]))


@family(r"MobileNetV1", ("MobileNetV1",), size=224)
def mobilenet_v1(*, num_classes: int, channels: int = 3, rngs: nnx.Rngs) -> MobileNetV1:
    """Build the ImageNet student of ResNet-50, with the name and the layout of the distillation repositories."""
    return MobileNetV1(num_classes=num_classes, channels=channels, rngs=rngs)
