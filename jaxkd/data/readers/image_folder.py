"""Read images in folders, one for each class: `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxkd.checks import warn_caller
from jaxkd.data.streamed import StreamedDataset

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Endings of the files that are taken for images, in small letters or capitals; of a GIF it is the first picture."""

UNREAD = (
    *(
        ".heic",
        ".heif",
        ".avif",
        ".jp2",
        ".j2k",
        ".jxl",
        ".jxr",
        ".svg",
        ".svgz",
        ".ico",
        ".tga",
        ".psd",
        ".exr",
        ".hdr",
    ),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".dcm", ".dds", ".pcx", ".xcf", ".eps"),
)
"""Endings of images that are not read; others, such as those of notes and archives, are no images."""

_FOLDERS = {"train": ("train",), "test": ("val", "validation", "test")}
_NAMED = 5
_HOLD_OUT = "validation_split=0.1 (--validation-split 0.1)"


class FolderImages:
    """The images below some class folders as a source: `(path, label)` by number.

    They are numbered as torchvision's `ImageFolder` numbers them: class after class, folder after folder, by name. The
    names are kept in one block of bytes, so that a million of them is cheap to send to a process.

    Args:
      root: the folder with the class folders.
      classes: their names, in the order of the labels.

    Raises:
      ValueError: a class has no images.

    Warns:
      UserWarning: of images in formats that are not read.
    """

    def __init__(self, root: Path, classes: Sequence[str]) -> None:
        self.root = os.fspath(root)
        names: list[bytes] = []
        ends = []
        unread: list[str] = []
        for label in classes:
            found, left_out = _image_names(os.path.join(self.root, label))
            names += found
            unread += [os.path.join(label, name) for name in left_out]
            ends.append(len(names))
        empty = [label for label, count in zip(classes, np.diff(ends, prepend=0), strict=True) if not count]
        if empty:
            raise ValueError(
                f"{root}: no images in {_listed(empty)}: fill what is empty, or remove it (names of images end in "
                f"{', '.join(EXTENSIONS)})"
            )
        if unread:
            warn_caller(
                f"{root}: {len(unread)} images left out, in formats that are not read: {_listed(unread)}; convert them "
                "to PNG or JPEG"
            )
        self._classes, self._ends = tuple(classes), np.asarray(ends)
        self._names = b"".join(names)
        self._starts = np.cumsum([0] + [len(name) for name in names])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def example_names(self) -> Iterator[str]:
        """Yield the path of each image below the root, with `/` between its parts."""
        for number in range(len(self)):
            label, name = self._place(number)
            yield f"{self._classes[label]}/{name}".replace(os.sep, "/")

    def __getitem__(self, number: int) -> tuple[str, int]:
        if not 0 <= number < len(self):
            raise IndexError(f"there is no image {number}, only 0 to {len(self) - 1}")
        label, name = self._place(number)
        return os.path.join(self.root, self._classes[label], name), label

    def _place(self, number: int) -> tuple[int, str]:
        label = int(np.searchsorted(self._ends, number, side="right"))
        return label, os.fsdecode(self._names[self._starts[number] : self._starts[number + 1]])


def places(name: str, data_dir: Path) -> list[str]:
    """List where the folders are looked for."""
    return [
        f"{data_dir} (train/CLASS/*.JPEG and val/CLASS/*.JPEG, or another image format; with validation_split also "
        "CLASS/*.JPEG alone)"
    ]


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, StreamedDataset] | None:
    """Read the wanted splits; None where there is no folder of any.

    Raises:
      FileNotFoundError: one of the wanted splits has no folder.
      ValueError: there are no classes, a class without images, or classes that differ between the splits.
    """
    roots = {split: _root(data_dir, split) for split in _FOLDERS}
    missing = [split for split in splits if roots[split] is None]
    if not any(roots.values()):
        if unsplit := _unsplit_classes(data_dir):
            raise FileNotFoundError(
                f"{data_dir} holds images in {_listed(unsplit)}, and no folders train and val: hold a part of them out "
                f"with {_HOLD_OUT}"
            )
        return None
    if missing:
        wanted = " or ".join(str(data_dir / folder) for folder in _FOLDERS[missing[0]])
        there = next(split for split in roots if roots[split] is not None)
        raise FileNotFoundError(
            f"there is no folder {wanted}: add it, or read the other split alone, data.load({name!r}, split={there!r})"
            + (f", or hold a part of it out with {_HOLD_OUT}" if there == "train" else "")
        )
    found = {split: root for split, root in roots.items() if root is not None}
    classes = {split: class_folders(root) for split, root in found.items()}
    _check_equal(found, classes)
    return {
        split: StreamedDataset(FolderImages(found[split], classes[split]), tuple(classes[split]), name=name)
        for split in splits
    }


def whole(name: str, data_dir: Path) -> StreamedDataset | None:
    """Read the images of a tree without a split, in `train/CLASS/` or `CLASS/`; None where there are none.

    Raises:
      ValueError: there is a second split; otherwise as `read`.
    """
    train, test = (_root(data_dir, split) for split in _FOLDERS)
    if test is not None:
        raise ValueError(
            f"{test} has held-out images: leave validation_split out, or pass the folder of the class folders itself"
        )
    root = train or data_dir
    if not root.is_dir() or not (train or _unsplit_classes(data_dir)):
        return None
    classes = class_folders(root)
    return StreamedDataset(FolderImages(root, classes), tuple(classes), name=name)


def class_folders(root: Path) -> list[str]:
    """List the names of the class folders, sorted; those that begin with a dot are none.

    Raises:
      ValueError: there are none.
    """
    with os.scandir(root) as entries:
        found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    classes = [name for name, is_folder in found if is_folder]
    if classes:
        return classes
    loose = [name for name, _ in found if _is_image(name)]
    seen = f"{len(loose)} images, such as {loose[0]}, but no folders" if loose else "no folders"
    raise ValueError(f"{root} holds {seen}: put the images of each class into a folder of its own, {root / 'CLASS'}")


def _unsplit_classes(data_dir: Path) -> list[str]:
    """List the folders that hold images; none where the place itself does not exist."""
    if not data_dir.is_dir():
        return []
    with os.scandir(data_dir) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return [folder for folder in folders if any(_is_image(name) for name in os.listdir(data_dir / folder))]


def _root(data_dir: Path, split: str) -> Path | None:
    return next((data_dir / folder for folder in _FOLDERS[split] if (data_dir / folder).is_dir()), None)


def _check_equal(roots: dict[str, Path], classes: dict[str, list[str]]) -> None:
    if len(classes) < 2 or classes["train"] == classes["test"]:
        return
    alone = {
        roots["train"]: sorted(set(classes["train"]) - set(classes["test"])),
        roots["test"]: sorted(set(classes["test"]) - set(classes["train"])),
    }
    found = "; ".join(f"only {root} has {_listed(names)}" for root, names in alone.items() if names)
    raise ValueError(f"training and test images have other classes: {found}; give both the same folders")


def _image_names(folder: str) -> tuple[list[bytes], list[str]]:
    """List the paths of the images below a folder, relative to it, and of those in formats that are not read."""
    names, unread = [], []
    for path, _, files in sorted(os.walk(folder, followlinks=True)):
        inside = path[len(folder) :].lstrip(os.sep)
        for file in sorted(files):
            if _is_image(file):
                names.append(os.fsencode(os.path.join(inside, file)))
            elif file.lower().endswith(UNREAD) and not file.startswith("."):
                unread.append(os.path.join(inside, file))
    return names, unread


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
