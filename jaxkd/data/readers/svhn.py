"""Read SVHN, house numbers of 32×32, from its official MATLAB files.

Y. Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", NIPS Workshop 2011,
http://ufldl.stanford.edu/housenumbers. `X` is `[32, 32, 3, N]` uint8 and `y` `[N, 1]`, from 1 to 10, where 10 stands
for the digit 0. Its 531,131 easier extra images are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.data.dataset import Dataset
from jaxkd.data.readers.files import folder_with
from jaxkd.data.transforms.pad_crop_flip import Augmentation
from jaxkd.types import Normalization

NORMALIZATION = Normalization((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
"""The usual statistics: those of the 73,257 training images."""

_FILES = {"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)}


def places(name: str, data_dir: Path) -> list[str]:
    """List where the files are looked for."""
    return [f"{place} (train_32x32.mat, test_32x32.mat)" for place in (data_dir, data_dir / name)]


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, Dataset] | None:
    """Read the wanted splits; training shifts images by up to four pixels and never mirrors them.

    Labels are the digits themselves, 0 to 9.

    Raises:
      FileNotFoundError: some of the files are there and others are not.
      ValueError: a file is truncated, corrupt or another one.
    """
    root = folder_with(name, (data_dir, data_dir / name), _FILES, splits)
    return None if root is None else {split: _split(root / _FILES[split][0], split, name) for split in splits}


def _split(path: Path, split: str, name: str) -> Dataset:
    content = _content(path)
    missing = [key for key in ("X", "y") if key not in content]
    if missing:
        raise ValueError(f"{path} has no {missing[0]}: it is not an official file of 32×32 images")
    images, labels = content["X"], np.ravel(content["y"])
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
        raise ValueError(f"{path}: X must be [32, 32, 3, N] uint8; it is {list(images.shape)} {images.dtype}")
    digits = np.where(labels == 10, 0, labels).astype(np.int32)
    if (labels < 1).any() or (labels > 10).any():
        raise ValueError(f"{path}: labels must be 1 to 10; they run from {labels.min()} to {labels.max()}")
    pixels = np.ascontiguousarray(images.transpose(3, 0, 1, 2))
    augmentation = Augmentation(pad=4, flip=False) if split == "train" else None
    try:
        return Dataset(pixels, digits, tuple("0123456789"), NORMALIZATION, augmentation, name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _content(path: Path) -> dict[str, Any]:
    from scipy import io  # JAX needs it anyway

    try:
        found: dict[str, Any] = io.loadmat(path, variable_names=("X", "y"))
    except Exception as error:  # damaged files raise nearly anything: ValueError, TypeError, zlib.error, …
        raise ValueError(f"{path} is truncated or corrupt ({error}): download it again") from None
    return found
