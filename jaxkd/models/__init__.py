"""Networks by their published names. A model is called as `model(images, train=False) -> Outputs`."""

from jaxkd.models import resnet, vgg, wrn
from jaxkd.models.registry import create, names

list = names

__all__ = ["create", "list", "names", "resnet", "vgg", "wrn"]
