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
      may_lack: whether some classes may have no images, or no folder, as in held-out data.

    Raises:
      ValueError: a class has no images, or none has any.

    Warns:
      UserWarning: of classes without images, where there may be some; of images in formats that are not read; and of
        class folders that hold folders alone, several of them with images, which may be the classes that were meant.
    """

    def __init__(self, root: Path, classes: Sequence[str], may_lack: bool = False) -> None:
        self.root = os.fspath(root)
        names: list[bytes] = []
        ends = []
        unread: list[str] = []
        nested: list[str] = []
        for label in classes:
            found, left_out = _image_names(os.path.join(self.root, label))
            inside = {name.partition(os.fsencode(os.sep))[0] for name in found if os.fsencode(os.sep) in name}
            if len(inside) > 1 and all(os.fsencode(os.sep) in name for name in found):
                nested += [os.path.join(label, os.fsdecode(name)) for name in sorted(inside)]
            names += found
            unread += [os.path.join(label, name) for name in left_out]
            ends.append(len(names))
        empty = [label for label, count in zip(classes, np.diff(ends, prepend=0), strict=True) if not count]
        if empty and not (may_lack and names):
            raise ValueError(
                f"{root}: no images in {_listed(empty)}: fill what is empty, or remove it (names of images end in "
                f"{', '.join(EXTENSIONS)})"
            )
        if empty:
            warn_caller(f"{root}: no images in {_listed(empty)}: what is measured here says nothing of these classes")
        if unread:
            warn_caller(
                f"{root}: {len(unread)} images left out, in formats that are not read: {_listed(unread)}; convert them "
                "to PNG or JPEG"
            )
        if nested:
            warn_caller(
                f"{root}: images lie a folder deeper, in {_listed(nested)}, and count as the class of the folder "
                f"above, such as {nested[0].partition(os.sep)[0]}: if the inner folders are the classes, move them up"
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

    Classes are numbered by the folders of the training images, where there are any; of the test images some may lack.

    Raises:
      FileNotFoundError: one of the wanted splits has no folder.
      ValueError: there are no classes, one without training images, or one that test images have alone.

    Warns:
      UserWarning: of classes without test images.
    """
    found = {split: root for split in _FOLDERS if (root := _root(data_dir, split)) is not None}
    if not found and (unsplit := _unsplit_classes(data_dir)):
        raise FileNotFoundError(
            f"{data_dir} holds images in {_listed(unsplit)}, which are classes, and no folders train and val: hold a "
            f"part of them out with {_HOLD_OUT}"
        )
    missing = next((split for split in splits if split not in found), None)
    if missing is not None:
        _check_named_folder(data_dir, missing)
        if not found:
            return None
        wanted = " or ".join(str(data_dir / folder) for folder in _FOLDERS[missing])
        [there] = found
        raise FileNotFoundError(
            f"there is no folder {wanted}: add it, or read the other split alone, data.load({name!r}, split={there!r})"
            + (f", or hold a part of it out with {_HOLD_OUT}" if there == "train" else "")
        )
    classes = _classes(found)
    return {
        split: StreamedDataset(FolderImages(found[split], classes, may_lack=split == "test"), tuple(classes), name=name)
        for split in splits
    }


def whole(name: str, data_dir: Path) -> StreamedDataset | None:
    """Read the images of a tree without a split, in `train/CLASS/` or `CLASS/`; None where there are none.

    Raises:
      ValueError: there is a second split, or `train` may be a split as well as a class; otherwise as `read`.
    """
    train, test = (_root(data_dir, split) for split in _FOLDERS)
    if test is not None:
        raise ValueError(
            f"{test} has held-out images: leave validation_split out, or pass the folder of the class folders itself"
        )
    unsplit = _unsplit_classes(data_dir)
    if train is not None and train.name in unsplit:
        others = [folder for folder in unsplit if folder != train.name]
        raise ValueError(
            f"{train} holds images as well as folders, beside images in {_listed(others)}: if it is a split, move its "
            "own images into its folders, and if it is a class, those of its folders out of them"
        )
    if train is None and not unsplit:
        _check_named_folder(data_dir, "train")
        return None
    root = train or data_dir
    classes = class_folders(root)
    return StreamedDataset(FolderImages(root, classes), tuple(classes), name=name)


def class_folders(root: Path) -> list[str]:
    """List the names of the class folders, sorted; those that begin with a dot are none.

    Raises:
      ValueError: there are none.
    """
    classes, loose = _content(root)
    if classes:
        return classes
    seen = f"{len(loose)} images, such as {loose[0]}, but no folders" if loose else "no folders"
    raise ValueError(f"{root} holds {seen}: put the images of each class into a folder of its own, {root / 'CLASS'}")


def _content(folder: Path) -> tuple[list[str], list[str]]:
    """List the folders and the images in a folder itself, sorted; what begins with a dot is neither."""
    with os.scandir(folder) as entries:
        found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    return [name for name, inner in found if inner], [name for name, inner in found if not inner and _is_image(name)]


def _unsplit_classes(data_dir: Path) -> list[str]:
    """List the folders that hold images themselves; none where all of these are called as splits are."""
    if not data_dir.is_dir():
        return []
    found = [folder for folder in _content(data_dir)[0] if _content(data_dir / folder)[1]]
    return found if set(found).difference(*_FOLDERS.values()) else []


def _root(data_dir: Path, split: str) -> Path | None:
    """Return the folder of a split; one without class folders is none, such as the class `train` beside `bus`."""
    return next((folder for folder in _named_folders(data_dir, split) if _content(folder)[0]), None)


def _named_folders(data_dir: Path, split: str) -> list[Path]:
    return [data_dir / folder for folder in _FOLDERS[split] if (data_dir / folder).is_dir()]


def _check_named_folder(data_dir: Path, split: str) -> None:
    """Refuse a folder that is called as a split is, and has no class folders."""
    for folder in _named_folders(data_dir, split):
        class_folders(folder)


def _classes(roots: dict[str, Path]) -> list[str]:
    """List the classes of the training images, or of the test images where there are no others."""
    classes, *others = (class_folders(root) for root in roots.values())
    alone = sorted({name for other in others for name in other}.difference(classes))
    if alone:
        raise ValueError(
            f"training and test images have other classes: only {roots['test']} has {_listed(alone)}; give both these "
            f"folders, or move them out of {roots['test'].name}"
        )
    return classes


def _image_names(folder: str) -> tuple[list[bytes], list[str]]:
    """List the paths of the images below a folder, relative to it, and of those in formats that are not read."""
    names, unread = [], []
    for path, _, files in sorted(os.walk(folder, followlinks=True)):
        inside = path[len(folder) :].lstrip(os.sep)
        if any(part.startswith(".") for part in inside.split(os.sep)):  # thumbnails and copies of other programs
            continue
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
