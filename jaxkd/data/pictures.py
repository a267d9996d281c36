"""Images in a list, Pillow's or arrays, as one array."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxkd.data.pipeline.decode import decode
from jaxkd.types import is_array


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
