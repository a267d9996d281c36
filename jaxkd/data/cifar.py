"""CIFAR-10 and CIFAR-100 from the official Python files, unpacked or inside their archive.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import dataclasses
import gzip
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jaxkd.data.cifar_spec import SPECS
from jaxkd.data.dataset import Dataset
from jaxkd.data.pickled_arrays import load_arrays

_Contents = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How one of the two data sets is spread over files."""

    folder: str
    archive: str
    files: Mapping[str, tuple[str, ...]]
    meta: str
    labels_key: str
    names_key: str

    def required(self, splits: Sequence[str]) -> list[str]:
        return [file for split in splits for file in self.files[split]]


_LAYOUTS = {
    "cifar10": _Layout(
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        files={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        meta="batches.meta",
        labels_key="labels",
        names_key="label_names",
    ),
    "cifar100": _Layout(
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        files={"train": ("train",), "test": ("test",)},
        meta="meta",
        labels_key="fine_labels",
        names_key="fine_label_names",
    ),
}


def places(name: str, data_dir: Path) -> list[str]:
    """Where the official files are looked for, in this order."""
    layout = _LAYOUTS[name]
    files = ", ".join(layout.required(("train", "test")))
    return [
        f"{data_dir / layout.folder} (the official folder: {files}, {layout.meta})",
        f"{data_dir / layout.archive} (the official archive, read as it is)",
        f"{data_dir} itself (the same files)",
    ]


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, Dataset] | None:
    """The wanted splits, from the first place that has all their files; None where no place has any.

    Raises:
      FileNotFoundError: some of the files are there and others are not.
      ValueError: a file is truncated, corrupt, lacks a key, or its labels are the coarse ones.
      UnsafePickleError: a file asks for code to be run.
    """
    layout = _LAYOUTS[name]
    required = layout.required(splits)
    incomplete = ""
    for place in (data_dir / layout.folder, data_dir / layout.archive, data_dir):
        contents = _read_place(place, layout, {*required, layout.meta})
        missing = [file for file in required if file not in contents]
        if not missing:
            return {split: _split(name, place, contents, split) for split in splits}
        present = [file for file in required if file in contents]
        if present and not incomplete:
            incomplete = f"{place} holds {', '.join(present)} but not {', '.join(missing)}"
    if incomplete:
        raise FileNotFoundError(
            f"{incomplete}: complete it from https://www.cs.toronto.edu/~kriz/{layout.archive}, "
            f"or read one split alone, data.load({name!r}, split='test')"
        )
    return None


def _read_place(place: Path, layout: _Layout, wanted: set[str]) -> _Contents:
    if place.name == layout.archive:
        return _read_archive(place, layout.folder, wanted) if place.is_file() else {}
    contents = {}
    for path in (place / file for file in sorted(wanted)):
        if path.is_file():
            with path.open("rb") as file:
                contents[path.name] = load_arrays(file, str(path))
    return contents


def _read_archive(archive: Path, folder: str, wanted: set[str]) -> _Contents:
    # One pass, in the order of the archive: going back in a compressed stream means decompressing it again.
    contents = {}
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                path = PurePosixPath(member.name)
                file = members.extractfile(member) if path.parent.name == folder and path.name in wanted else None
                if file is not None:
                    contents[path.name] = load_arrays(file, f"{archive}, {member.name}")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{archive} is truncated or corrupt ({error}): download it again") from error
    return contents


def _split(name: str, place: Path, contents: _Contents, split: str) -> Dataset:
    layout = _LAYOUTS[name]
    batches = [(f"{place}, {file}", contents[file]) for file in layout.files[split]]
    images = np.concatenate([_images(title, batch) for title, batch in batches])
    labels = np.concatenate([_labels(title, batch, layout.labels_key) for title, batch in batches])
    names = tuple(
        label.decode("latin1") if isinstance(label, bytes) else str(label)
        for label in contents.get(layout.meta, {}).get(layout.names_key, ())
    )
    return SPECS[name].dataset(images, labels, split, str(place), names)


def _images(title: str, batch: Mapping[str, Any]) -> np.ndarray:
    rows = np.asarray(_entry(title, batch, "data"))
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        raise ValueError(f"{title}: data must be [N, 3072] uint8; it is {rows.shape} {rows.dtype}")
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _labels(title: str, batch: Mapping[str, Any], key: str) -> np.ndarray:
    if key == "fine_labels" and key not in batch and ("coarse_labels" in batch or "labels" in batch):
        raise ValueError(
            f"{title} has no fine_labels, only {', '.join(sorted(batch))}: the 20 coarse labels do not stand in "
            "for the 100 fine ones; take the official file"
        )
    labels = np.asarray(_entry(title, batch, key))
    images = len(batch["data"])
    if labels.shape != (images,):
        raise ValueError(f"{title}: {images} images, but labels of shape {labels.shape}: the file was tampered with")
    return labels


def _entry(title: str, batch: Mapping[str, Any], key: str) -> Any:
    if key not in batch:
        raise ValueError(f"{title} has no {key!r}, only {', '.join(sorted(batch))}: it is not the official file")
    return batch[key]
