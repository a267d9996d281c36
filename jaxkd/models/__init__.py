"""Networks by their published names. A model is called as `model(images, train=False) -> Outputs`."""

from jaxkd.models import (
    mixer,
    mobilenet_v1,
    mobilenet_v2,
    pit,
    pvt,
    resnet,
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
from jaxkd.models.registry import create, names

list = names

__all__ = [
    "Description",
    "create",
    "describe",
    "list",
    "mixer",
    "mobilenet_v1",
    "mobilenet_v2",
    "names",
    "pit",
    "pvt",
    "resnet",
    "resnet_imagenet",
    "shufflenet_v1",
    "shufflenet_v2",
    "swin",
    "t2t",
    "vgg",
    "vit",
    "wrn",
]
