"""Networks by their published names. A model is called as `model(images, train=False) -> Outputs`."""

from jaxkd.models.description import Description, describe
from jaxkd.models.registry import create, names

list = names

__all__ = [
    "Description",
    "cifar_stem_resnet",
    "create",
    "describe",
    "imagenet_mobilenet_v2",
    "imagenet_resnet",
    "imagenet_shufflenet_v2",
    "imagenet_vgg",
    "list",
    "mobilenet_v1",
    "mobilenet_v2",
    "names",
    "resnet",
    "resnext",
    "shufflenet_v1",
    "shufflenet_v2",
    "vgg",
    "wrn",
]
