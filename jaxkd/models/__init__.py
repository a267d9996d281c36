"""Networks by their published names. A model is called as `model(images, train=False) -> Outputs`."""

from jaxkd.models import (
    convnext,
    densenet,
    efficientnet,
    mixer,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    mobilenet_v4,
    pit,
    pvt,
    regnet,
    resnet,
    resnet_d,
    resnet_imagenet,
    shufflenet_v1,
    shufflenet_v2,
    swin,
    t2t,
    vgg,
    vit,
    wrn,
)
from jaxkd.models.description import Description, describe
from jaxkd.models.ensemble import Ensemble
from jaxkd.models.features import WithFeatures, with_features
from jaxkd.models.head import head, reset_classifier
from jaxkd.models.registry import create, names

list = names

__all__ = [
    "Description",
    "Ensemble",
    "WithFeatures",
    "convnext",
    "create",
    "densenet",
    "describe",
    "efficientnet",
    "head",
    "list",
    "mixer",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3",
    "mobilenet_v4",
    "names",
    "pit",
    "pvt",
    "regnet",
    "reset_classifier",
    "resnet",
    "resnet_d",
    "resnet_imagenet",
    "shufflenet_v1",
    "shufflenet_v2",
    "swin",
    "t2t",
    "vgg",
    "vit",
    "with_features",
    "wrn",
]
