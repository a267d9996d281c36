"""Read STL-10, photographs of 96×96, from its official binary files.

A. Coates et al., "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", AISTATS 2011,
https://cs.stanford.edu/~acoates/stl10. Each image is its red, green and blue channel, each column after column, a byte
for each pixel; labels are bytes from 1 to 10. The 100,000 images without labels are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxkd.data.dataset import Dataset
from jaxkd.data.readers.files import folder_with
from jaxkd.data.transforms.pad_crop_flip import Augmentation
from jaxkd.types import Normalization

CLASS_NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
NORMALIZATION = Normalization((0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713))
"""The usual statistics in the literature."""

_SIZE = 96
_FOLDER = "stl10_binary"
_FILES = {split: (f"{split}_X.bin", f"{split}_y.bin") for split in ("train", "test")}


def places(name: str, data_dir: Path) -> list[str]:
    """List where the files are looked for."""
    files = ", ".join(file for files in _FILES.values() for file in files)
    return [f"{place} ({files})" for place in (data_dir / _FOLDER, data_dir)]


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, Dataset] | None:
    """Read the wanted splits, 5,000 training and 8,000 test images `[96, 96, 3]`.

    Training pads by 12, crops and mirrors.

    Raises:
      FileNotFoundError: some of the files are there and others are not.
      ValueError: a file is truncated, or another one.
    """
    root = folder_with(name, (data_dir / _FOLDER, data_dir), _FILES, splits)
    return None if root is None else {split: _split(root, split, name) for split in splits}


def _split(root: Path, split: str, name: str) -> Dataset:
    images, labels = (np.fromfile(root / file, np.uint8) for file in _FILES[split])
    one = 3 * _SIZE * _SIZE
    if not len(labels) or len(images) != len(labels) * one:
        raise ValueError(
            f"{root}: {_FILES[split][0]} has {len(images):,} bytes, and {len(labels):,} labels need "
            f"{len(labels) * one:,}: download and unpack it again"
        )
    columns = images.reshape(-1, 3, _SIZE, _SIZE)  # channel, column, row
    pixels = np.ascontiguousarray(columns.transpose(0, 3, 2, 1))
    if labels.min() < 1 or labels.max() > len(CLASS_NAMES):
        raise ValueError(f"{root}, {_FILES[split][1]}: labels must be 1 to 10; they reach {labels.max()}")
    augmentation = Augmentation(pad=12, flip=True) if split == "train" else None
    return Dataset(pixels, labels.astype(np.int32) - 1, CLASS_NAMES, NORMALIZATION, augmentation, name)
