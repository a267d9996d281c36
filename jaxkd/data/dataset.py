"""Images and labels in memory, and the checks that keep silent mistakes out of them."""

from __future__ import annotations

import dataclasses
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxkd.checks import warn_caller
from jaxkd.data.interop import stacked
from jaxkd.data.sampling import held_out
from jaxkd.data.transforms.pad_crop_flip import Augmentation
from jaxkd.types import Normalization, is_array

_CHANNELS = (1, 3, 4)
_MANY_CLASSES = 2**24
"""No set of images has as many classes, and no network as many logits."""


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
        images = _checked_images(np.asarray(self.images))
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
    pixels = _checked_images(stacked(images))
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


def _checked_images(images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.dtype != np.uint8:
        raise TypeError(
            f"Dataset takes uint8 pixels 0…255 and normalises them itself; these are {images.dtype}: "
            f"{pixel_cure(images)}"
        )
    if images.ndim != 4:
        cure = {
            2: "unflatten them, images.reshape(-1, height, width, channels)",
            3: "give grey images a channel axis, images[..., None], and a single image a batch axis, images[None]",
        }.get(images.ndim, "reshape them")
        raise ValueError(f"images must be [N, H, W, C]; their shape is {images.shape}: {cure}")
    if 0 in images.shape:
        raise ValueError(f"there are no images, or no pixels in them: their shape is {images.shape}")
    check_channels_last(images.shape)
    return images


def check_channels_last(shape: tuple[int, ...]) -> None:
    """Refuse images `[N, C, H, W]`: one, three or four rows that are not as long, and another number of channels.

    Raises:
      ValueError: with the cure.
    """
    if shape[1] in _CHANNELS and shape[3] not in _CHANNELS and shape[1] != shape[2]:
        raise ValueError(
            f"images of shape {shape} look like channels first (NCHW), and jaxkd takes channels last (NHWC): "
            "pass images.transpose(0, 2, 3, 1), or images.permute(0, 2, 3, 1) of PyTorch's; "
            "data.channels_last(loader) turns what a loader gives"
        )


def warn_of_missing_classes(labels: NDArray[Any], classes: int, declared: bool) -> None:
    """Warn once where labels leave classes empty in a way that is seldom meant.

    Args:
      labels: `[N]`, from 0 to K-1.
      classes: K.
      declared: whether somebody said K, so that some of the classes may be absent; else it is the last label plus one.
    """
    empty = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
    many = len(labels) >= 10 * classes
    if empty.tolist() == [0] and (many or classes > 2):
        warn_caller(
            f"class 0 has no images, and the labels run from 1 to {classes - 1}: if they count from 1, pass labels - "
            f"1; as they are, a network needs {classes} classes"
        )
    elif many and 2 * (classes - len(empty)) < classes:
        warn_caller(
            f"{len(labels)} labels use only {classes - len(empty)} of {classes} classes: check that they are not "
            "coarser than meant"
        )
    elif many and len(empty) and not declared:
        some = ", ".join(map(str, empty[:5])) + (" and more" if len(empty) > 5 else "")
        warn_caller(
            f"no images in class {some}, of {classes} that the labels need: number the classes without gaps, or say "
            f"that they are meant with num_classes={classes} in data.from_arrays"
        )


def pixel_cure(images: NDArray[Any]) -> str:
    """Return how pixels of another type become uint8, as errors say it.

    Example:
      >>> pixel_cure(np.array([0, 255]))
      'pass images.astype(np.uint8)'
    """
    if images.dtype.kind not in "biuf" or images.size == 0:
        return "pass an array of pixels"
    low, high = images.min(), images.max()
    if images.dtype == np.uint16 and high > 255:
        bits = int(high).bit_length()
        return f"they have {bits} bits, so pass the upper 8, (images >> {bits - 8}).astype(np.uint8)"
    if low < 0 or high > 255 or not np.isfinite([low, high]).all():
        return (
            f"they run from {low:.4g} to {high:.4g}, so undo their normalisation or load the pixels as they were stored"
        )
    if high <= 1:
        return "they run from 0 to 1, so pass np.rint(images * 255.0).astype(np.uint8)"
    return "pass np.rint(images).astype(np.uint8)" if images.dtype.kind == "f" else "pass images.astype(np.uint8)"


def checked_labels(labels: NDArray[Any], images: int, classes: int) -> NDArray[np.int32]:
    """Return `[N]` labels as int32, one class index per image, or raise what `Dataset` raises."""
    if classes < 1:
        raise ValueError(f"there are {classes} classes; give at least one name")
    if labels.ndim != 1:
        cure = "flatten them"
        if labels.ndim == 2:
            one_hot = labels.dtype.kind in "biuf" and ((labels == 0) | (labels == 1)).all()
            seen = "one-hot" if one_hot else "scores or probabilities"
            cure = f"take labels.argmax(axis=1), {labels.shape[1]} columns being {seen}, one for each class"
            if labels.shape[1] == 1:
                cure = "pass labels[:, 0]"
            elif one_hot and (labels.sum(axis=1) != 1).any():
                cure = "an image has one class here, and some of these have several or none"
        raise ValueError(f"labels must be [N] class indices; their shape is {labels.shape}: {cure}")
    if len(labels) != images:
        raise ValueError(f"{images} images, but {len(labels)} labels: each image needs one")
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"labels must be integers; these are {labels.dtype}, such as {labels[:1].tolist()[0]!r}: "
            f"{_label_cure(labels)}"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if outside.size:
        first = int(outside[0])
        hint = "do they count from 1, or is the number of classes wrong?"
        if labels[first] < 0:
            hint = "leave such images out, if it marks those that nobody labelled"
        raise ValueError(
            f"label {labels[first]} at position {first} is out of range: {classes} classes are numbered 0 to "
            f"{classes - 1} ({outside.size} such labels; {hint})"
        )
    return labels.astype(np.int32)


def _label_cure(labels: NDArray[Any]) -> str:
    kinds = {type(label) for label in labels.tolist()}
    if kinds <= {str} or kinds <= {bytes}:
        return (
            "number them by names, labels = np.unique(labels, return_inverse=True), and give the names as class_names "
            "to data.from_arrays"
        )
    whole = kinds <= {int, bool} or (labels.dtype.kind == "f" and (labels == np.rint(labels)).all())
    return "pass labels.astype(np.int32)" if whole else "they are no class indices"


def classes_needed(labels: NDArray[Any]) -> int:
    """Return the least number of classes that labels need: the largest plus one, and 1 for what is no number.

    Raises:
      ValueError: for labels that are no class indices, but identifiers.

    Example:
      >>> classes_needed(np.array([0, 2, 1])), classes_needed(np.array(["oak", "ash"]))
      (3, 1)
    """
    if not labels.size or labels.dtype.kind not in "iu":
        return 1
    largest = int(labels.max())
    if largest >= _MANY_CLASSES:
        raise ValueError(
            f"the labels reach {largest}, and are identifiers rather than class indices: number the classes from 0, "
            "names, labels = np.unique(labels, return_inverse=True)"
        )
    return max(largest + 1, 1)


def checked_normalization(normalization: Normalization, channels: int) -> Normalization:
    """Return the statistics as plain numbers, or raise what `Dataset` raises for images of so many channels."""
    mean, std = (tuple(float(value) for value in np.atleast_1d(values)) for values in normalization)
    for title, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ValueError(
                f"{title} has {len(values)} values, but the images have {channels} channels: "
                f"give {channels}, or one for all"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{title}={values} is not finite")
    if min(std) <= 0:
        raise ValueError(
            f"std={std} must be positive in every channel: give one, such as std=(0.25,), where pixels are constant"
        )
    if max(abs(value) for value in mean) > 1:
        raise ValueError(f"mean={mean} belongs to the scale where pixels run from 0 to 1: divide mean and std by 255")
    return Normalization(mean, std)


def pixel_statistics(images: NDArray[np.uint8]) -> Normalization:
    """Return mean and standard deviation of each channel of `[N, H, W, C]`, rounded to four digits."""
    # Whole-number histograms: exact, and no floating-point copy of the images.
    grey = np.arange(256) / 255.0
    means, stds = [], []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        mean = float(share @ grey)
        means.append(round(mean, 4))
        stds.append(round(float(np.sqrt(share @ (grey - mean) ** 2)), 4))
    return Normalization(tuple(means), tuple(stds))
