"""Batches of the user's own: what may come out of a loader, and what it is taken for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from jaxkd.training.expectations import Expectations
from jaxkd.types import Batch

IMAGES = ("image", "images", "img", "pixel_values")
LABELS = ("label", "labels")
"""Names in batches that are dictionaries, as tensorflow-datasets and Hugging Face write them."""

_FORMS = "give (images, labels), (images, labels, index), a jaxkd.Batch, or a dict of image and label"
_WEIGHTS = (
    "sample weights are not supported, but a loss of one's own can look them up, `self.weights[...][batch.index]`, see "
    "jaxkd.losses.Loss"
)


@dataclass(frozen=True)
class Stream:
    """Batches from the host: `(images, labels)`, `(images, labels, index)`, `Batch`, or dictionaries.

    Attributes:
      batches: can be iterated again for every epoch.
      expected: of images and labels.
      index_readers: names of the losses that need the index of each example.
      at_first: called once each with the shape `(H, W, C)` of the first batch's images.
      at_single: called once with that of a batch of one image.
    """

    batches: Iterable[Any]
    expected: Expectations = field(default_factory=Expectations)
    index_readers: tuple[str, ...] = ()
    at_first: tuple[Callable[[tuple[int, ...]], None], ...] = ()
    at_single: Callable[[tuple[int, ...]], None] | None = None
    _told: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    normalization: ClassVar[None] = None
    examples: ClassVar[None] = None

    def __iter__(self) -> Iterator[Batch]:
        """Yield checked batches of NumPy arrays; examples are numbered in order where no index is given.

        Raises:
          ValueError, TypeError: for what is no batch, or none for the network; with the cure.
        """
        position = 0
        for item in self.batches:
            images, labels, index = entries(item)
            images = self.expected.checked_images(images)
            self._tell(images)
            labels = self.expected.checked_labels(labels, len(images))
            end = position + len(labels)
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

    def _tell(self, images: NDArray[Any]) -> None:
        if "first" not in self._told:
            self._told.add("first")
            for check in self.at_first:
                check(images.shape[1:])
        if len(images) == 1 and self.at_single is not None and "single" not in self._told:
            self._told.add("single")
            self.at_single(images.shape[1:])


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
    if hasattr(item, "shape"):
        raise TypeError(
            f"a batch is an array of shape {tuple(item.shape)}: {_FORMS}; all images and labels at once are the tuple "
            "(images, labels)"
        )
    if not isinstance(item, tuple | list):
        raise TypeError(f"a batch is {_article(item)}: {_FORMS}")
    if item and isinstance(item[0], Mapping | tuple | list):
        raise TypeError(
            f"a batch is a {type(item).__name__} of {len(item)} examples, each {_article(item[0])}: stack them, as in "
            "(np.stack(images), np.array(labels))"
        )
    if len(item) not in (2, 3):
        raise TypeError(f"a batch has {len(item)} entries: {_FORMS}; {_WEIGHTS}")
    return item[0], item[1], item[2] if len(item) == 3 else None


def _of_mapping(item: Mapping[Any, Any]) -> tuple[Any, Any, Any]:
    images, labels = ([name for name in names if name in item] for names in (IMAGES, LABELS))
    keys = ", ".join(map(str, item))
    if len(images) != 1 or len(labels) != 1:
        raise TypeError(
            f"a batch is a dict of {keys or 'nothing'}: give one of {', '.join(IMAGES)} and one of {', '.join(LABELS)}"
            ", or (images, labels)"
        )
    if weights := [name for name in item if "weight" in str(name)]:
        raise TypeError(f"a batch has an entry {weights[0]!r}: leave it out; {_WEIGHTS}")
    return item[images[0]], item[labels[0]], item.get("index")


def checked_index(index: Any, images: int) -> NDArray[np.int32]:
    """Return the third entry of a batch as `[B]` int32, the position of each example in the training set.

    Raises:
      TypeError: for sample weights, one-hot labels and whatever else is no whole number for each image.
    """
    given = np.asarray(index)
    if given.dtype.kind not in "iu" or given.shape != (images,):
        raise TypeError(
            f"the third entry of a batch is the index of its examples in the training set, {images} integers; this one "
            f"is {given.dtype} of shape {given.shape}: leave it out; {_WEIGHTS}"
        )
    return given.astype(np.int32)


def _article(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
