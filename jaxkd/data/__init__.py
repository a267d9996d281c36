"""Images with labels: where they come from, what they must look like, how they are augmented.

Example:
  >>> from jaxkd import data
  >>> train, test = data.load("digits")
  >>> len(train), len(test), train.num_classes
  (1437, 360, 10)
"""

from jaxkd.data.augmentation import Augmentation
from jaxkd.data.dataset import Dataset, from_arrays
from jaxkd.data.rand_augment import RandAugment
from jaxkd.data.sources import load, names

__all__ = ["Augmentation", "Dataset", "RandAugment", "from_arrays", "load", "names"]
