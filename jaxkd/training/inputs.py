"""Bring data into one of three forms, and plan the batches of streamed images.

The forms are arrays that stay on the device, images that are read from files, and the user's own batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from jaxkd.data import Augmentation, BatchIndices, Dataset, StreamedDataset, from_arrays
from jaxkd.data.dataset import checked_labels
from jaxkd.types import Batch, Normalization

Data = Dataset | StreamedDataset | tuple[Any, Any] | Iterable[Any]

PLAUSIBLE = 30.0
"""No normalised pixel is further from zero than this; raw pixels are."""


@dataclass(frozen=True, eq=False)
class InMemory:
    """Images and labels that fit on the device.

    Attributes:
      images: `[N, H, W, C]`, uint8 pixels or float32 values that are already normalised.
      labels: `[N]` int32.
      normalization: for uint8 pixels.
      augmentation: for training.
      num_classes: K, above every label.
    """

    images: NDArray[Any]
    labels: NDArray[np.int32]
    normalization: Normalization | None
    augmentation: Augmentation | None
    num_classes: int

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
    """Batches from the host: `(images, labels)`, `(images, labels, index)` or `Batch`.

    Attributes:
      batches: can be iterated again for every epoch.
      num_classes: labels are below this; None where the network does not say.
    """

    batches: Iterable[Any]
    num_classes: int | None = None

    normalization: ClassVar[None] = None
    examples: ClassVar[None] = None

    def __iter__(self) -> Iterator[Batch]:
        """Yield checked batches of NumPy arrays; examples are numbered in order where no index is given."""
        position = 0
        for item in self.batches:
            images, labels, *index = item
            images = checked_images(images)
            labels = _class_indices(labels, len(images), self.num_classes)
            end = position + len(labels)
            given = np.asarray(index[0], np.int32) if index else np.arange(position, end, dtype=np.int32)
            position = end
            yield Batch(images, labels, given)  # type: ignore[arg-type]  # still on the host


Source = InMemory | Stream | StreamedDataset


def as_source(data: Data, network: nnx.Module | None = None, passes: int = 1) -> Source:
    """Bring data into one of the three forms, and check them against the network.

    Args:
      data: a `Dataset` or `StreamedDataset`; a tuple of arrays `(images, labels)`; or an iterable of batches that can
        be iterated every epoch.
      network: says how many classes and which images it was made for; without it they are not checked.
      passes: how often the data will be gone through.

    Raises:
      TypeError: for anything else.
      ValueError: for arrays of the wrong shape, type or range, and a generator where several passes are needed.
    """
    source = _unchecked_source(data)
    classes, shape = (getattr(network, name, None) for name in ("num_classes", "image_shape"))
    if isinstance(source, Stream):
        if passes > 1 and iter(source.batches) is source.batches:
            raise ValueError(
                f"{type(data).__name__} can be gone through once, and {passes} epochs were asked for: give a list or a "
                "loader, which start afresh every time"
            )
        return replace(source, num_classes=classes)
    if classes is not None and source.num_classes > classes:
        raise ValueError(
            f"the labels need {source.num_classes} classes, but the network has {classes}: create it with "
            f"num_classes={source.num_classes}"
        )
    channels = source.image_shape[-1]
    if shape is not None and channels != shape[-1]:
        raise ValueError(
            f"the images have {channels} channels, but the network takes {shape[-1]}: create it with "
            f"channels={channels}"
        )
    return source


def _unchecked_source(data: Data) -> Source:
    if isinstance(data, StreamedDataset):
        return data
    if isinstance(data, Dataset):
        return InMemory(data.images, data.labels, data.normalization, data.augmentation, data.num_classes)
    if isinstance(data, tuple) and len(data) == 2 and all(hasattr(part, "shape") for part in data):
        return _from_arrays(*data)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | dict) and not hasattr(data, "shape"):
        return Stream(data)
    raise TypeError(
        f"cannot train on {type(data).__name__}: give a data.Dataset, a tuple of arrays (images, labels), or an "
        "iterable of batches"
    )


def _from_arrays(images: Any, labels: Any) -> Source:
    images = checked_images(images)
    if images.dtype == np.uint8:
        return _unchecked_source(from_arrays(images, np.asarray(labels)))
    labels = _class_indices(labels, len(images), None)
    return InMemory(images, labels, None, None, int(labels.max()) + 1)


def _class_indices(labels: Any, images: int, classes: int | None) -> NDArray[np.int32]:
    labels = np.asarray(labels)
    if classes is None:
        classes = int(labels.max(initial=0)) + 1
    return checked_labels(labels, images, classes)


def checked_images(images: Any) -> NDArray[Any]:
    """Return uint8 pixels or already normalised float32 images, `[N, H, W, C]`.

    Raises:
      ValueError: for another type or shape, and for float images whose values look like raw pixels.
    """
    pixels: NDArray[Any] = np.asarray(images)
    if pixels.ndim != 4 or not len(pixels):
        raise ValueError(f"images have shape {pixels.shape}: expected [N, H, W, C], at least one")
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"images are {pixels.dtype}: give uint8 pixels, or float32 images that are already normalised")
    furthest = float(np.abs(pixels).max(initial=0.0))
    if not furthest < PLAUSIBLE:
        raise ValueError(
            f"float images reach {furthest:g}, which no normalised image does: give the pixels as uint8, and they are "
            "normalised once, on the device"
        )
    return pixels.astype(np.float32)


def one_step(batch: Batch) -> Batch:
    """Return a batch as the `[1, B, …]` that a compiled loop takes one step on."""
    return jax.tree.map(lambda array: array[None], batch)


@dataclass(frozen=True)
class Share:
    """The part of a batch that a process reads.

    Attributes:
      devices: over which batches are cut.
      processes: that have these devices, equally many each.
      position: of this process among them.
    """

    devices: int
    processes: int
    position: int

    def __call__(self, batch_size: int) -> slice:
        """Return the part; all of a batch that does not divide over the devices, since each of them sees it whole."""
        if batch_size % self.devices:
            return slice(0, batch_size)
        each = batch_size // self.processes
        return slice(self.position * each, (self.position + 1) * each)


@dataclass
class TrainingPlan:
    """The batches of some epochs, one after the other; each epoch sees every example once, in an order of its own.

    Attributes:
      examples: N, the number of images.
      batch_size: over all processes.
      seed: of the order and the augmentation.
      first_epoch: the one that `plan[0]` belongs to, counted from 0.
      epochs: the number of epochs.
      share: what this process reads of each batch.
    """

    examples: int
    batch_size: int
    seed: int
    first_epoch: int
    epochs: int
    share: Share
    _order: tuple[int, NDArray[np.int64]] | None = field(default=None, init=False, repr=False)

    @property
    def steps(self) -> int:
        """The number of batches in an epoch, the smaller last one included."""
        return -(-self.examples // self.batch_size)

    def size(self, position: int) -> int:
        """Return the number of examples in the batch at a position of an epoch, over all processes."""
        return min(self.batch_size, self.examples - position * self.batch_size)

    def __len__(self) -> int:
        return self.epochs * self.steps

    def __getitem__(self, step: int) -> BatchIndices:
        if not 0 <= step < len(self):
            raise IndexError(step)
        epoch, position = divmod(step, self.steps)
        epoch += self.first_epoch
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.examples)
        start = position * self.batch_size
        places = np.arange(start, start + self.size(position))[self.share(self.size(position))]
        return BatchIndices(self._order[1][places], places, self.seed, epoch)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_order": None}


def evaluation_plan(examples: int, batch_size: int, share: Share) -> list[BatchIndices]:
    """Return the batches of `padded_batches`, or what a process reads of each.

    Example:
      >>> [indices.index.tolist() for indices in evaluation_plan(5, 4, Share(devices=2, processes=2, position=1))]
      [[2, 3], [-1, -1]]
    """
    return [BatchIndices(index, index, 0, 0) for index in padded_batches(examples, batch_size)[:, share(batch_size)]]


def padded_batches(examples: int, batch_size: int) -> NDArray[np.int32]:
    """Return the indices of all examples in order, `[S, B]`, the last row filled up with −1.

    Example:
      >>> padded_batches(5, 3).tolist()
      [[0, 1, 2], [3, 4, -1]]
    """
    steps = -(-examples // batch_size)
    index = np.pad(np.arange(examples, dtype=np.int32), (0, steps * batch_size - examples), constant_values=-1)
    return index.reshape(steps, batch_size)
