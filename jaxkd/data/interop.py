"""Understand what other libraries hand out: dictionaries, Pillow's images in lists, channels first."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxkd.data.pipeline.decode import decode
from jaxkd.types import Batch, is_array

IMAGES = ("image", "images", "img", "pixel_values")
LABELS = ("label", "labels")
"""Names in examples and batches that are dictionaries, as tensorflow-datasets and Hugging Face write them."""


def columns(given: Mapping[Any, Any], what: str) -> tuple[Any, Any]:
    """Return what a dictionary calls its images and its labels.

    Args:
      given: a batch or an example.
      what: it is, as errors call it.

    Raises:
      TypeError: for none or several of either; it lists the names that are there, and those that are known.

    Example:
      >>> columns({"img": 0, "label": 1, "id": 2}, "an example")
      ('img', 'label')
    """
    images, labels = ([name for name in names if name in given] for names in (IMAGES, LABELS))
    if len(images) != 1 or len(labels) != 1:
        keys = ", ".join(map(str, given)) or "nothing"
        raise TypeError(
            f"{what} is a dict of {keys}: give one of {', '.join(IMAGES)} and one of {', '.join(LABELS)}, or (images, "
            "labels); of a Hugging Face data set, rename_column('fine_label', 'label') renames one"
        )
    return images[0], labels[0]


def image_and_label(example: Any) -> tuple[Any, Any]:
    """Return the two of an example, which is `(image, label)` or a dictionary with both.

    Raises:
      TypeError: for anything else.
    """
    if isinstance(example, Mapping):
        image, label = columns(example, "an example")
        return example[image], example[label]
    if not isinstance(example, tuple | list) or len(example) != 2:
        raise TypeError(f"{brief(example)}: give (image, label), or a dict of both")
    return example[0], example[1]


def class_names_of(source: Any) -> tuple[str, ...] | None:
    """Return the names of the classes that a data set carries, as torchvision's and Hugging Face's do; None without."""
    features = getattr(source, "features", None)
    if isinstance(features, Mapping):
        found = [getattr(features[name], "names", None) for name in LABELS if name in features]
        return tuple(found[0]) if found and found[0] else None
    names = getattr(source, "classes", None)
    return tuple(map(str, names)) if isinstance(names, list | tuple) and names else None


def brief(value: Any) -> str:
    """Return a value with its type in a few words, for errors."""
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {list(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '…'}"


def stacked(images: Any) -> NDArray[Any]:
    """Return images as one array; Pillow's become RGB.

    Raises:
      ValueError: for images of several sizes, with two of them.

    Example:
      >>> stacked([np.zeros((4, 6, 3)), np.ones((4, 6, 3))]).shape
      (2, 4, 6, 3)
    """
    if not isinstance(images, list | tuple):
        return np.asarray(images)
    plain = [np.asarray(decode(image)) if is_picture(image) else np.asarray(image) for image in images]
    sizes = list(dict.fromkeys(pixels.shape for pixels in plain))
    if len(sizes) > 1:
        raise ValueError(
            f"images of several sizes, such as {sizes[0]} and {sizes[1]}, are no batch: bring them to one size, as in "
            "image.resize((64, 64)); data.from_source crops images of any size itself"
        )
    return np.asarray(plain)


def one_by_one(images: Any) -> bool:
    """Return whether these are images in a list or tuple, each Pillow's or an array `[H, W, C]`."""
    return (
        isinstance(images, list | tuple)
        and bool(images)
        and all(is_picture(image) or (is_array(image) and len(image.shape) == 3) for image in images)
    )


def is_picture(image: Any) -> bool:
    """Return whether this is an image of Pillow's, which is not imported for it."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def with_labels(x: Any, y: Any) -> Any:
    """Return images and labels in one.

    Raises:
      TypeError: for labels beside data that bring their own, and for what is no array of labels.
    """
    if y is None:
        return x
    if x is None or isinstance(x, str | bytes | os.PathLike):
        raise TypeError(f"x={x!r} are no images: give an array [N, H, W, C], or a list of images of Pillow's")
    if not is_array(x) and not one_by_one(x):
        raise TypeError(
            f"x={type(x).__name__} brings its labels: leave y out, or give y with an array of images, or a list of "
            "arrays [H, W, C] or of Pillow's images"
        )
    if not isinstance(y, list) and not is_array(y):
        raise TypeError(
            f"y={type(y).__name__}: give the labels of the images, `[N]` integers; validation data are named, as in "
            "fit(images, labels, validation_data=(images, labels))"
        )
    return (x, np.asarray(y))


def channels_last(images_or_batches: Any) -> Any:
    """Return images or batches with channels last, `[N, H, W, C]`, of those with channels first, `[N, C, H, W]`.

    Args:
      images_or_batches: an array of images, or batches in any form that `fit` takes, such as a `DataLoader` of
        PyTorch's.

    Returns:
      An array; or batches that can be gone through as often as those given.

    Raises:
      ValueError: for images that have their channels last already.

    Example:
      >>> channels_last(np.zeros((2, 3, 32, 24))).shape
      (2, 32, 24, 3)
      >>> loader = [(np.zeros((2, 3, 32, 24)), [0, 1])]
      >>> [(images.shape, labels) for images, labels in channels_last(loader)]
      [((2, 32, 24, 3), [0, 1])]
    """
    if is_array(images_or_batches):
        return _moved(images_or_batches)
    if isinstance(images_or_batches, Iterator):  # once through, and told as such
        return map(_with_channels_last, images_or_batches)
    return _ChannelsLast(images_or_batches)


@dataclass(frozen=True)
class _ChannelsLast:
    batches: Iterable[Any]

    def __iter__(self) -> Iterator[Any]:
        return map(_with_channels_last, self.batches)


def _with_channels_last(batch: Any) -> Any:
    if isinstance(batch, Batch):
        moved: Any = {name: _moved(images) for name, images in batch._asdict().items() if _is_images(name, images)}
        return batch._replace(**moved)
    if isinstance(batch, Mapping):
        name, _ = columns(batch, "a batch")
        return {**batch, name: _moved(batch[name])}
    if is_array(batch):  # images alone, for predict
        return _moved(batch)
    return (_moved(batch[0]), *batch[1:])


def _is_images(name: str, value: Any) -> bool:
    return name in ("images", "strong") and value is not None


def _moved(images: Any) -> NDArray[Any]:
    pixels = np.asarray(images)
    if pixels.ndim != 4 or (pixels.shape[-1] in (1, 3, 4) and pixels.shape[1] not in (1, 3, 4)):
        raise ValueError(f"channels_last was given images of shape {pixels.shape}: it takes [N, C, H, W]")
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
