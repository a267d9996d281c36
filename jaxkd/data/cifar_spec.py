"""What CIFAR-10 and CIFAR-100 are, in whatever files they come."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from jaxkd.base import Normalization
from jaxkd.data.augmentation import Augmentation
from jaxkd.data.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class CifarSpec:
    """One of the two data sets.

    Attributes:
      name: the name it is loaded by.
      class_names: K names in the order of the labels.
      normalization: mean and standard deviation per channel that the distillation literature uses.
      coarse_classes: how many superclasses there are, or 0.
    """

    name: str
    class_names: tuple[str, ...]
    normalization: Normalization
    coarse_classes: int = 0

    def dataset(
        self, images: np.ndarray, labels: ArrayLike, split: str, title: str, class_names: tuple[str, ...] = ()
    ) -> Dataset:
        """Builds a split from what a file gave.

        Args:
          images: `[N, 32, 32, 3]` uint8.
          labels: `[N]` class indices.
          split: "train", which is augmented (pad 4, crop, flip), or "test".
          title: the file or folder, for errors.
          class_names: K names, where the file has its own.

        Raises:
          ValueError: anything that `Dataset` refuses, and superclasses given as classes.
        """
        labels = np.asarray(labels)
        # By chance, a hundred labels of CIFAR-100 would all be below 20 with probability 10⁻⁷⁰.
        if self.coarse_classes and len(labels) >= 100 and labels.max() < self.coarse_classes:
            raise ValueError(
                f"{title}: all {len(labels)} labels are below {self.coarse_classes}, so they are the "
                f"{self.coarse_classes} coarse labels; give the {len(self.class_names)} fine ones"
            )
        try:
            return Dataset(
                images,
                labels,
                class_names or self.class_names,
                self.normalization,
                Augmentation(pad=4, flip=True) if split == "train" else None,
                self.name,
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"{title}: {error}") from None


_CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"

_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR10 = CifarSpec(
    name="cifar10",
    class_names=tuple(_CIFAR10_NAMES.split()),
    normalization=Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
)

CIFAR100 = CifarSpec(
    name="cifar100",
    class_names=tuple(_CIFAR100_NAMES.split()),
    normalization=Normalization((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    coarse_classes=20,
)

SPECS = {spec.name: spec for spec in (CIFAR10, CIFAR100)}
