"""Read CIFAR-10 and CIFAR-100 from the official Python files, unpacked or inside their archive.

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
from numpy.typing import ArrayLike, NDArray

from jaxkd.data.dataset import Dataset
from jaxkd.data.transforms.pad_crop_flip import Augmentation
from jaxkd.formats.unpickler import load_arrays
from jaxkd.types import Normalization


@dataclasses.dataclass(frozen=True)
class CifarSpec:
    """One of the two data sets: its classes and statistics, and how the official files hold it.

    Attributes:
      name: the name it is loaded by.
      class_names: K names in the order of the labels.
      normalization: mean and standard deviation per channel that the distillation literature uses.
      folder: of the unpacked files.
      archive: with that folder.
      files: of each split.
      meta: the file with the names of the classes.
      labels_key: of the labels in each file.
      names_key: of the names in the meta file.
      coarse_classes: the number of superclasses, or 0.
    """

    name: str
    class_names: tuple[str, ...]
    normalization: Normalization
    folder: str
    archive: str
    files: Mapping[str, tuple[str, ...]]
    meta: str
    labels_key: str
    names_key: str
    coarse_classes: int = 0

    def required(self, splits: Sequence[str]) -> list[str]:
        """List the files of some splits."""
        return [file for split in splits for file in self.files[split]]

    def dataset(
        self, images: NDArray[np.uint8], labels: ArrayLike, split: str, title: str, class_names: tuple[str, ...] = ()
    ) -> Dataset:
        """Build a split from what a file gave, of whatever format.

        Args:
          images: `[N, 32, 32, 3]` uint8.
          labels: `[N]` class indices.
          split: "train", which is augmented (pad 4, crop, flip), or "test".
          title: the file or folder, for errors.
          class_names: K names, where the file has its own.

        Raises:
          ValueError: anything that `Dataset` refuses, and superclasses given as classes.
        """
        labels = np.asarray(labels)
        # By chance, a hundred labels of CIFAR-100 would all be below 20 with probability 10⁻⁷⁰.
        if self.coarse_classes and len(labels) >= 100 and labels.max() < self.coarse_classes:
            raise ValueError(
                f"{title}: all {len(labels)} labels are below {self.coarse_classes}, so they are the "
                f"{self.coarse_classes} coarse labels; give the {len(self.class_names)} fine ones"
            )
        try:
            return Dataset(
                images,
                labels,
                class_names or self.class_names,
                self.normalization,
                Augmentation(pad=4, flip=True) if split == "train" else None,
                self.name,
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"{title}: {error}") from None


_CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"

_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR10 = CifarSpec(
    name="cifar10",
    class_names=tuple(_CIFAR10_NAMES.split()),
    normalization=Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    files={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    meta="batches.meta",
    labels_key="labels",
    names_key="label_names",
)

CIFAR100 = CifarSpec(
    name="cifar100",
    class_names=tuple(_CIFAR100_NAMES.split()),
    normalization=Normalization((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    files={"train": ("train",), "test": ("test",)},
    meta="meta",
    labels_key="fine_labels",
    names_key="fine_label_names",
    coarse_classes=20,
)

SPECS = {spec.name: spec for spec in (CIFAR10, CIFAR100)}


def places(name: str, data_dir: Path) -> list[str]:
    """List where the official files are looked for, in this order."""
    spec = SPECS[name]
    files = ", ".join(spec.required(("train", "test")))
    return [
        f"{data_dir / spec.folder} (the official folder: {files}, {spec.meta})",
        f"{data_dir / spec.archive} (the official archive, read as it is)",
        f"{data_dir} itself (the same files)",
    ]


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, Dataset] | None:
    """Read the wanted splits from the first place that has all their files; None where no place has any.

    Raises:
      FileNotFoundError: some of the files are there and others are not.
      ValueError: a file is truncated, corrupt, lacks a key, or its labels are the coarse ones.
      UnsafePickleError: a file asks for code to be run.
    """
    spec = SPECS[name]
    required = spec.required(splits)
    incomplete = ""
    for place in (data_dir / spec.folder, data_dir / spec.archive, data_dir):
        contents = _read_place(place, spec, {*required, spec.meta})
        missing = [file for file in required if file not in contents]
        if not missing:
            return {split: _split(spec, place, contents, split) for split in splits}
        present = [file for file in required if file in contents]
        if present and not incomplete:
            incomplete = f"{place} holds {', '.join(present)} but not {', '.join(missing)}"
    if incomplete:
        raise FileNotFoundError(
            f"{incomplete}: complete it from https://www.cs.toronto.edu/~kriz/{spec.archive}, "
            f"or read one split alone, data.load({name!r}, split='test')"
        )
    return None


def _read_place(place: Path, spec: CifarSpec, wanted: set[str]) -> dict[str, Any]:
    if place.name == spec.archive:
        return _read_archive(place, spec.folder, wanted) if place.is_file() else {}
    contents = {}
    for path in (place / file for file in sorted(wanted)):
        if path.is_file():
            with path.open("rb") as file:
                contents[path.name] = load_arrays(file, str(path))
    return contents


def _read_archive(archive: Path, folder: str, wanted: set[str]) -> dict[str, Any]:
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


def _split(spec: CifarSpec, place: Path, contents: Mapping[str, Any], split: str) -> Dataset:
    batches = [(f"{place}, {file}", contents[file]) for file in spec.files[split]]
    images = np.concatenate([_images(title, batch) for title, batch in batches])
    labels = np.concatenate([_labels(title, batch, spec.labels_key) for title, batch in batches])
    names = tuple(
        label.decode("latin1") if isinstance(label, bytes) else str(label)
        for label in contents.get(spec.meta, {}).get(spec.names_key, ())
    )
    return spec.dataset(images, labels, split, str(place), names)


def _images(title: str, batch: Mapping[str, Any]) -> NDArray[np.uint8]:
    rows = np.asarray(_entry(title, batch, "data"))
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        raise ValueError(f"{title}: data must be [N, 3072] uint8; it is {rows.shape} {rows.dtype}")
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _labels(title: str, batch: Mapping[str, Any], key: str) -> NDArray[Any]:
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
