"""Bring data into one of three forms: arrays that stay on the device, images that are read from files, own batches."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from jaxkd.data import Augmentation, BatchIndices, Dataset, StreamedDataset
from jaxkd.data.array_checks import check_same_classes, classes_needed, pixel_statistics, warn_of_missing_classes
from jaxkd.data.examples import cure_of_examples, refuse_empty, refuse_endless, warn_of_left_out
from jaxkd.data.interop import IMAGES, columns, is_picture, one_by_one
from jaxkd.training.expectations import Expectations, logits_of
from jaxkd.types import Batch, Normalization, is_array

Data = Dataset | StreamedDataset | tuple[Any, Any] | Iterable[Any]

_LAST_INDEX = 2**31 - 1
_FORMS = "give (images, labels), (images, labels, index), a jaxkd.Batch, or a dict of image and label"
_WEIGHTS = (
    "sample weights are not supported, but a loss of your own can look them up, `self.weights[...][batch.index]`, see "
    "jaxkd.losses.Loss"
)


@dataclass(frozen=True, eq=False)
class InMemory:
    """Images and labels that fit on the device.

    Attributes:
      images: `[N, H, W, C]`, uint8 pixels or float32 values that are already normalised.
      labels: `[N]` int32.
      normalization: for uint8 pixels.
      augmentation: for training.
      num_classes: K, above every label.
      balanced: whether an epoch draws every class equally often.
    """

    images: NDArray[Any]
    labels: NDArray[np.int32]
    normalization: Normalization | None
    augmentation: Augmentation | None
    num_classes: int
    balanced: bool = False

    @property
    def examples(self) -> int:
        """N, the number of images."""
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image."""
        return self.images.shape[1:]


@dataclass(frozen=True)
class Stream:
    """Batches from the host: `(images, labels)`, `(images, labels, index)`, `Batch`, or dictionaries.

    Attributes:
      batches: can be iterated again for every epoch.
      expected: of images and labels.
      index_readers: names of the losses that need the index of each example.
      at_first: called once each with the shape `(H, W, C)` of the first batch's images.
      at_single: called once with that of a batch of which BatchNorm sees a part of one image.
      smallest_part: returns how many images of a batch of so many BatchNorm sees at once, at least.
      logits: returns how many a network has for images of a shape, where it does not say its number of classes.
      at_end: called once, after the first whole pass, with the number of classes that the labels need, and of images.
    """

    batches: Iterable[Any]
    expected: Expectations = field(default_factory=Expectations)
    index_readers: tuple[str, ...] = ()
    at_first: tuple[Callable[[tuple[int, ...]], None], ...] = ()
    at_single: Callable[[tuple[int, ...]], None] | None = None
    smallest_part: Callable[[int], int] = int
    logits: Callable[[tuple[int, ...]], int] | None = None
    at_end: Callable[[int, int], None] | None = None
    _told: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    normalization: ClassVar[None] = None
    examples: ClassVar[None] = None

    def __iter__(self) -> Iterator[Batch]:
        """Yield checked batches of NumPy arrays; examples are numbered in order where no index is given.

        Raises:
          ValueError, TypeError: for what is no batch, or none for the network; with the cure.
        """
        position, classes, expected = 0, 0, self.expected
        for item in self.batches:
            images, labels, index = entries(item)
            _refuse_extras(item)
            listed = isinstance(self.batches, list | tuple) and not is_picture(images) and len(self.batches) == 1
            if np.ndim(labels) == 0 and not listed:
                raise TypeError(
                    f"{type(self.batches).__name__} gives examples one by one: {cure_of_examples(self.batches)}"
                )
            images = expected.checked_images(images)
            self._tell(images)
            if expected.num_classes is None and self.logits is not None:
                expected = replace(expected, num_classes=self.logits(images.shape[1:]))
            labels = expected.checked_labels(labels, len(images))
            classes, end = max(classes, int(labels.max(initial=-1)) + 1), position + len(labels)
            if index is not None:
                numbers = checked_index(index, len(images))
            elif self.index_readers:
                raise ValueError(
                    f"{' and '.join(self.index_readers)} remembers every example and needs its position in the "
                    "training set, which these batches do not tell: give (images, labels, index)"
                )
            else:
                numbers = np.arange(position, end, dtype=np.int32)
            position = end
            yield Batch(images, labels, numbers)  # type: ignore[arg-type]  # still on the host
        if self.at_end is not None and "end" not in self._told:
            self._told.add("end")
            self.at_end(classes, position)

    def check_first(self) -> None:
        """Check the first batch, before anything is trained, where the batches can be gone through again.

        What PyTorch draws for it is given back: a loader that shuffles goes on as if nobody had looked.

        Raises:
          ValueError, TypeError: as going through them would.
        """
        if isinstance(self.batches, Iterator):
            return
        torch = sys.modules.get("torch")
        drawn = None if torch is None else torch.get_rng_state()
        next(iter(self), None)
        if torch is not None:
            torch.set_rng_state(drawn)

    def _tell(self, images: NDArray[Any]) -> None:
        if "first" not in self._told:
            self._told.add("first")
            for check in self.at_first:
                check(images.shape[1:])
        if self.at_single is not None and "single" not in self._told and self.smallest_part(len(images)) == 1:
            self._told.add("single")
            self.at_single(images.shape[1:])


Source = InMemory | Stream | StreamedDataset


def as_source(
    data: Data,
    network: nnx.Module | None = None,
    passes: int = 1,
    normalization: Normalization | None = None,
    training: bool = False,
) -> Source:
    """Bring data into one of the three forms, and check them against the network.

    Args:
      data: a `Dataset` or `StreamedDataset`; a tuple of arrays `(images, labels)`; or an iterable of batches that can
        be iterated every epoch.
      network: says how many classes and which images it was made for; without it they are not checked.
      passes: how often the data will be gone through.
      normalization: known for the network's images where it carries none itself.
      training: whether it is trained on these data: doubtful classes and sizes of images are told.

    Raises:
      TypeError: for anything else.
      ValueError: for arrays of the wrong shape, type or range, and a generator where several passes are needed.

    Warns:
      UserWarning: of classes without images, a network with more classes than the data, and one that was made for
        images of quite another size; of a `DataLoader` that leaves examples out of an evaluation.
    """
    expected = Expectations.of(network, normalization)
    source = _unchecked_source(data, expected, statistics=training)  # those of a part would shift it by itself
    if isinstance(source, Stream):
        if passes > 1 and iter(source.batches) is source.batches:
            raise ValueError(
                f"{type(data).__name__} can be gone through once, and {passes} times are needed: give a list or a "
                "loader, which start afresh every time"
            )
        refuse_empty(source.batches)
        if isinstance(data, list):
            entries(data[0])  # which says now what would be found when these data are first gone through
        if not training:
            warn_of_left_out(source.batches)
        logits = None if network is None else partial(logits_of, network)
        told: dict[str, Any] = {}
        if training:
            told = {"at_first": (expected.warn_of_size,), "at_end": partial(_warn_of_spare_classes, expected)}
        return replace(source, expected=expected, logits=logits, **told)
    labels = source.labels if isinstance(source, InMemory) else None
    expected.check_classes(source.num_classes, labels)
    expected.check_shape((1, *source.image_shape))
    if training:
        declared = not isinstance(data, tuple)
        if labels is not None:
            warn_of_missing_classes(labels, source.num_classes, declared)
        if declared:
            expected.warn_of_spare_classes(source.num_classes)
        elif labels is not None:
            _warn_of_spare_classes(expected, source.num_classes, len(labels))
        expected.warn_of_size(source.image_shape)
    return source


def _warn_of_spare_classes(expected: Expectations, classes: int, images: int) -> None:
    """Warn where the network has more classes than labels need, if there are enough images to tell."""
    if images >= 10 * (expected.num_classes or 1):
        expected.warn_of_spare_classes(classes)


def check_names(trained: Data, held_out: Data) -> None:
    """Refuse held-out images whose classes are numbered in another way than in training, as far as both are named.

    Raises:
      ValueError: with the first such class.
    """
    if isinstance(trained, Dataset | StreamedDataset) and isinstance(held_out, Dataset | StreamedDataset):
        check_same_classes(trained.class_names, held_out.class_names)


def _unchecked_source(data: Data, expected: Expectations, statistics: bool) -> Source:
    if isinstance(data, StreamedDataset):
        return data
    if isinstance(data, Dataset):
        return InMemory(
            data.images, data.labels, data.normalization, data.augmentation, data.num_classes, data.balanced
        )
    if isinstance(data, Batch):
        raise TypeError("cannot train on a single Batch: give a list of batches, [batch]")
    if isinstance(data, tuple) and data and (is_array(data[0]) or one_by_one(data[0])):
        return _from_arrays(data, expected, statistics)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping) and not is_array(data):
        refuse_endless(data)
        return Stream(data)
    if isinstance(data, Mapping):
        raise TypeError(
            f"cannot train on {type(data).__name__} of {', '.join(map(str, data)) or 'nothing'}: give a data.Dataset, "
            "one of its data sets, or two of its arrays as a tuple (images, labels); data.load('npz', path) reads "
            "those of a file"
        )
    if hasattr(data, "__getitem__") and not isinstance(data, str | bytes) and not is_array(data):
        name = type(data).__name__
        raise TypeError(f"{name} yields single examples, not batches: {cure_of_examples(data)}")
    raise TypeError(
        f"cannot train on {type(data).__name__}: give a data.Dataset, a tuple of arrays (images, labels), or an "
        "iterable of batches"
    )


def _from_arrays(arrays: tuple[Any, ...], expected: Expectations, statistics: bool) -> InMemory:
    if len(arrays) != 2:
        raise TypeError(
            f"a tuple of {len(arrays)} arrays: give (images, labels); examples are numbered in order, and sample "
            "weights are not supported (a loss of your own can look them up by batch.index)"
        )
    images, labels = expected.checked_images(arrays[0]), np.asarray(arrays[1])
    # As many classes as the labels need, if the network has fewer: a label beyond those is told with the cure.
    known = max(classes_needed(labels), expected.num_classes or 1)
    labels = replace(expected, num_classes=known).checked_labels(labels, len(images))
    normalization = None
    if images.dtype == np.uint8 and statistics:
        normalization = pixel_statistics(images)
        if min(normalization.std) == 0:
            if expected.normalization is None:
                raise ValueError(
                    f"channel {np.argmin(normalization.std)} of the images is the same everywhere, with no deviation "
                    "to be normalised with: give data.from_arrays(images, labels, mean=…, std=…)"
                )
            normalization = None
    return InMemory(images, labels, normalization, None, int(labels.max()) + 1)


def entries(item: Any) -> tuple[Any, Any, Any]:
    """Return images, labels and index of a batch; None where there is no index.

    Raises:
      TypeError: for what is no batch.

    Example:
      >>> entries({"image": "pixels", "label": "classes"})
      ('pixels', 'classes', None)
    """
    if isinstance(item, Batch):
        return item.images, item.labels, item.index
    if isinstance(item, Mapping):
        return _of_mapping(item)
    if is_array(item):
        raise TypeError(
            f"a batch is an array of shape {tuple(item.shape)}: {_FORMS}; all images and labels at once are the tuple "
            "(images, labels)"
        )
    if not isinstance(item, tuple | list):
        raise TypeError(f"a batch is {_article(item)}: {_FORMS}")
    if item and isinstance(item[0], Mapping | tuple | list) and not one_by_one(item[0]):
        raise TypeError(
            f"a batch is a {type(item).__name__} of {len(item)} examples, each {_article(item[0])}: stack them, as in "
            "(np.stack(images), np.array(labels))"
        )
    if len(item) not in (2, 3):
        raise TypeError(f"a batch has {len(item)} entries: {_FORMS}; {_WEIGHTS}")
    return item[0], item[1], item[2] if len(item) == 3 else None


def _refuse_extras(item: Any) -> None:
    """Raise a TypeError for parts of a batch that would be left aside."""
    if isinstance(item, Batch) and item.strong is not None:
        raise TypeError(
            "this Batch has a strong view, and your own batches have one view: give the loss that compares two a "
            "strong_view, a function of (key, images), which makes it of uint8 pixels"
        )
    if isinstance(item, Batch) and item.mixed is not None:
        raise TypeError(
            "this Batch has mixed labels, and your own batches have one label for each image: give "
            "compile(mixing=data.Mixing(…)), which mixes them on the device"
        )


def _of_mapping(item: Mapping[Any, Any]) -> tuple[Any, Any, Any]:
    images, labels = columns(item, "a batch")
    if weights := [name for name in item if "weight" in str(name)]:
        raise TypeError(f"a batch has an entry {weights[0]!r}: leave it out; {_WEIGHTS}")
    return item[images], item[labels], item.get("index")


def images_of(
    data: Any, expected: Expectations, batch_size: int
) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_] | None]]:
    """Yield images to predict, checked, and which of them could be read; None stands for all.

    Args:
      data: images `[N, H, W, C]`, a list of them one by one, a data set, or batches, of which labels are left aside.
      expected: by the network.
      batch_size: of what is read from files.

    Raises:
      TypeError, ValueError: as `as_source`.
    """
    if isinstance(data, Dataset):
        yield expected.checked_images(data.images), None
    elif isinstance(data, StreamedDataset):
        expected.check_shape((1, *data.image_shape))
        numbers = np.arange(len(data))
        parts = [numbers[start : start + batch_size] for start in range(0, len(data), batch_size)]
        for batch in data.batches([BatchIndices(part, part, 0, 0) for part in parts], train=False):
            yield np.asarray(batch.images), np.asarray(batch.index) >= 0
    elif is_array(data) or (isinstance(data, list) and not (data and _is_batch(data[0]))):
        yield expected.checked_images(data), None
    elif isinstance(data, Iterable) and not isinstance(data, tuple | str | bytes | Mapping):
        refuse_endless(data)
        warn_of_left_out(data)
        for item in data:
            images = _images_alone(item)
            if is_picture(images) or (is_array(images) and len(images.shape) == 3):
                raise TypeError(f"{type(data).__name__} gives examples one by one: {cure_of_examples(data)}")
            yield expected.checked_images(images), None
    else:
        cure = "of one image, give a list of it"
        if isinstance(data, tuple):
            cure = "leave labels out"
        elif isinstance(data, Mapping):
            cure = f"of {', '.join(map(str, data)) or 'nothing'}, give the images alone"
        elif isinstance(data, str | os.PathLike):
            cure = f"open {os.fspath(data)!r} with Pillow, and give a list of images"
        elif hasattr(data, "__getitem__"):
            cure = cure_of_examples(data)
        raise TypeError(
            f"predict takes images `[N, H, W, C]`, a data.Dataset or batches, and no {type(data).__name__}: {cure}"
        )


def _images_alone(item: Any) -> Any:
    """Return the images of a batch to predict, whose labels may be missing."""
    if is_array(item) or one_by_one(item):
        return item
    if isinstance(item, Mapping) and len(names := [name for name in IMAGES if name in item]) == 1:
        return item[names[0]]
    if isinstance(item, tuple | list) and len(item) == 1:
        return item[0]
    return entries(item)[0]


def _is_batch(item: Any) -> bool:
    """Tell batches in a list, or examples with their labels, from images."""
    if isinstance(item, Batch | Mapping) or one_by_one(item) or (is_array(item) and len(item.shape) == 4):
        return True
    images: Any = item[0] if isinstance(item, tuple | list) and len(item) in (1, 2, 3) else None
    return is_picture(images) or one_by_one(images) or (is_array(images) and len(images.shape) in (3, 4))


def checked_index(index: Any, images: int) -> NDArray[np.int32]:
    """Return the third entry of a batch as `[B]` int32, the position of each example in the training set.

    Raises:
      TypeError: for sample weights, one-hot labels and whatever else is no whole number for each image.
      ValueError: for negative numbers, and some that int32 does not hold.
    """
    given = np.asarray(index)
    if given.dtype.kind in "iu" and given.shape == (images,) and (given.min() < 0 or given.max() > _LAST_INDEX):
        wrong = given[(given < 0) | (given > _LAST_INDEX)][0]
        raise ValueError(
            f"the third entry of a batch is the index of its examples in the training set, from 0; this one has {wrong}"
        )
    if given.dtype.kind not in "iu" or given.shape != (images,):
        raise TypeError(
            f"the third entry of a batch is the index of its examples in the training set, {images} integers; this one "
            f"is {given.dtype} of shape {given.shape}: leave it out; {_WEIGHTS}"
        )
    return given.astype(np.int32)


def _article(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def add_step_axis(batch: Batch) -> Batch:
    """Return a batch as the `[1, B, …]` that a compiled loop takes one step on."""
    return jax.tree.map(lambda array: array[None], batch)
