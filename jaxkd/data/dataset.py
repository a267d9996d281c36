"""Images and labels in memory."""

from __future__ import annotations

import dataclasses
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxkd.data.array_checks import (
    checked_images,
    checked_labels,
    checked_normalization,
    classes_needed,
    pixel_statistics,
    warn_of_missing_classes,
)
from jaxkd.data.interop import stacked
from jaxkd.data.sampling import held_out
from jaxkd.data.transforms.pad_crop_flip import Augmentation
from jaxkd.types import Normalization, is_array


class LabelledImages(ABC):
    """The common part of data sets, in memory or read from files; each is a frozen dataclass.

    Attributes:
      class_names: K names.
      normalization: mean and standard deviation per channel, where pixels run from 0 to 1.
      name: what the images are called in logs and errors.
      image_shape: height, width and channels of an image.
      labels: `[N]` int32 class indices.
      balanced: whether training draws every class equally often.
    """

    class_names: tuple[str, ...]
    normalization: Normalization
    name: str
    image_shape: tuple[int, int, int]
    labels: Any
    balanced: bool

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    @property
    def examples(self) -> int:
        """N, the number of images."""
        return len(self)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel, where pixels run from 0 to 1."""
        return self.normalization.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel, where pixels run from 0 to 1."""
        return self.normalization.std

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    def __repr__(self) -> str:
        size = "×".join(map(str, self.image_shape))
        title = f"{type(self).__name__} {self.name!r}" if self.name else type(self).__name__
        return f"<{title}: {len(self)} images of {size}, {self.num_classes} classes>"

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some attributes changed, checked anew; arrays are shared."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]  # subclasses are dataclasses

    def split(self, fraction: float, seed: int = 0) -> tuple[Self, Self]:
        """Hold a part out, of each class alike: return the rest, and the part, which is not augmented.

        The same images are chosen every time, whatever the seed of a run is, so that no student sees what its teacher
        was judged by.

        Args:
          fraction: to hold out, above 0 and below 1; rounded for each class, but at least one image and not its only
            one.
          seed: another one chooses others.

        Raises:
          ValueError: for a fraction out of range, or where no class has two images.

        Example:
          >>> import numpy as np
          >>> whole = from_arrays(np.arange(320, dtype=np.uint8).reshape(20, 4, 4, 1), [0, 1] * 10)
          >>> rest, part = whole.split(0.2)
          >>> rest, np.bincount(part.labels).tolist()
          (<Dataset: 16 images of 4×4×1, 2 classes>, [2, 2])
        """
        chosen = held_out(self.labels, fraction, seed, self._keys())
        return self.take(~chosen), self.take(chosen).replace(augmentation=None, balanced=False)

    @abstractmethod
    def take(self, indices: ArrayLike) -> Self:
        """Return the examples at `indices` (integers or a boolean mask `[N]`), in that order."""

    def _keys(self) -> Iterable[object] | None:
        """Return what each example is called; None where they are numbered."""
        return None

    def _checked_count(self, count: int) -> int:
        """Return the number of examples that `subset` was asked for."""
        count = operator.index(count)
        if not 1 <= count <= len(self):
            raise ValueError(f"subset({count}) of {len(self)} images: ask for 1 to {len(self)}")
        return count


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset(LabelledImages):
    """N labelled images, as they are on disk: pixels are normalised and augmented later, on the device.

    Attributes:
      images: `[N, H, W, C]` uint8 pixels.
      labels: `[N]` int32 class indices from 0 to K-1; other integer types are converted.
      class_names: K names.
      normalization: mean and standard deviation per channel, or one for all, where pixels run from 0 to 1.
      augmentation: what training applies to the images; evaluation never does.
      name: where the images come from, for logs.
      balanced: whether an epoch of training draws every class equally often, in place of every image once: those of
        rare classes are repeated. Evaluation never does.
      image_shape: height, width and channels of an image.

    Raises:
      TypeError: pixels that are not uint8, or labels that are not integers.
      ValueError: any other defect: an empty set, channels first, labels out of range, lengths that differ, …

    Example:
      >>> import numpy as np
      >>> Dataset(np.zeros((4, 8, 8, 1), np.uint8), [0, 1, 1, 0], ("cat", "dog"), Normalization((0.5,), (0.25,)))
      <Dataset: 4 images of 8×8×1, 2 classes>
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    class_names: tuple[str, ...]
    normalization: Normalization
    augmentation: Augmentation | None = None
    name: str = ""
    balanced: bool = False
    image_shape: tuple[int, int, int] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        images = checked_images(np.asarray(self.images))
        names = tuple(str(name) for name in self.class_names)
        labels = checked_labels(np.asarray(self.labels), len(images), len(names))
        if self.augmentation is not None and not isinstance(self.augmentation, Augmentation):
            raise TypeError(
                f"augmentation is a jaxkd.data.Augmentation or None; got {self.augmentation!r}; policies and erasing "
                "are given to compile(augment=…)"
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "image_shape", images.shape[1:])
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "normalization", checked_normalization(self.normalization, images.shape[-1]))

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: ArrayLike) -> Dataset:
        """Return the examples at `indices` (integers or a boolean mask `[N]`), in that order."""
        chosen = checked_choice(indices)
        return self.replace(images=self.images[chosen], labels=self.labels[chosen])

    def subset(self, count: int) -> Dataset:
        """Return the first `count` examples, without copying them."""
        count = self._checked_count(count)
        return self.replace(images=self.images[:count], labels=self.labels[:count])


def checked_choice(indices: ArrayLike) -> NDArray[Any]:
    """Return the indices that `take` was given; raise a ValueError for none."""
    chosen = np.asarray(indices)
    if chosen.size == 0:
        raise ValueError("take was given no indices, and a Dataset holds at least one image")
    return chosen


def from_arrays(
    images: ArrayLike | Sequence[Any],
    labels: ArrayLike,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    num_classes: int | None = None,
    augmentation: Augmentation | None = None,
) -> Dataset:
    """Build a Dataset from plain arrays.

    Args:
      images: `[N, H, W, C]` uint8, or a list of images of one size; Pillow's become RGB.
      labels: `[N]` integers from 0 to K-1.
      class_names: K names; by default the numbers "0", "1", … as strings.
      mean: per channel, where pixels run from 0 to 1; by default that of these pixels, rounded to four digits.
      std: likewise. A test set wants its training set's: `from_arrays(…, mean=train.mean, std=train.std)`.
      num_classes: K; by default the number of names or, without names, the largest label plus one.
      augmentation: applied when the set is trained on.

    Raises:
      TypeError, ValueError: as `Dataset`; also where names and `num_classes` disagree.

    Warns:
      UserWarning: a class has no images: class 0 alone, as where labels count from 1; any, where K is not given and
        there are at least ten images per class; or most of them, where K is given and there are as many images, so that
        the labels may be coarser than meant, like CIFAR-100's 20 superclasses.

    Example:
      >>> import numpy as np
      >>> pixels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
      >>> dataset = from_arrays(pixels, [0, 1, 2, 1])
      >>> dataset.class_names, dataset.mean, dataset.std
      (('0', '1', '2'), (0.5,), (0.2898,))
    """
    if not is_array(images) and not isinstance(images, list | tuple):
        raise TypeError(
            f"images={type(images).__name__}: give an array of pixels or a list of images; data.from_examples reads "
            "data sets of other libraries"
        )
    pixels = checked_images(stacked(images))
    classes = np.asarray(labels)
    if class_names is not None and num_classes is not None and len(class_names) != num_classes:
        raise ValueError(
            f"num_classes={num_classes}, but there are {len(class_names)} class_names: pass only one of them"
        )
    if class_names is not None:
        count = len(class_names)
    elif num_classes is not None:
        count = operator.index(num_classes)
    else:
        count = classes_needed(classes)
    classes = checked_labels(classes, len(pixels), count)
    warn_of_missing_classes(classes, count, declared=class_names is not None or num_classes is not None)
    if mean is None or std is None:
        own = pixel_statistics(pixels)
        mean, std = (own.mean if mean is None else mean), (own.std if std is None else std)
    names = tuple(class_names) if class_names is not None else tuple(str(label) for label in range(count))
    return Dataset(pixels, classes, names, Normalization(mean, std), augmentation)  # type: ignore[arg-type]
