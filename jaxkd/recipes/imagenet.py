"""The published accuracies on ImageNet-2012, and the settings that differ there from CIFAR-100's.

CTKD's runs weigh cross-entropy and distillation alike and learn the temperature within five epochs; DKD's authors use
temperature 1 there and almost no warm-up. The standardised run's settings are not stated: those of CIFAR-100 are taken.
"""

from __future__ import annotations

from typing import Any

from jaxkd.losses.weights import warmup
from jaxkd.recipes import papers
from jaxkd.recipes.table import table

_LARGE, _LIGHT = "resnet34-resnet18", "resnet50-MobileNetV1"

IMAGENET_TABLES = (
    table(
        papers.CURRICULUM, "ImageNet, ResNet-34 to ResNet-18", "imagenet-ctkd", _LARGE,
        {
            "kd": "70.83/90.31",
            "ctkd": "71.32/90.27",
            "dkd-constant": "71.13/90.31",
            "ctkd+dkd": "71.51/90.47",
        },
        data="imagenet2012",
    ),
    table(
        papers.DECOUPLED, "ImageNet, ResNet-34 to ResNet-18", "imagenet-mdistiller", _LARGE,
        {
            "dkd": "71.70",
        },
        data="imagenet2012",
    ),
    table(
        papers.DECOUPLED, "ImageNet, ResNet-50 to MobileNetV1", "imagenet-mdistiller", _LIGHT,
        {
            "kd": "70.50",
            "dkd": "72.05",
        },
        data="imagenet2012",
    ),
    table(
        papers.STANDARDIZATION, "ImageNet, ResNet-34 to ResNet-18", "imagenet-mdistiller", _LARGE,
        {
            "kd+std": "71.42",
        },
        data="imagenet2012",
    ),
)  # fmt: skip

_EQUAL = {"ce": 1.0, "kd": 1.0}
_DECOUPLED = {"temperature": 1.0, "weights": {"dkd": warmup(1)}}

IMAGENET_SETTINGS: dict[str, dict[str, Any]] = {
    f"kd/{_LARGE}": {"weights": _EQUAL},
    f"ctkd/{_LARGE}": {"weights": _EQUAL, "curriculum_epochs": 5},
    f"ctkd+dkd/{_LARGE}": {"curriculum_epochs": 5},
    f"dkd/{_LARGE}": {"beta": 0.5, **_DECOUPLED},
    f"dkd/{_LIGHT}": {"beta": 2.0, **_DECOUPLED},
    f"kd/{_LIGHT}": {"temperature": 1.0, "weights": {"ce": 0.5, "kd": 0.5}},
}
"""By the name of the recipe, what `get_method` is given."""
