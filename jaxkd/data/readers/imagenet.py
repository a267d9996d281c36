"""Read ImageNet-2012: the ArrayRecord files of tensorflow-datasets, or the usual tree of folders.

O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015. Labels number the 1,000 WordNet
names (n01440764, …) in their order, as torchvision's networks have it. Evaluation uses the validation images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jaxkd.data.readers import image_folder, tfds
from jaxkd.data.streamed import StreamedDataset

_CLASSES = 1000
_SPLITS = {"train": "train", "test": "validation"}


def places(name: str, data_dir: Path) -> list[str]:
    """List where the prepared files and the folders are looked for."""
    trees = [f"{root} (train/n01440764/*.JPEG, … and val/n01440764/*.JPEG, …)" for root in _trees(name, data_dir)]
    return [*tfds.places(name, data_dir), *trees]


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, StreamedDataset] | None:
    """Read the wanted splits from the first place that has them; None where there is none.

    Raises:
      FileNotFoundError: there is a tree, but not of the wanted split.
      ValueError: the files lack a split, or the classes are not the thousand of ImageNet.
    """
    prepared = tfds.newest(name, data_dir)
    if prepared is not None:
        return {split: _prepared(name, prepared, _SPLITS[split]) for split in splits}
    for root in _trees(name, data_dir):
        datasets = image_folder.read(name, root, splits)
        if datasets is not None:
            for dataset in datasets.values():
                _check_classes(root, dataset.class_names)
            return datasets
    return None


def _prepared(name: str, folder: Path, split: str) -> StreamedDataset:
    source = tfds.PreparedImages(folder, split)
    _check_classes(folder, source.class_names)
    return StreamedDataset(source, source.class_names, name=name)


def _trees(name: str, data_dir: Path) -> tuple[Path, Path]:
    return data_dir / name, data_dir


def _check_classes(place: Path, classes: Sequence[str]) -> None:
    strange = next((label for label in classes if not re.fullmatch(r"n\d{8}", label)), None)
    if len(classes) != _CLASSES or strange is not None:
        found = f"{len(classes)} classes" + (f", such as {strange!r}" if strange is not None else "")
        raise ValueError(
            f"{place} has {found}, and ImageNet-2012 has {_CLASSES} with names like n01440764, by which its labels are "
            "numbered: load a part of it, or other images, as data.load('folder', …)"
        )
