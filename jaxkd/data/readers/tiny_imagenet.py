"""Read Tiny ImageNet, 200 classes of ImageNet at 64×64, from the official folder.

Stanford CS231n, 2015, http://cs231n.stanford.edu/tiny-imagenet-200.zip. Training images are in
`train/n01443537/images/`; those of `val/images/` have their classes in `val/val_annotations.txt`, or lie in class
folders, as other libraries want them. Evaluation uses them, since the test images have no labels. Classes are numbered
by their WordNet names, as torchvision's `ImageFolder` does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxkd.data.dataset import Dataset
from jaxkd.data.pipeline.decode import BrokenImageError, decode
from jaxkd.data.pipeline.workers import check_installed
from jaxkd.data.readers.image_folder import FolderImages, class_folders
from jaxkd.data.transforms.pad_crop_flip import Augmentation
from jaxkd.types import Normalization

NORMALIZATION = Normalization((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
"""The statistics that the distillation literature normalises with, as mdistiller does."""

_CLASSES, _SIZE = 200, 64
_FOLDER = "tiny-imagenet-200"
_ANNOTATIONS = "val_annotations.txt"

Examples = list[tuple[Path, int]]


def places(name: str, data_dir: Path) -> list[str]:
    """List where the folder is looked for."""
    return [f"{root} (train/n01443537/images/*.JPEG, … and val/{_ANNOTATIONS})" for root in _roots(data_dir)]


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, Dataset] | None:
    """Read the wanted splits into memory, a minute on two cores and 1.2 GB; training pads by 4, crops and mirrors.

    Raises:
      ImportError: Pillow is missing.
      ValueError: the classes are not 200, or an image cannot be read or has another size.
      FileNotFoundError: there is no `val`.
    """
    root = next((root for root in _roots(data_dir) if (root / "train").is_dir() or (root / "val").is_dir()), None)
    if root is None:
        return None
    check_installed("PIL")
    classes = _classes(root)
    found = {}
    for split in splits:
        examples = _training(root, classes) if split == "train" else _validation(root, classes)
        augmentation = Augmentation(pad=4, flip=True) if split == "train" else None
        labels = np.array([label for _, label in examples], np.int32)
        pixels = _decoded([path for path, _ in examples])
        found[split] = Dataset(pixels, labels, tuple(classes), NORMALIZATION, augmentation, name)
    return found


def _roots(data_dir: Path) -> tuple[Path, Path]:
    return data_dir / _FOLDER, data_dir


def _classes(root: Path) -> list[str]:
    listed = root / "wnids.txt"
    names = sorted(listed.read_text().split()) if listed.is_file() else class_folders(root / "train")
    if len(names) != _CLASSES:
        raise ValueError(
            f"{root} has {len(names)} classes, and Tiny ImageNet {_CLASSES}: load other images as data.load('folder', "
            "…)"
        )
    return names


def _training(root: Path, classes: Sequence[str]) -> Examples:
    images = FolderImages(root / "train", classes)
    return [(Path(path), label) for path, label in (images[number] for number in range(len(images)))]


def _validation(root: Path, classes: Sequence[str]) -> Examples:
    folder = root / "val"
    listed = folder / _ANNOTATIONS
    if listed.is_file() and (folder / "images").is_dir():
        numbers = {name: label for label, name in enumerate(classes)}
        rows = [line.split("\t") for line in listed.read_text().splitlines() if line]
        if strange := next((row for row in rows if len(row) < 2 or row[1] not in numbers), None):
            raise ValueError(f"{listed}: {' '.join(strange)!r} names none of the {_CLASSES} classes")
        return sorted((folder / "images" / row[0], numbers[row[1]]) for row in rows)
    if not folder.is_dir() or class_folders(folder) != list(classes):
        raise FileNotFoundError(f"{folder} has neither {_ANNOTATIONS} with images/, nor the {_CLASSES} class folders")
    images = FolderImages(folder, classes)
    return [(Path(path), label) for path, label in (images[number] for number in range(len(images)))]


def _decoded(paths: Sequence[Path]) -> NDArray[np.uint8]:
    pixels = np.empty((len(paths), _SIZE, _SIZE, 3), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for number, one in enumerate(threads.map(_pixels, paths)):
            pixels[number] = one
    return pixels


def _pixels(path: Path) -> NDArray[np.uint8]:
    try:
        pixels: NDArray[np.uint8] = np.asarray(decode(path))
    except BrokenImageError as error:
        raise ValueError(f"{path} cannot be read ({error}): unpack it again") from None
    if pixels.shape != (_SIZE, _SIZE, 3):
        raise ValueError(f"{path} has {pixels.shape[1]}×{pixels.shape[0]} pixels, and Tiny ImageNet {_SIZE}×{_SIZE}")
    return pixels
