"""Channels last, of images and batches that have them first, as PyTorch's do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxkd.data.columns import columns
from jaxkd.types import Batch, is_array


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
