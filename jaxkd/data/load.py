"""Load data sets by name: which readers know one, and which of them is chosen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol, get_args, overload

from jaxkd.data.dataset import Dataset
from jaxkd.data.readers import (
    ats,
    cifar,
    digits,
    image_folder,
    imagenet,
    imagenette,
    npz,
    stl10,
    svhn,
    tfds,
    tiny_imagenet,
)
from jaxkd.data.streamed import StreamedDataset, views
from jaxkd.keywords import did_you_mean
from jaxkd.types import Normalization


class WholeReader(Protocol):
    """Reads images that may lie there without a split; each is a module of `jaxkd.data.readers`."""

    def whole(self, name: str, data_dir: Path) -> Dataset | StreamedDataset | None:
        """Read all images; None where nothing is there."""


class Reader(Protocol):
    """Reads one way a data set may be stored; each is a module of `jaxkd.data.readers`."""

    def places(self, name: str, data_dir: Path) -> list[str]:
        """List where it looks, in words for an error."""

    def read(
        self, name: str, data_dir: Path, splits: Sequence[str]
    ) -> Mapping[str, Dataset] | Mapping[str, StreamedDataset] | None:
        """Read the wanted splits; None where nothing is there."""


@dataclass(frozen=True)
class _Known:
    """A data set that has a name.

    Attributes:
      readers: in the order in which they are tried.
      advice: where to get it.
      whole: reads images of one's own, of which a part may be held out.
      is_file: whether it may be a single file.
    """

    readers: tuple[Reader, ...]
    advice: str = ""
    whole: WholeReader | None = None
    is_file: bool = False


_CIFAR_ADVICE = "Get the Python version from https://www.cs.toronto.edu/~kriz/cifar.html, put it there"

_KNOWN = {
    "cifar10": _Known((cifar, tfds), _CIFAR_ADVICE),
    "cifar100": _Known((cifar, ats, tfds), _CIFAR_ADVICE),
    "digits": _Known((digits,)),
    "folder": _Known((image_folder,), "Put the images of each class into a folder of their own", image_folder),
    "imagenet2012": _Known(
        (imagenet,),
        "Get the images from https://www.image-net.org, unpack them into a folder for each class, or have "
        "tensorflow-datasets prepare them with file_format='array_record'",
    ),
    "imagenette": _Known(
        (imagenette,), "Get imagenette2, or imagenette2-160, from https://github.com/fastai/imagenette, unpack it there"
    ),
    "npz": _Known((npz,), "Write the arrays with numpy.savez(path, x_train=…, y_train=…)", npz, is_file=True),
    "stl10": _Known((stl10,), "Get the binary files from https://cs.stanford.edu/~acoates/stl10, unpack them there"),
    "svhn": _Known((svhn,), "Get the 32×32 MATLAB files from http://ufldl.stanford.edu/housenumbers, put them there"),
    "tiny-imagenet": _Known((tiny_imagenet,), "Get http://cs231n.stanford.edu/tiny-imagenet-200.zip, unpack it there"),
}


def names() -> tuple[str, ...]:
    """List the names that `load` knows.

    Example:
      >>> names()
      ('cifar10', 'cifar100', 'digits', 'folder', 'imagenet2012', 'imagenette', 'npz', 'stl10', 'svhn', 'tiny-imagenet')
    """
    return tuple(sorted(_KNOWN))


OWN = tuple(name for name, known in _KNOWN.items() if known.whole)
"""Names of the user's own images, which differ by where they lie; others are the same everywhere."""

_StreamedName = Literal["folder", "imagenet2012", "imagenette"]

STREAMED: tuple[str, ...] = get_args(_StreamedName)
"""Names of what is read while training; networks see the middle of such an image."""


@overload
def load(  # type: ignore[overload-overlap]  # the names that are streamed come first
    name: _StreamedName,
    data_dir: str | Path | None = None,
    split: None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    workers: int | None = None,
    validation_split: float | None = None,
    seed: int = 0,
) -> tuple[StreamedDataset, StreamedDataset]: ...


@overload
def load(  # type: ignore[overload-overlap]  # the names that are streamed come first
    name: _StreamedName,
    data_dir: str | Path | None = None,
    *,
    split: Literal["train", "test"],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    workers: int | None = None,
    validation_split: float | None = None,
    seed: int = 0,
) -> StreamedDataset: ...


@overload
def load(
    name: str,
    data_dir: str | Path | None = None,
    split: None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    validation_split: float | None = None,
    seed: int = 0,
) -> tuple[Dataset, Dataset]: ...


@overload
def load(
    name: str,
    data_dir: str | Path | None = None,
    *,
    split: Literal["train", "test"],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    validation_split: float | None = None,
    seed: int = 0,
) -> Dataset: ...


def load(
    name: str,
    data_dir: str | Path | None = None,
    split: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    workers: int | None = None,
    validation_split: float | None = None,
    seed: int = 0,
) -> Dataset | StreamedDataset | tuple[Dataset, Dataset] | tuple[StreamedDataset, StreamedDataset]:
    """Load a data set from files that are already there; nothing is ever downloaded.

    "digits" comes with the package. "cifar10" and "cifar100" are read from the official Python files, unpacked or in
    their tar.gz; from the `cifar100-*.pkl` files of ATS; or from tensorflow-datasets where it has prepared them.

    "svhn", "stl10" and "tiny-imagenet" are read into memory from their official files or folders, unpacked.
    "tiny-imagenet" needs Pillow.

    "imagenet2012", "imagenette" and "folder" are read while training runs, and need `pip install 'jaxkd[stream]'`.
    "folder" stands for any images in `train/CLASS/` and `val/CLASS/` (or `test/CLASS/`) below `data_dir`; classes are
    those of `train`, numbered by name, and `val` may lack some. "imagenet2012" is such a tree of the thousand classes
    of ImageNet, or what tensorflow-datasets prepared of it with `file_format="array_record"`. "imagenette" is the
    largest of its folders that is there.

    "npz" is a file of NumPy's with the arrays `x_train` and `y_train`, `x_test` and `y_test`, or by other usual names.

    Images in `CLASS/` alone, or in a file without a split, are divided by `validation_split`: into the same two parts
    every time, of each class alike.

    Args:
      name: one of `names()`.
      data_dir: the folder with the files, or the file of "npz"; by default the environment variable `JAXKD_DATA`, else
        `~/data`.
      split: "train" or "test" reads that one alone (its files suffice); None reads both.
      mean: per channel, where pixels run from 0 to 1, in place of the data set's own.
      std: likewise.
      image_size: height and width that images which are read while training are brought to, by default 224.
      workers: processes that decode them, as `StreamedDataset` has it; 0 decodes in threads.
      validation_split: the part of "folder" or "npz" images to hold out as the test set, where there is none.
      seed: of that choice, which is not that of a run, so that all runs hold the same images out.

    Returns:
      `(train, test)`, or the one split asked for: a `Dataset`, or a `StreamedDataset` for those that are read while
      training runs. The training set carries its augmentation.

    Raises:
      ValueError: an unknown name or split, or a damaged or mislabelled file.
      FileNotFoundError: nothing was found; the error lists where it looked and where to get the files.
      UnsafePickleError: a file would run code; nothing of it was run.
      ImportError: what reads images while training is not installed.

    Example:
      >>> load("digits", split="test")
      <Dataset 'digits': 360 images of 8×8×3, 10 classes>
    """
    if name not in _KNOWN:
        raise ValueError(
            f"no data set is called {name!r}: {did_you_mean(str(name).lower(), names())}the names are "
            f"{', '.join(names())}; for your own images there are data.from_arrays and data.from_source"
        )
    if split not in (None, "train", "test"):
        raise ValueError(f"split={split!r}: the splits are 'train' and 'test', and None stands for both")
    root = Path(data_dir or os.environ.get("JAXKD_DATA") or "~/data").expanduser()
    known = _KNOWN[name]
    if root.is_file() and not known.is_file:
        raise NotADirectoryError(f"data_dir={str(root)!r} is a file: pass the folder it lies in")
    read: Mapping[str, Dataset | StreamedDataset]
    if validation_split is None:
        read = _read(name, root, ("train", "test") if split is None else (split,))
    else:
        read = _divided(name, root, validation_split, seed)
    found = {key: _changed(dataset, mean, std, image_size, workers) for key, dataset in read.items()}
    return (found["train"], found["test"]) if split is None else found[split]  # type: ignore[return-value]


def _changed(
    dataset: Dataset | StreamedDataset,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    image_size: int | None,
    workers: int | None,
) -> Dataset | StreamedDataset:
    if mean is not None or std is not None:
        normalization = Normalization(
            dataset.mean if mean is None else tuple(mean), dataset.std if std is None else tuple(std)
        )
        dataset = dataset.replace(normalization=normalization)
    if image_size is None and workers is None:
        return dataset
    if isinstance(dataset, Dataset):
        raise ValueError(
            f"image_size and workers are for images that are read while training, and {dataset.name} is held in memory "
            f"as {'×'.join(str(size) for size in dataset.images.shape[1:3])} pixels: leave them out"
        )
    if image_size is not None:
        augmentation, view = views(image_size)
        dataset = dataset.replace(augmentation=augmentation, view=view)
    return dataset.replace(workers=workers)


def _read(name: str, root: Path, splits: Sequence[str]) -> Mapping[str, Dataset] | Mapping[str, StreamedDataset]:
    """Read a data set with the first of its readers that finds it."""
    for reader in _KNOWN[name].readers:
        datasets = reader.read(name, root, splits)
        if datasets is not None:
            return datasets
    raise _not_found(name, root)


def _divided(name: str, root: Path, fraction: float, seed: int) -> Mapping[str, Dataset | StreamedDataset]:
    """Read a data set that has no split, and hold a part of it out."""
    reader = _KNOWN[name].whole
    if reader is None:
        raise ValueError(
            f"validation_split is for images without a split of their own ({', '.join(OWN)}), and {name} has one: "
            "leave it out, or hold training images out with train.split(0.1)"
        )
    dataset = reader.whole(name, root)
    if dataset is None:
        raise _not_found(name, root)
    train, test = dataset.split(fraction, seed)
    return {"train": train, "test": test}


def _not_found(name: str, root: Path) -> FileNotFoundError:
    known = _KNOWN[name]
    looked = "\n".join(f"  {place}" for reader in known.readers for place in reader.places(name, root))
    return FileNotFoundError(
        f"the data set {name!r} was not found. Looked at:\n{looked}\n{known.advice}, and pass its folder as data_dir, "
        f"--data-dir on a command line (or set JAXKD_DATA; the default is ~/data). {_at_hand(name, root)}"
    )


def _at_hand(name: str, root: Path) -> str:
    """Return what a folder has in the place of a data set that is not there, in a sentence."""
    if not root.is_dir():
        return f"There is no folder {root}"
    pictures = (path for depth in ("*/*", "*/*/*") for path in islice(root.glob(depth), 1000))
    picture = next((path for path in pictures if path.suffix.lower() in image_folder.EXTENSIONS), None)
    if name != "folder" and picture is not None:
        cure = "its data set is 'folder', --data folder on a command line"
        return f"{root} holds images in folders, such as {picture.relative_to(root)}: {cure}"
    found = sorted(path.name for path in root.iterdir())
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"{root} holds {', '.join(found[:5])}{more}" if found else f"{root} is empty"
