"""The names and places of image and label in what other libraries hand out: tuples, dictionaries, data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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
