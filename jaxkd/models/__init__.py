"""Networks by their published names. A model is called as `model(images, train=False) -> Outputs`."""

from jaxkd.models import mobilenet_v1, mobilenet_v2, resnet, resnet_imagenet, shufflenet_v1, shufflenet_v2, vgg, wrn
from jaxkd.models.description import Description, describe
from jaxkd.models.features import WithFeatures, with_features
from jaxkd.models.head import head, reset_classifier
from jaxkd.models.registry import create, names

list = names

__all__ = [
    "Description",
    "WithFeatures",
    "create",
    "describe",
    "head",
    "list",
    "mobilenet_v1",
    "mobilenet_v2",
    "names",
    "reset_classifier",
    "resnet",
    "resnet_imagenet",
    "shufflenet_v1",
    "shufflenet_v2",
    "vgg",
    "with_features",
    "wrn",
]
