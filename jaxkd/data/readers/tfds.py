"""Read what tensorflow-datasets prepared, without TensorFlow; nothing is ever downloaded.

The library is imported only once prepared files were found.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.data.dataset import Dataset
from jaxkd.data.readers.cifar import SPECS


def places(name: str, data_dir: Path) -> list[str]:
    """List where prepared data sets are looked for; one in a format that needs TensorFlow is named."""
    found = [
        f"{folder} (prepared as {_file_format(folder)}: prepare it with file_format='array_record' to read it)"
        for folder in _folders(name, data_dir)
    ]
    return found or [f"{root / name} (tensorflow-datasets, prepared as array_record)" for root in _roots(data_dir)]


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, Dataset] | None:
    """Read the wanted splits of CIFAR-10 or CIFAR-100 from the newest prepared version; None where there is none.

    Raises:
      ValueError: the prepared data set lacks a split, or its labels are out of range.
    """
    folder = newest(name, data_dir)
    if folder is None:
        return None
    builder = _builder(folder, splits)
    names = tuple(builder.info.features["label"].names)
    datasets = {}
    for split in splits:
        examples = list(builder.as_data_source(split=split))
        images = np.stack([example["image"] for example in examples])
        labels = np.asarray([example["label"] for example in examples])
        datasets[split] = SPECS[name].dataset(images, labels, split, str(folder), names)
    return datasets


class PreparedImages:
    """A prepared split as a source of images that are still encoded: `(bytes, label)` by number.

    Args:
      folder: of the prepared version.
      split: as it is called there.

    Raises:
      ValueError: there is no such split.
    """

    def __init__(self, folder: Path, split: str) -> None:
        import tensorflow_datasets

        self.folder, self.split = folder, split
        builder = _builder(folder, [split])
        self.class_names = tuple(builder.info.features["label"].names)
        encoded = {"image": tensorflow_datasets.decode.SkipDecoding()}
        self._records = builder.as_data_source(split=split, decoders=encoded)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> tuple[bytes, int]:
        try:
            example = self._records[number]
        except RuntimeError as error:  # what the reader of the files raises for damaged ones
            raise OSError(f"{self.folder}: {error}") from error
        if example["image"] is None:
            raise OSError(f"{self.folder}: the record is empty, as in a truncated file")
        return example["image"], example["label"]

    def __reduce__(self) -> tuple[type[PreparedImages], tuple[Path, str]]:
        return PreparedImages, (self.folder, self.split)  # every process opens the files for itself


def newest(name: str, data_dir: Path) -> Path | None:
    """Return the folder of the newest version that can be read; None where there is none."""
    return next((path for path in _folders(name, data_dir) if _file_format(path) == "array_record"), None)


def _builder(folder: Path, splits: Sequence[str]) -> Any:
    """Open a prepared folder; a ValueError if it lacks one of the splits."""
    import tensorflow_datasets

    builder = tensorflow_datasets.builder_from_directory(folder)
    missing = [split for split in splits if split not in builder.info.splits]
    if missing:
        raise ValueError(f"{folder} has no split {missing[0]!r}, only {', '.join(builder.info.splits)}")
    return builder


def _folders(name: str, data_dir: Path) -> list[Path]:
    """List folders `ROOT/NAME/VERSION` that hold a prepared data set, the newest version of each root first."""
    folders = []
    for root in _roots(data_dir):
        versions = [path.parent for path in (root / name).glob("*/dataset_info.json")]
        versions = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
        folders += sorted(versions, key=lambda path: [int(part) for part in path.name.split(".")], reverse=True)
    return folders


def _roots(data_dir: Path) -> list[Path]:
    default = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    return list(dict.fromkeys((data_dir, default)))


def _file_format(folder: Path) -> str:
    # A file without the entry is older than the choice of formats.
    return str(json.loads((folder / "dataset_info.json").read_text()).get("fileFormat", "tfrecord"))
