"""Load images with labels, check them, and augment them.

Example:
  >>> from jaxkd import data
  >>> train, test = data.load("digits")
  >>> len(train), len(test), train.num_classes
  (1437, 360, 10)
"""

from jaxkd.data.dataset import Dataset, from_arrays
from jaxkd.data.examples import from_examples
from jaxkd.data.interop import channels_last
from jaxkd.data.load import load, names
from jaxkd.data.pipeline.batch_reader import BatchIndices, UnreadableImages
from jaxkd.data.streamed import StreamedDataset, from_source
from jaxkd.data.transforms.crop_and_resize import CropAndResize
from jaxkd.data.transforms.mixing import Mixing
from jaxkd.data.transforms.pad_crop_flip import Augmentation
from jaxkd.data.transforms.policies import AutoAugment, RandAugment, TimmRandAugment, TrivialAugment, policy
from jaxkd.data.transforms.random_erasing import RandomErasing
from jaxkd.data.transforms.resized_crop import RandomResizedCrop, ResizedCentreCrop

__all__ = [
    "Augmentation",
    "AutoAugment",
    "BatchIndices",
    "CropAndResize",
    "Dataset",
    "Mixing",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "ResizedCentreCrop",
    "StreamedDataset",
    "TimmRandAugment",
    "TrivialAugment",
    "UnreadableImages",
    "channels_last",
    "from_arrays",
    "from_examples",
    "from_source",
    "load",
    "names",
    "policy",
]
