"""ImageNet-2012: the ArrayRecord files of tensorflow-datasets, or the usual tree of folders.

O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015. Labels number the 1,000 WordNet
names (n01440764, …) in their order, as torchvision's networks have it. Evaluation uses the validation images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxkd.data.readers import image_folder, tfds
from jaxkd.data.streamed import StreamedDataset

_CLASSES = 1000
_SPLITS = {"train": "train", "test": "validation"}


def places(name: str, data_dir: Path) -> list[str]:
    """Where the prepared files and the folders are looked for."""
    trees = [f"{root} (train/n01440764/*.JPEG, … and val/n01440764/*.JPEG, …)" for root in _trees(name, data_dir)]
    return [*tfds.places(name, data_dir), *trees]


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, StreamedDataset] | None:
    """The wanted splits, from the first place that has them; None where there is none.

    Raises:
      FileNotFoundError: there is a tree, but not of the wanted split.
      ValueError: the files lack a split, or the classes are not the thousand of ImageNet.
    """
    found = tfds.newest(name, data_dir)
    if found is not None:
        return {split: _prepared(name, found, _SPLITS[split]) for split in splits}
    for root in _trees(name, data_dir):
        datasets = image_folder.read(name, root, splits)
        if datasets is not None:
            for dataset in datasets.values():
                _check_classes(root, dataset.class_names)
            return datasets
    return None


class PreparedImages:
    """A split that tensorflow-datasets prepared, as a source: `(encoded image, label)` by number."""

    def __init__(self, path: Path, split: str) -> None:
        self.path, self.split = path, split
        self._open()

    def _open(self) -> None:
        import tensorflow_datasets as tfds

        builder = tfds.builder(self.path, [self.split])
        self.class_names = tuple(builder.info.features["label"].names)
        self._records = builder.as_data_source(split=self.split, decoders={"image": tfds.decode.SkipDecoding()})

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> tuple[bytes, int]:
        try:
            example = self._records[number]
        except RuntimeError as error:  # what the reader of the files raises for damaged ones
            raise OSError(f"{self.path}: {error}") from error
        if example["image"] is None:
            raise OSError(f"{self.path}: the record is empty, as in a truncated file")
        return example["image"], example["label"]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "split": self.split}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # every process opens the files for itself


def _prepared(name: str, path: Path, split: str) -> StreamedDataset:
    source = PreparedImages(path, split)
    _check_classes(path, source.class_names)
    return StreamedDataset(source, source.class_names, name=name)


def _trees(name: str, data_dir: Path) -> tuple[Path, Path]:
    return data_dir, data_dir / name


def _check_classes(place: Path, classes: Sequence[str]) -> None:
    strange = next((label for label in classes if not re.fullmatch(r"n\d{8}", label)), None)
    if len(classes) != _CLASSES or strange is not None:
        found = f"{len(classes)} classes" + (f", such as {strange!r}" if strange is not None else "")
        raise ValueError(
            f"{place} has {found}, and ImageNet-2012 has {_CLASSES} with names like n01440764, by which its labels are "
            "numbered: load a part of it, or other images, as data.load('folder', …)"
        )
