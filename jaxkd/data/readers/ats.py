"""Read CIFAR-100 from the files that the repository of asymmetric temperature scaling (ATS, NeurIPS 2022) reads.

X.-C. Li et al., "Asymmetric Temperature Scaling Makes Larger Networks Teach Well Again". Each file is a pickled
dictionary: "images" `[N, 3, 32, 32]` uint8 and "labels" `[N]`. The repository normalises with ImageNet's mean and
standard deviation; for its numbers pass `mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)` to `data.load`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxkd.data.dataset import Dataset
from jaxkd.data.readers.cifar import CIFAR100
from jaxkd.formats.unpickler import load_arrays

_FILES = {
    "train": ("cifar100-train-part1.pkl", "cifar100-train-part2.pkl"),
    "test": ("cifar100-test.pkl",),
}


def places(name: str, data_dir: Path) -> list[str]:
    """List where the files are looked for."""
    return [f"{data_dir} ({', '.join(file for files in _FILES.values() for file in files)}, the files of ATS)"]


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, Dataset] | None:
    """Read the wanted splits; None where none of their files is there.

    Raises:
      FileNotFoundError: some of the files are there and others are not.
      ValueError: a file is truncated, corrupt, lacks a key, or its labels are the coarse ones.
      UnsafePickleError: a file asks for code to be run.
    """
    wanted = [data_dir / file for split in splits for file in _FILES[split]]
    missing = [path.name for path in wanted if not path.is_file()]
    if len(missing) == len(wanted):
        return None
    if missing:
        raise FileNotFoundError(
            f"{data_dir} lacks {', '.join(missing)} beside its other cifar100-*.pkl files: add what is missing, "
            f"or read one split alone, data.load({name!r}, split='test')"
        )
    return {split: _split(data_dir, split) for split in splits}


def _split(data_dir: Path, split: str) -> Dataset:
    parts = [_read_part(data_dir / file) for file in _FILES[split]]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return CIFAR100.dataset(images, labels, split, f"{data_dir}, {' and '.join(_FILES[split])}")


def _read_part(path: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    with path.open("rb") as file:
        content = load_arrays(file, str(path))
    for key in ("images", "labels"):
        if key not in content:
            raise ValueError(f"{path} has no {key!r}, only {', '.join(sorted(content))}: it is not a file of ATS")
    images, labels = np.asarray(content["images"]), np.asarray(content["labels"])
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (3, 32, 32):
        raise ValueError(f"{path}: images must be [N, 3, 32, 32] uint8; they are {images.shape} {images.dtype}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{path}: {len(images)} images, but labels of shape {labels.shape}")
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels
