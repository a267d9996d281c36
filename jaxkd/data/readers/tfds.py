"""CIFAR-10 and CIFAR-100 as tensorflow-datasets prepared them, read without TensorFlow and never downloaded."""

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


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, Dataset] | None:
    """The wanted splits, from the newest prepared version; None where there is none.

    Raises:
      ValueError: the prepared data set lacks a split, or its labels are out of range.
    """
    folder = newest(name, data_dir)
    if folder is None:
        return None
    prepared = builder(folder, splits)
    datasets = {}
    for split in splits:
        examples = list(prepared.as_data_source(split=split))
        images = np.stack([example["image"] for example in examples])
        labels = np.asarray([example["label"] for example in examples])
        names = tuple(prepared.info.features["label"].names)
        datasets[split] = SPECS[name].dataset(images, labels, split, str(folder), names)
    return datasets


def places(name: str, data_dir: Path) -> list[str]:
    """Where prepared data sets are looked for; one in a format that needs TensorFlow is named."""
    found = [
        f"{folder} (prepared as {_file_format(folder)}: prepare it with file_format='array_record' to read it)"
        for folder in _folders(name, data_dir)
    ]
    return found or [f"{root / name} (tensorflow-datasets, prepared as array_record)" for root in _roots(data_dir)]


def newest(name: str, data_dir: Path) -> Path | None:
    """The folder of the newest version that can be read; None where there is none."""
    return next((path for path in _folders(name, data_dir) if _file_format(path) == "array_record"), None)


def builder(folder: Path, splits: Sequence[str]) -> Any:
    """The tensorflow-datasets builder of a prepared folder.

    Raises:
      ValueError: it lacks one of the splits.
    """
    import tensorflow_datasets as tfds  # slow to import, and most users have other files

    found = tfds.builder_from_directory(folder)
    missing = [split for split in splits if split not in found.info.splits]
    if missing:
        raise ValueError(f"{folder} has no split {missing[0]!r}, only {', '.join(found.info.splits)}")
    return found


def _roots(data_dir: Path) -> list[Path]:
    default = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    return list(dict.fromkeys((data_dir, default)))


def _folders(name: str, data_dir: Path) -> list[Path]:
    """Folders `ROOT/NAME/VERSION` that hold a prepared data set, the newest version of each root first."""
    folders = []
    for root in _roots(data_dir):
        versions = [path.parent for path in (root / name).glob("*/dataset_info.json")]
        versions = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
        folders += sorted(versions, key=lambda path: [int(part) for part in path.name.split(".")], reverse=True)
    return folders


def _file_format(folder: Path) -> str:
    # A file without the entry is older than the choice of formats.
    return json.loads((folder / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
