"""Read Imagenette, ten classes of ImageNet that are easy to tell apart, from its official folders.

J. Howard, 2019, https://github.com/fastai/imagenette: `imagenette2`, or `imagenette2-320` and `imagenette2-160` with
the shorter side of that many pixels, each with `train/n01440764/*.JPEG` and `val/n01440764/*.JPEG`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxkd.data.readers import image_folder
from jaxkd.data.streamed import StreamedDataset

CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""The official names of the classes, in the order of their labels."""

_FOLDERS = ("imagenette2", "imagenette2-320", "imagenette2-160")


def places(name: str, data_dir: Path) -> list[str]:
    """List where the folders are looked for; the first that is there is read."""
    return [f"{root} (train/n01440764/*.JPEG, … and val/n01440764/*.JPEG, …)" for root in _roots(data_dir)]


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, StreamedDataset] | None:
    """Read the wanted splits, with ImageNet's usual views and normalisation; None where there is no folder.

    Raises:
      FileNotFoundError: there is a folder, but not of the wanted split.
      ValueError: the classes are not those of Imagenette.
    """
    for root in _roots(data_dir):
        found = image_folder.read(name, root, splits) if root.is_dir() and _has_split(root) else None
        if found is not None:
            return {split: _named(root, dataset) for split, dataset in found.items()}
    return None


def _roots(data_dir: Path) -> list[Path]:
    return [*(data_dir / folder for folder in _FOLDERS), data_dir]


def _has_split(root: Path) -> bool:
    return (root / "train").is_dir() or (root / "val").is_dir()


def _named(root: Path, dataset: StreamedDataset) -> StreamedDataset:
    if dataset.class_names != tuple(CLASSES):
        strange = sorted(set(dataset.class_names) ^ set(CLASSES))
        raise ValueError(
            f"{root} has {dataset.num_classes} classes, and Imagenette has {len(CLASSES)} others (they differ in "
            f"{', '.join(strange[:5])}): load other images as data.load('folder', …)"
        )
    return dataset.replace(class_names=tuple(CLASSES.values()))
