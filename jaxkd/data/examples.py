"""Examples that other libraries hand out one by one, brought into memory, or told how they become batches."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxkd.data.dataset import Dataset, from_arrays
from jaxkd.data.interop import brief, class_names_of, image_and_label
from jaxkd.data.pipeline.decode import BrokenImageError, decode
from jaxkd.data.pipeline.workers import check_installed
from jaxkd.data.transforms.pad_crop_flip import Augmentation


def cure_of_examples(data: Any) -> str:
    """Return how examples that come one by one become what `fit` takes, as errors say it."""
    name = type(data).__name__
    cures = [f"data.from_examples({name}) holds them in memory, where all have one size"]
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        cures.append(f"data.from_source({name}, …) reads and crops them while training")
    if callable(getattr(data, "batch", None)):
        cures.append(f"{name}.batch(64) makes batches of them")
    else:
        cures.append(f"torch.utils.data.DataLoader({name}, batch_size=64) makes batches of PyTorch's")
    return "; ".join(cures)


def refuse_endless(data: Any) -> None:
    """Refuse what says that it never ends, as tf.data and Grain do after `repeat()`.

    Raises:
      ValueError: with the cure.
    """
    cardinality = getattr(data, "cardinality", None)
    try:
        endless = callable(cardinality) and int(cardinality()) == -1
        endless = endless or (hasattr(data, "__len__") and len(data) == sys.maxsize)
    except Exception:  # whatever a length that nobody knows raises: TypeError, NotImplementedError, …
        return
    if endless:
        raise ValueError(
            f"{type(data).__name__} never ends, and an epoch goes through it once: leave its repeat() out; fit goes "
            "through it again every epoch"
        )


def from_examples(
    examples: Iterable[Any],
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    augmentation: Augmentation | None = None,
) -> Dataset:
    """Read examples of one size into memory, from a data set of PyTorch's, Hugging Face's or your own.

    Args:
      examples: each `(image, label)` or a dictionary of both, as `{"image": …, "label": …}`. An image is Pillow's, the
        bytes or the path of a file, or uint8 pixels `[H, W]` or `[H, W, C]`; it becomes RGB. A label is an integer from
        0 to K-1. What draws a view of its own each time is drawn once here: leave it to `augmentation`.
      class_names: K names; by default those that the examples carry, as `classes` or `features`, else numbers.
      mean: per channel, where pixels run from 0 to 1; by default that of these pixels.
      std: likewise. A test set wants its training set's.
      augmentation: applied when the set is trained on.

    Raises:
      ImportError: Pillow is missing.
      TypeError, ValueError: for examples that are not as above, or of several sizes; the error has the first one's
        number. Otherwise as `from_arrays`.

    Example:
      >>> rows = [{"img": np.full((8, 8, 3), 20 * number, np.uint8), "label": number % 2} for number in range(12)]
      >>> from_examples(rows, class_names=["even", "odd"])
      <Dataset: 12 images of 8×8×3, 2 classes>
    """
    check_installed("PIL")
    refuse_endless(examples)
    images: list[NDArray[np.uint8]] = []
    labels = []
    for number, example in enumerate(_each(examples)):
        try:
            image, label = image_and_label(example)
            if getattr(image, "ndim", 0) == 4:
                raise TypeError(
                    f"{type(examples).__name__} gives batches, such as one of {len(image)} images: give the data set "
                    "that it reads from (loader.dataset), or hand the batches to fit"
                )
            pixels = np.asarray(decode(image))
        except BrokenImageError as error:
            raise ValueError(f"example {number} cannot be read: {error}") from None
        except (TypeError, ValueError) as error:
            raise type(error)(f"example {number}: {error}") from None
        if images and pixels.shape != images[0].shape:
            raise ValueError(
                f"example {number} has {_size(pixels)} pixels, and those before it {_size(images[0])}: "
                "data.from_source takes images of any size and crops them while training"
            )
        images.append(pixels)
        labels.append(np.asarray(label))
    if not images:
        raise ValueError("the data set has no examples: give at least one")
    names = class_names_of(examples) if class_names is None else class_names
    return from_arrays(np.stack(images), np.stack(labels), names, mean, std, augmentation=augmentation)


def _each(examples: Any) -> Iterator[Any]:
    if hasattr(examples, "__getitem__") and hasattr(examples, "__len__") and not isinstance(examples, Mapping):
        return (examples[number] for number in range(len(examples)))
    if not isinstance(examples, Iterable) or isinstance(examples, Mapping | str):
        raise TypeError(f"examples={brief(examples)}: give what has (image, label) one by one")
    return iter(examples)


def _size(pixels: NDArray[Any]) -> str:
    return "×".join(map(str, pixels.shape[:2]))
