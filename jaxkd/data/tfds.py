"""CIFAR-10 and CIFAR-100 as tensorflow-datasets prepared them, read without TensorFlow and never downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxkd.data import prepared
from jaxkd.data.cifar_spec import SPECS
from jaxkd.data.dataset import Dataset

places = prepared.places


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, Dataset] | None:
    """The wanted splits, from the newest prepared version; None where there is none.

    Raises:
      ValueError: the prepared data set lacks a split, or its labels are out of range.
    """
    folder = prepared.newest(name, data_dir)
    if folder is None:
        return None
    builder = prepared.builder(folder, splits)
    datasets = {}
    for split in splits:
        examples = list(builder.as_data_source(split=split))
        images = np.stack([example["image"] for example in examples])
        labels = np.asarray([example["label"] for example in examples])
        names = tuple(builder.info.features["label"].names)
        datasets[split] = SPECS[name].dataset(images, labels, split, str(folder), names)
    return datasets
