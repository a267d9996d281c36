"""Images with labels: where they come from, what they must look like, how they are augmented.

Example:
  >>> from jaxkd import data
  >>> train, test = data.load("digits")
  >>> len(train), len(test), train.num_classes
  (1437, 360, 10)
"""

from jaxkd.data.augmentation import Augmentation
from jaxkd.data.crops import RandomResizedCrop, ResizedCentreCrop
from jaxkd.data.dataset import Dataset, from_arrays
from jaxkd.data.rand_augment import RandAugment
from jaxkd.data.reading import Loaded, Picks
from jaxkd.data.sources import load, names
from jaxkd.data.streamed import StreamedDataset, from_source
from jaxkd.data.unreadable import UnreadableImages

__all__ = [
    "Augmentation",
    "Dataset",
    "Loaded",
    "Picks",
    "RandAugment",
    "RandomResizedCrop",
    "ResizedCentreCrop",
    "StreamedDataset",
    "UnreadableImages",
    "from_arrays",
    "from_source",
    "load",
    "names",
]
