"""Turns what a batch consists of into pixels: the work of the decoding processes."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from jaxkd.data.pipeline.decode import BrokenImageError, StoredImage, decode

_NAMED = 5


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


class UnreadableImages(OSError):  # noqa: N818 -- it names what was found, like FileNotFound
    """More images of a data set than tolerated cannot be read."""


def too_many(found: Iterable[Unreadable], limit: int, title: str) -> UnreadableImages:
    """The error for more than `limit` of them, or for all that there are."""
    found = list(found)
    tolerated = f"; max_unreadable={limit}" if len(found) > limit else " and no other is left"
    named = "\n".join(f"  {one}" for one in found[:_NAMED])
    more = f"\n  and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return UnreadableImages(
        f"{len(found)} images of {title} cannot be read{tolerated}:\n{named}{more}\n"
        "Restore them or take them away; dataset.replace(max_unreadable=…) tolerates more"
    )


class Register:
    """The unreadable images that were met so far, each counted once however often it is drawn."""

    def __init__(self, limit: int, title: str) -> None:
        self.found: dict[int, Unreadable] = {}
        self._limit, self._title = limit, title

    def add(self, found: Iterable[Unreadable]) -> None:
        """Warns of each that is new.

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


class RandomAccess(Protocol):
    """N labelled images: `source[i]` is `(image, label)`, for i from 0 to N-1.

    An image is the bytes of a file, a path, or uint8 pixels `[H, W]` or `[H, W, C]`; a label is an integer. An
    `OSError` counts as an unreadable image. Sources travel to the processes that decode, so they must be picklable.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> tuple[StoredImage, int]: ...


class Picks(NamedTuple):
    """What one batch consists of.

    Attributes:
      index: `[b]` int64 example numbers; -1 for nothing, to fill a batch up.
      position: `[b]` places in the epoch. With `seed` and `epoch` they decide what augmentation does to an example.
      seed: of the run, at least 0.
      epoch: at least 0.
    """

    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index, which no picks need
    position: np.ndarray
    seed: int
    epoch: int


class Plan(Protocol):
    """What the batches of some epochs consist of, one after the other; it is sent to the processes that decode."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Picks: ...


class Loaded(NamedTuple):
    """One batch on the host.

    Attributes:
      images: `[b, H, W, C]` uint8 pixels, 0 where there is no example.
      labels: `[b]` int32, 0 where there is no example.
      index: `[b]` int32 numbers of the examples that were delivered; -1 where there is none.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray  # type: ignore[assignment]


class Read(NamedTuple):
    """A batch, with the images that could not be read for it."""

    loaded: Loaded
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True)
class Reader:
    """Reads batches from a source; picklable if the source and the view are.

    What it reads depends on the picks alone. An image that cannot be read is replaced by the next one of the source
    that can, or its place stays empty.

    Attributes:
      source: where the images are.
      view: takes a Pillow image, and a generator if it is random, and gives uint8 pixels `[H, W, C]`.
      random: whether the view is random.
      substitute: whether unreadable images are replaced.
      classes: labels are below this.
      patience: how many images in a row may be unreadable.
      title: what the data set is called in errors.
      shape: `(H, W, C)` of all views; None accepts any, for `read` alone.
    """

    source: RandomAccess
    view: Callable[..., np.ndarray]
    random: bool
    substitute: bool
    classes: int
    patience: int
    title: str
    shape: tuple[int, ...] | None = None

    def __call__(self, picks: Picks) -> Read:
        """Reads one batch.

        Raises:
          TypeError, ValueError, RuntimeError: as `read`.
          IndexError: a number that the source does not have.
          UnreadableImages: more in a row than `patience`, or all of them.
        """
        assert self.shape is not None
        count = len(picks.index)
        images = np.zeros((count, *self.shape), np.uint8)
        labels, index = np.zeros(count, np.int32), np.full(count, -1, np.int32)
        unreadable: list[Unreadable] = []
        for place, (number, position) in enumerate(zip(picks.index, picks.position, strict=True)):
            if number >= 0:
                seed = (picks.seed, picks.epoch, int(position))
                found, failed = self._first_readable(int(number), seed)
                unreadable += failed
                if found is not None:
                    images[place], labels[place], index[place] = found
        return Read(Loaded(images, labels, index), tuple(unreadable))

    def _first_readable(
        self, number: int, seed: tuple[int, int, int]
    ) -> tuple[tuple[np.ndarray, int, int] | None, list[Unreadable]]:
        """Pixels, label and number of the example, or of its substitute; and what was unreadable before it."""
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
            if len(failed) > self.patience:
                break
        if self.substitute:
            raise too_many(failed, self.patience, self.title)
        return None, failed

    def read(self, number: int, rng: np.random.Generator) -> tuple[np.ndarray, int] | Unreadable:
        """Pixels and label of one example, or why there are none.

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
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise TypeError(f"{what}: a source gives (image, label); this one gave {_brief(item)}")
        image, label = item
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

    def _checked_label(self, what: str, label: int) -> int:
        try:
            label = operator.index(label)
        except TypeError:
            raise TypeError(f"{what}: its label must be a class index; it is {_brief(label)}") from None
        if not 0 <= label < self.classes:
            raise ValueError(
                f"{what}: label {label} is out of range: {self.classes} classes are numbered 0 to {self.classes - 1}"
            )
        return label

    def _check_pixels(self, what: str, pixels: np.ndarray) -> None:
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise TypeError(f"{what}: {self.view} must give uint8 pixels [H, W, C]; it gave {_brief(pixels)}")
        if self.shape is not None and pixels.shape != self.shape:
            raise ValueError(
                f"{what}: {self.view} gave pixels of shape {pixels.shape}, and elsewhere {self.shape}: all images must "
                "get the same shape, in training and in evaluation"
            )


def _brief(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {list(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '…'}"
