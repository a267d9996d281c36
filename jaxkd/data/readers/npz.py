"""Read images and labels from an `.npz` file of NumPy's, as `numpy.savez` writes one.

Arrays are known by their names, in any order and case: `x_train` and `y_train` as in Keras's files, `train_images` and
`train_labels` as in MedMNIST's; with `val`, `validation` or `test` in place of `train`; or `x` and `y` alone.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxkd.data.array_checks import classes_needed
from jaxkd.data.dataset import Dataset, from_arrays

_KINDS = {"images": ("x", "image", "images", "data", "pixels"), "labels": ("y", "label", "labels", "target", "targets")}
_SPLITS: dict[str, tuple[tuple[str, ...], ...]] = {
    "train": (("train", "training"),),
    "test": (("val", "valid", "validation"), ("test",)),
    "all": (("",),),
}
"""Of each split the sets that may stand for it, the first one first, and of each set the words for it."""

_WORDS = {word for sets in _SPLITS.values() for words in sets for word in words} - {""}
_NAMES = ("class_names", "label_names")

Pair = tuple[NDArray[Any], NDArray[Any]]
Parts = dict[str, NDArray[Any]]


def places(name: str, data_dir: Path) -> list[str]:
    """List where the file is looked for."""
    return [f"{data_dir} (an .npz file, or a folder with one)"]


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, Dataset] | None:
    """Read the wanted splits, normalised with the training pixels' statistics; None where there is no file.

    Grey images become RGB. Of several held-out sets the first of val, validation and test that has labels is read.

    Raises:
      FileNotFoundError: the file lacks one of the splits.
      ValueError: there are several files, or one is damaged or has no arrays of these names.
    """
    path = _file(data_dir)
    if path is None:
        return None
    pairs, names = _read(path)
    missing = [split for split in splits if split not in pairs]
    if missing:
        divide = "hold a part of them out with validation_split=0.1 (--validation-split 0.1)"
        cure = "split='test' reads these" if "test" in pairs else divide
        raise FileNotFoundError(f"{path} has images of {_listed(pairs)} alone, and no {missing[0]}: {cure}")
    train = pairs.get("train", pairs[splits[0]])
    trained = _dataset(path, train, names, max(_classes(path, labels) for _, labels in pairs.values()), name)
    found = {}
    for split in splits:
        images, labels = pairs[split]
        try:
            found[split] = trained if pairs[split] is train else trained.replace(images=images, labels=labels)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}, {split}: {error}") from None
    return found


def whole(name: str, data_dir: Path) -> Dataset | None:
    """Read the images of a file without held-out ones; None where there is no file.

    Raises:
      ValueError: there are held-out ones; otherwise as `read`.
    """
    path = _file(data_dir)
    if path is None:
        return None
    pairs, names = _read(path)
    if "test" in pairs:
        raise ValueError(f"{path} has held-out images of its own: leave validation_split out")
    [pair] = pairs.values()
    return _dataset(path, pair, names, _classes(path, pair[1]), name)


def _classes(path: Path, labels: np.ndarray) -> int:
    try:
        return classes_needed(labels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _file(data_dir: Path) -> Path | None:
    if data_dir.is_file():
        return data_dir
    found = sorted(data_dir.glob("*.npz"))
    if len(found) > 1:
        raise ValueError(f"{data_dir} holds {', '.join(path.name for path in found)}: pass one of them as data_dir")
    return found[0] if found else None


def _read(path: Path) -> tuple[dict[str, Pair], tuple[str, ...] | None]:
    """Return images and labels by split, "all" where the names say none, and the names of the classes."""
    try:
        file = np.load(path)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array: write all with numpy.savez(path, x_train=…, y_train=…)")
        with file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not an .npz file of plain arrays: {error}") from None
    found: dict[str, Parts] = {}
    for key, array in arrays.items():
        if (place := _place(key)) is not None:
            word, kind = place
            found.setdefault(word, {}).setdefault(kind, array)
    pairs = {}
    for split, sets in _SPLITS.items():
        parts = next(filter(None, (_complete(found, words) for words in sets)), None)
        if parts is not None:
            pairs[split] = _pair(path, split, parts)
    if not pairs or ("all" in pairs and len(pairs) > 1):
        held = ", ".join(f"{key} {list(array.shape)}" for key, array in arrays.items()) or "nothing"
        raise ValueError(
            f"{path} holds {held}: name the arrays x_train, y_train, x_test and y_test, or x and y where there is no "
            "split"
        )
    names = next((arrays[key] for key in _NAMES if key in arrays), None)
    return pairs, None if names is None else tuple(map(str, names))


def _complete(found: dict[str, Parts], words: Sequence[str]) -> Parts | None:
    """Return images and labels by one of the words for a set, else by several, such as `x_val` and `y_validation`."""
    each = [found.get(word, {}) for word in words]
    together = {kind: array for parts in reversed(each) for kind, array in parts.items()}
    return next((parts for parts in (*each, together) if len(parts) == len(_KINDS)), None)


def _place(key: str) -> tuple[str, str] | None:
    """Return the word for the set and the kind of an array by its name.

    Example:
      >>> _place("X_train"), _place("test_labels"), _place("y"), _place("notes")
      (('train', 'images'), ('test', 'labels'), ('', 'labels'), None)
    """
    words = re.split(r"[^a-z0-9]+", key.lower())
    kinds = [kind for kind, known in _KINDS.items() if set(words) & set(known)]
    sets = [word for word in words if word in _WORDS]
    if len(kinds) != 1 or len(words) != len(kinds) + len(sets) or len(sets) > 1:
        return None
    return sets[0] if sets else "", kinds[0]


def _pair(path: Path, split: str, parts: Parts) -> Pair:
    images, labels = parts["images"], parts["labels"]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[-1] == 1:
        images = np.broadcast_to(images, (*images.shape[:-1], 3))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels of {split} are {labels.dtype}: give integers from 0 to K-1")
    return images, labels


def _dataset(path: Path, pair: Pair, class_names: tuple[str, ...] | None, classes: int, name: str) -> Dataset:
    try:
        count = None if class_names else classes
        return from_arrays(*pair, class_names=class_names, num_classes=count).replace(name=name)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from None


def _listed(pairs: dict[str, Pair]) -> str:
    return "one set" if "all" in pairs else ", ".join(pairs)
