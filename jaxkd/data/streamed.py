"""Data sets that do not fit in memory: images are read, decoded and cropped while the device computes."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxkd.checks import check_at_least
from jaxkd.data.array_checks import checked_labels, checked_normalization
from jaxkd.data.dataset import LabelledImages, checked_choice
from jaxkd.data.interop import class_names_of, image_and_label
from jaxkd.data.pipeline.batch_reader import (
    BatchReader,
    Plan,
    RandomAccess,
    Register,
    Unreadable,
    UnreadableImages,
    too_many,
)
from jaxkd.data.pipeline.workers import check_installed, processes, read_ahead
from jaxkd.data.transforms.resized_crop import RandomResizedCrop, ResizedCentreCrop
from jaxkd.types import IMAGENET_NORMALIZATION, Batch, Normalization


def views(image_size: int) -> tuple[RandomResizedCrop, ResizedCentreCrop]:
    """Return ImageNet's usual views for training and evaluation, at another size: 224 of 256 in proportion.

    Example:
      >>> views(160)[1]
      ResizedCentreCrop(resize=183, size=160)
    """
    return RandomResizedCrop(image_size), ResizedCentreCrop(round(image_size * 256 / 224), image_size)


@runtime_checkable
class NamedExamples(Protocol):
    """A source that has names for its examples, which stay when others come or go."""

    def example_names(self) -> Iterable[str]:
        """Return the name of each, in their order."""


TRAINING_VIEW, EVALUATION_VIEW = views(224)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StreamedDataset(LabelledImages):
    """N labelled images that are read when they are needed: the counterpart of `Dataset` for ImageNet and its like.

    Attributes:
      source: where they are; anything with `len(source)` and `source[i]` that gives `(image, label)` or a dictionary of
        both. An image is the bytes of a file, a path, an image of Pillow's, or uint8 pixels, grey, RGB or RGBA, of any
        size; a label is an integer from 0 to K-1. It must be picklable, and safe to read from several threads.
      class_names: K names.
      normalization: mean and standard deviation per channel, where pixels run from 0 to 1.
      augmentation: the view to train on: takes a Pillow image in mode RGB and a `numpy.random.Generator` and gives
        uint8 pixels `[H, W, C]`. None trains on the view below.
      view: the view to evaluate: takes a Pillow image in mode RGB and gives pixels of the same shape.
      name: what the images are called in logs and errors.
      workers: processes that decode; 0 decodes in threads of this process. None starts one for each processor, at most
        32, and none for fewer than four processors, or if the script that Python was started with has no
        `if __name__ == "__main__":`, because each process imports it.
      max_unreadable: how many different images may turn out unreadable. Each is named in a warning. Training takes the
        next readable one of the source in its place, evaluation leaves it out.
      balanced: whether an epoch of training draws every class equally often, as `Dataset` has it.

      image_shape: height, width and channels of the views.

    The first readable image is read when a data set is made, to find mistakes while they are cheap.

    Raises:
      ImportError: Grain or Pillow is missing.
      TypeError, ValueError: the source has no images, or its first one, its label or its views are not as above.
      UnreadableImages: the first images cannot be read, more than `max_unreadable` of them.

    Example:
      >>> pixels = np.zeros((4, 40, 60, 3), np.uint8)
      >>> views = dict(augmentation=RandomResizedCrop(32), view=ResizedCentreCrop(36, 32))
      >>> StreamedDataset(list(zip(pixels, [0, 1, 1, 0])), ("cat", "dog"), **views)
      <StreamedDataset: 4 images of 32×32×3, 2 classes>
    """

    source: RandomAccess
    class_names: tuple[str, ...]
    normalization: Normalization = IMAGENET_NORMALIZATION
    augmentation: Callable[..., NDArray[np.uint8]] | None = TRAINING_VIEW
    view: Callable[..., NDArray[np.uint8]] = EVALUATION_VIEW
    name: str = ""
    workers: int | None = None
    max_unreadable: int = 100
    balanced: bool = False
    image_shape: tuple[int, int, int] = dataclasses.field(init=False)
    _register: Register = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        check_installed()
        if not (hasattr(self.source, "__getitem__") and hasattr(self.source, "__len__")):
            raise TypeError(
                f"{type(self.source).__name__} has no examples by number, as source[i] with len(source): give the data "
                "set that a loader reads from (loader.dataset), data.from_examples what can only be gone through, and "
                "batches to fit itself"
            )
        check_at_least(0, workers=operator.index(self.workers or 0), max_unreadable=operator.index(self.max_unreadable))
        names = tuple(str(name) for name in self.class_names)
        check_at_least(1, classes=len(names), images=len(self.source))
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "_register", Register(self.max_unreadable, self._title))
        shape = self._view_of_first(self.reader(train=False)).shape
        object.__setattr__(self, "image_shape", shape)
        object.__setattr__(self, "normalization", checked_normalization(self.normalization, shape[-1]))
        self._view_of_first(self.reader(train=True))

    @functools.cached_property
    def labels(self) -> NDArray[np.int32]:
        """Labels of all examples, `[N]` int32, for losses that remember every example.

        The first time, each item of the source is asked for, though nothing is decoded: seconds for a million files in
        folders, minutes for a million encoded records.
        """
        found = np.array([self._label(number) for number in range(len(self))])
        return checked_labels(found, len(self), self.num_classes)

    def _label(self, number: int) -> Any:
        try:
            return image_and_label(self.source[number])[1]
        except OSError as error:
            raise UnreadableImages(
                f"the label of example {number} of {self._title} cannot be read ({error}), and those of all examples "
                "are asked for: leave it out of the source"
            ) from error

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """The images that could not be read so far, in the order in which they were met; none in a changed copy."""
        return tuple(self._register.found.values())

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, plan: Plan, train: bool, start: int = 0) -> Iterator[Batch]:
        """Read batches of NumPy arrays, ahead of what is asked for, in the order of the plan.

        Images are uint8 `[b, H, W, C]`, labels and index int32 `[b]`. The index has the numbers of the examples that
        were read; where it is -1 there is none, and pixels and label are 0.

        What is delivered depends on the plan alone, not on `start` or the number of processes. Close the iterator (or
        let it go out of scope) to end early; no process is left behind.

        Args:
          plan: the batches, picklable.
          train: whether to augment, and to replace unreadable images.
          start: the first batch of the plan to deliver.

        Raises:
          UnreadableImages: more images than `max_unreadable` cannot be read.
          TypeError, ValueError, RuntimeError: an example is not what it must be; the error names it.

        Example:
          >>> dataset = from_source([(np.zeros((40, 60), np.uint8), 0)], ["cat"], workers=0)
          >>> from jaxkd.data import BatchIndices
          >>> plan = [BatchIndices(np.array([0, -1]), np.array([0, 1]), seed=0, epoch=1)]
          >>> [batch.index.tolist() for batch in dataset.batches(plan, train=False)]
          [[0, -1]]
        """
        check_at_least(0, start=start)
        return self._batches(plan, train, start, processes(self.workers))

    def _batches(self, plan: Plan, train: bool, start: int, workers: int) -> Iterator[Batch]:
        for batch, unreadable in read_ahead(self.reader(train), plan, start, workers):
            self._register.add(unreadable)
            yield batch

    def reader(self, train: bool) -> BatchReader:
        """Return what the decoding processes run: a function of the indices of one batch."""
        augmentation = self.augmentation if train else None
        return BatchReader(
            source=self.source,
            view=augmentation or self.view,
            random=augmentation is not None,
            substitute=train,
            classes=self.num_classes,
            max_consecutive_errors=self.max_unreadable,
            title=self._title,
            shape=getattr(self, "image_shape", None),
        )

    def subset(self, count: int) -> StreamedDataset:
        """Return the first `count` examples."""
        return self.replace(source=_Chosen(self.source, range(self._checked_count(count))))

    def take(self, indices: ArrayLike) -> StreamedDataset:
        """Return the examples at `indices` (integers or a boolean mask `[N]`), in that order."""
        return self.replace(source=_Chosen(self.source, np.arange(len(self))[checked_choice(indices)]))

    def _keys(self) -> Iterable[object] | None:
        return _names(self.source)

    @property
    def _title(self) -> str:
        return repr(self.name) if self.name else "the data set"

    def _view_of_first(self, reader: BatchReader) -> NDArray[np.uint8]:
        """Return the view of the first image that can be read."""
        failed = []
        for number in range(len(self.source)):
            found = reader.read(number, np.random.default_rng(0))
            if not isinstance(found, Unreadable):
                return found[0]
            failed.append(found)
            if len(failed) > self.max_unreadable:
                break
        raise too_many(failed, self.max_unreadable, self._title)


def from_source(
    source: RandomAccess,
    class_names: Sequence[str] | None = None,
    image_size: int = 224,
    mean: Sequence[float] = IMAGENET_NORMALIZATION.mean,
    std: Sequence[float] = IMAGENET_NORMALIZATION.std,
    workers: int | None = None,
    name: str = "",
) -> StreamedDataset:
    """Build a StreamedDataset from anything with `len(source)` and `source[i]`, with ImageNet's usual views.

    Training sees random parts of an image, resized to `image_size` and mirrored half of the time; evaluation sees the
    middle `image_size` of an image whose shorter side was resized to 8/7 of that (224 of 256).

    Args:
      source: gives `(image, label)` or a dictionary of both, as `StreamedDataset` has it; also a data set of
        PyTorch's or Hugging Face's whose images are not yet tensors. It is sent to the processes that decode: let it
        hold paths or offsets and open its files when it is read.
      class_names: K names; by default those that the source carries, as `classes` or `features`.
      image_size: height and width.
      mean: per channel, where pixels run from 0 to 1.
      std: likewise.
      workers: processes that decode, as `StreamedDataset` has it; 0 decodes in threads.
      name: for logs and errors.

    Raises:
      ImportError, TypeError, ValueError, UnreadableImages: as `StreamedDataset`.

    Example:
      >>> class Squares:
      ...     def __len__(self):
      ...         return 100
      ...
      ...     def __getitem__(self, number):
      ...         return np.full((48, 64), number, np.uint8), number % 2
      >>> from_source(Squares(), ["even", "odd"], image_size=32)
      <StreamedDataset: 100 images of 32×32×3, 2 classes>
    """
    names = class_names_of(source) if class_names is None else class_names
    if names is None:
        raise ValueError(f"{type(source).__name__} says no names of classes: give class_names, one for each class")
    return StreamedDataset(
        source,
        tuple(names),
        Normalization(tuple(mean), tuple(std)),
        *views(image_size),
        name=name,
        workers=workers,
    )


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Some examples of a source."""

    source: RandomAccess
    numbers: Sequence[int] | NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Any:
        return self.source[int(self.numbers[number])]


def _names(source: RandomAccess) -> Sequence[str] | None:
    """Return what a source calls its examples, also where they were chosen from it; None where it has no names."""
    if isinstance(source, _Chosen):
        names = _names(source.source)
        return None if names is None else [names[number] for number in source.numbers]
    return list(source.example_names()) if isinstance(source, NamedExamples) else None
