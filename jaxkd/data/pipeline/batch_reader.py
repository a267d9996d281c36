"""Read batches from a source of images, the work of the decoding processes, and keep count of unreadable images."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from jaxkd.data.interop import brief, image_and_label
from jaxkd.data.pipeline.decode import BrokenImageError, StoredImage, decode
from jaxkd.types import Batch

_NAMED = 5


class RandomAccess(Protocol):
    """N labelled images: `source[i]` is `(image, label)` or a dictionary of both, for i from 0 to N-1.

    An image is the bytes of a file, a path, uint8 pixels `[H, W]` or `[H, W, C]`, or Pillow's; a label is an integer.
    An `OSError` counts as an unreadable image. Sources travel to the processes that decode, so they must be picklable.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> tuple[StoredImage, int] | Mapping[str, Any]: ...


class BatchIndices(NamedTuple):
    """The examples of one batch, and what seeds their augmentation.

    Attributes:
      index: `[b]` example numbers; -1 for nothing, to fill a batch up.
      position: `[b]` places in the epoch. With `seed` and `epoch` they decide what augmentation does to an example.
      seed: of the run, at least 0.
      epoch: at least 0.
    """

    index: npt.NDArray[np.integer]  # type: ignore[assignment]  # hides tuple.index, which nothing needs here
    position: npt.NDArray[np.integer]
    seed: int
    epoch: int


class Plan(Protocol):
    """The batches of some epochs, one after the other; it is sent to the processes that decode."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> BatchIndices: ...


class Unreadable(NamedTuple):
    """An image that could not be read.

    Attributes:
      number: the example's number in its source.
      what: its path, or "example" and the number.
      reason: why.
    """

    number: int
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what} ({self.reason})"


@dataclass(frozen=True)
class BatchReader:
    """Reads batches from a source; picklable if the source and the view are.

    What it reads depends on the batch's indices alone. An image that cannot be read is replaced by the next one of the
    source that can, or its place stays empty.

    Attributes:
      source: where the images are.
      view: takes a Pillow image, and a generator if it is random, and gives uint8 pixels `[H, W, C]`.
      random: whether the view is random.
      substitute: whether unreadable images are replaced.
      classes: labels are below this.
      max_consecutive_errors: how many images in a row may be unreadable.
      title: what the data set is called in errors.
      shape: `(H, W, C)` of all views; None accepts any, for `read` alone.
    """

    source: RandomAccess
    view: Callable[..., npt.NDArray[np.uint8]]
    random: bool
    substitute: bool
    classes: int
    max_consecutive_errors: int
    title: str
    shape: tuple[int, ...] | None = None

    def __call__(self, indices: BatchIndices) -> tuple[Batch, tuple[Unreadable, ...]]:
        """Read one batch.

        Returns:
          The batch as NumPy arrays: uint8 pixels, labels, and the numbers of the examples that were read, all 0, 0 and
          -1 where there is none; and the images that could not be read for it.

        Raises:
          TypeError, ValueError, RuntimeError: as `read`.
          IndexError: a number that the source does not have.
          UnreadableImages: more than `max_consecutive_errors` in a row, or all of them.
        """
        assert self.shape is not None
        count = len(indices.index)
        images = np.zeros((count, *self.shape), np.uint8)
        labels, index = np.zeros(count, np.int32), np.full(count, -1, np.int32)
        unreadable: list[Unreadable] = []
        for place, (number, position) in enumerate(zip(indices.index, indices.position, strict=True)):
            if number >= 0:
                seed = (indices.seed, indices.epoch, int(position))
                found, failed = self._first_readable(int(number), seed)
                unreadable += failed
                if found is not None:
                    images[place], labels[place], index[place] = found
        return Batch(images, labels, index), tuple(unreadable)  # type: ignore[arg-type]  # still on the host

    def read(self, number: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], int] | Unreadable:
        """Return pixels and label of one example, or why there are none.

        Raises:
          TypeError, ValueError: the item, its label or its view is not what it must be; the error names the example.
          RuntimeError: the source or the view failed in another way.
        """
        what = f"example {number} of {self.title}"
        try:
            item = self.source[number]
        except OSError as error:
            return Unreadable(number, what, str(error))
        except Exception as error:
            raise RuntimeError(f"{what}: the source raised {type(error).__name__}: {error}") from error
        try:
            image, label = image_and_label(item)
        except TypeError as error:
            raise TypeError(f"{what}: a source gives (image, label); this one gave {error}") from None
        if isinstance(image, str | os.PathLike):
            what = os.fspath(image)
        label = self._checked_label(what, label)
        try:
            pixels = self.view(decode(image), rng) if self.random else self.view(decode(image))
        except BrokenImageError as error:
            return Unreadable(number, what, str(error))
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError  # subclasses may take other arguments
            raise kind(f"{what}: {error}") from error
        except Exception as error:
            raise RuntimeError(f"{what}: {self.view} raised {type(error).__name__}: {error}") from error
        self._check_pixels(what, pixels)
        return pixels, label

    def _first_readable(
        self, number: int, seed: tuple[int, int, int]
    ) -> tuple[tuple[npt.NDArray[np.uint8], int, int] | None, list[Unreadable]]:
        """Return pixels, label and number of the example or its substitute; and what was unreadable before it."""
        failed: list[Unreadable] = []
        count = len(self.source)
        if number >= count:
            raise IndexError(f"example {number} was picked, and {self.title} has {count}, numbered from 0")
        for further in range(count if self.substitute else 1):
            candidate = (number + further) % count
            found = self.read(candidate, np.random.default_rng(seed))
            if not isinstance(found, Unreadable):
                return (*found, candidate), failed
            failed.append(found)
            if len(failed) > self.max_consecutive_errors:
                break
        if self.substitute:
            raise too_many(failed, self.max_consecutive_errors, self.title)
        return None, failed

    def _checked_label(self, what: str, label: int) -> int:
        try:
            label = operator.index(label)
        except TypeError:
            raise TypeError(f"{what}: its label must be a class index; it is {brief(label)}") from None
        if not 0 <= label < self.classes:
            raise ValueError(
                f"{what}: label {label} is out of range: {self.classes} classes are numbered 0 to {self.classes - 1}"
            )
        return label

    def _check_pixels(self, what: str, pixels: npt.NDArray[Any]) -> None:
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise TypeError(f"{what}: {self.view} must give uint8 pixels [H, W, C]; it gave {brief(pixels)}")
        if self.shape is not None and pixels.shape != self.shape:
            raise ValueError(
                f"{what}: {self.view} gave pixels of shape {pixels.shape}, and elsewhere {self.shape}: all images must "
                "get the same shape, in training and in evaluation"
            )


class Register:
    """The unreadable images met so far, each counted once however often it is drawn."""

    def __init__(self, limit: int, title: str) -> None:
        self.found: dict[int, Unreadable] = {}
        self._limit, self._title = limit, title

    def add(self, found: Iterable[Unreadable]) -> None:
        """Warn of each that is new.

        Raises:
          UnreadableImages: there are more than the limit now.
        """
        for one in found:
            if one.number in self.found:
                continue
            self.found[one.number] = one
            if len(self.found) > self._limit:
                raise too_many(self.found.values(), self._limit, self._title)
            warnings.warn(
                f"{one} cannot be read: {len(self.found)} of at most {self._limit} in {self._title}",
                stacklevel=3,
            )


class UnreadableImages(OSError):  # noqa: N818 -- it names what was found, like FileNotFound
    """More images of a data set than tolerated cannot be read."""


def too_many(found: Iterable[Unreadable], limit: int, title: str) -> UnreadableImages:
    """Return the error for more than `limit` unreadable images, or for all that there are."""
    found = list(found)
    tolerated = f"; max_unreadable={limit}" if len(found) > limit else " and no other is left"
    named = "\n".join(f"  {one}" for one in found[:_NAMED])
    more = f"\n  and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return UnreadableImages(
        f"{len(found)} images of {title} cannot be read{tolerated}:\n{named}{more}\n"
        "Restore them or take them away; dataset.replace(max_unreadable=…) tolerates more"
    )
