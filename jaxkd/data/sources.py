"""Data sets by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, overload

from jaxkd.base import Normalization
from jaxkd.data import ats, cifar, digits, tfds
from jaxkd.data.dataset import Dataset


class Source(Protocol):
    """One way a data set may be stored; each is a module of its own."""

    def places(self, name: str, data_dir: Path) -> list[str]:
        """Where it looks, in words for an error."""

    def read(self, name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, Dataset] | None:
        """The wanted splits, or None where nothing is there."""


_SOURCES: dict[str, tuple[Source, ...]] = {
    "cifar10": (cifar, tfds),
    "cifar100": (cifar, ats, tfds),
    "digits": (digits,),
}


def names() -> tuple[str, ...]:
    """The names that `load` knows.

    Example:
      >>> names()
      ('cifar10', 'cifar100', 'digits')
    """
    return tuple(sorted(_SOURCES))


@overload
def load(
    name: str,
    data_dir: str | Path | None = None,
    split: None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Dataset, Dataset]: ...


@overload
def load(
    name: str,
    data_dir: str | Path | None = None,
    *,
    split: Literal["train", "test"],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Dataset: ...


def load(
    name: str,
    data_dir: str | Path | None = None,
    split: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Dataset | tuple[Dataset, Dataset]:
    """Loads a data set from files that are already there; nothing is ever downloaded.

    "digits" comes with the package. "cifar10" and "cifar100" are read from the official Python files, unpacked or in
    their tar.gz; from the `cifar100-*.pkl` files of ATS; or from tensorflow-datasets where it has prepared them.

    Args:
      name: one of `names()`.
      data_dir: the folder with the files; by default the environment variable `JAXKD_DATA`, else `~/data`.
      split: "train" or "test" reads that one alone (its files suffice); None reads both.
      mean: per channel, where pixels run from 0 to 1, in place of the data set's own.
      std: likewise.

    Returns:
      `(train, test)`, or the one split asked for. The training set carries its augmentation.

    Raises:
      ValueError: an unknown name or split, or a damaged or mislabelled file.
      FileNotFoundError: nothing was found; the error lists where it looked and where to get the files.
      UnsafePickleError: a file would run code; nothing of it was run.

    Example:
      >>> load("digits", split="test")
      <Dataset 'digits': 360 images of 8×8×3, 10 classes>
    """
    if name not in _SOURCES:
        close = difflib.get_close_matches(str(name).lower(), names(), n=1)
        raise ValueError(
            f"no data set is called {name!r}{f' (did you mean {close[0]!r}?)' if close else ''}: "
            f"the names are {', '.join(names())}; for your own images there is data.from_arrays"
        )
    if split not in (None, "train", "test"):
        raise ValueError(f"split={split!r}: the splits are 'train' and 'test', and None stands for both")
    folder = Path(data_dir or os.environ.get("JAXKD_DATA") or "~/data").expanduser()
    if folder.is_file():
        raise NotADirectoryError(f"data_dir={str(folder)!r} is a file: pass the folder it lies in")
    datasets = _read(name, folder, ("train", "test") if split is None else (split,))
    if mean is not None or std is not None:
        for key, dataset in datasets.items():
            changed = Normalization(
                dataset.mean if mean is None else tuple(mean), dataset.std if std is None else tuple(std)
            )
            datasets[key] = dataset.replace(normalization=changed)
    return (datasets["train"], datasets["test"]) if split is None else datasets[split]


def _read(name: str, folder: Path, splits: Sequence[str]) -> dict[str, Dataset]:
    for source in _SOURCES[name]:
        datasets = source.read(name, folder, splits)
        if datasets is not None:
            return datasets
    looked = "\n".join(f"  {place}" for source in _SOURCES[name] for place in source.places(name, folder))
    raise FileNotFoundError(
        f"{name} was not found. Looked at:\n{looked}\nGet the Python version from "
        f"https://www.cs.toronto.edu/~kriz/cifar.html, put it there, and pass its folder as data_dir "
        f"(or set JAXKD_DATA; the default is ~/data)"
    )
