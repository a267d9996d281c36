"""Tells what a trained network sees in pictures: the class and its probability, file by file."""

from __future__ import annotations

import argparse
import csv
import functools
import io
import pathlib
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

import jaxkd
from jaxkd.analysis.logits import log_softmax
from jaxkd.command_line import CommandLine, Help, program
from jaxkd.commands import network
from jaxkd.data import names as data_names
from jaxkd.data.load import STREAMED
from jaxkd.data.pipeline.decode import BrokenImageError, decode
from jaxkd.data.readers.image_folder import EXTENSIONS
from jaxkd.data.streamed import views
from jaxkd.data.transforms.resized_crop import ResizedCentreCrop
from jaxkd.export.source import shape_of_data
from jaxkd.formats.files import atomic_write, check_file, write_text
from jaxkd.libraries import needed

EXAMPLES = """examples:
  pictures, and folders of them:
    jaxkd predict runs/flowers daisy.jpg holiday/
  the three likeliest classes, into a table:
    jaxkd predict runs/flowers holiday/ --top-k 3 --output holiday.csv
  pixels in an array [N, H, W, C], uint8; logits and probabilities into a file of NumPy's:
    jaxkd predict runs/kd pixels.npz --output answers.npz
  a file of weights that does not say what its images are normalised with: as those of CIFAR-100
    jaxkd predict cifar100_resnet56.pth cat.png --data cifar100

A picture's shorter side is resized to what the network was trained on, and the middle is taken.
"""

View = Callable[[Any], np.ndarray]
"""Takes an image of Pillow's in mode RGB and gives pixels `[H, W, 3]`."""

Reader = Callable[[pathlib.Path], np.ndarray]
"""Takes a picture's file and gives pixels `[H, W, C]`."""

COLUMNS = ("file", "rank", "class", "name", "probability")


class Answers(NamedTuple):
    """A network's answers to some pictures.

    Attributes:
      names: of the files; those in an array are called FILE[0], FILE[1], …
      logits: `[N, K]`.
    """

    names: list[str]
    logits: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """Return those of all classes, `[N, K]`."""
        return np.exp(log_softmax(self.logits))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
      The exit code: 0, or 2 where a picture could not be read, which is said on standard error.
    """
    parser = command_line()
    options = parser.parse_intermixed_args(arguments)
    unreadable: list[str] = []
    try:
        if options.top_k < 1:
            raise ValueError(f"--top-k {options.top_k}: at least one is needed")
        if options.output is not None and options.output.suffix not in (".csv", ".npz"):
            raise ValueError(f"--output {options.output}: give a name that ends in .csv or .npz")
        if missing := [path for path in options.pictures if not path.exists()]:
            raise FileNotFoundError(f"{missing[0]}: there is no such file or folder")
        if options.output is not None:
            check_file(options.output)
        trained = network.load(options)
        classes, trained.model.normalization = known(options, trained)
        reader = functools.partial(pixels_of, options, trained)
        answers = Answers(*answered(trained.model, options.pictures, reader, options.batch_size, unreadable))
        if options.output is not None:
            write(options.output, answers, classes, options.top_k)
    except (ValueError, TypeError, OSError, ImportError) as error:
        parser.error(" ".join(str(error).split()))
    if options.output is None:
        print("\n".join(lines(answers, classes, options.top_k)))
    else:
        print(f"{len(answers.names):,} answers are in {options.output}")
    for reason in unreadable:
        print(f"not read: {reason}", file=sys.stderr)
    return 2 if unreadable else 0


def known(options: argparse.Namespace, trained: network.Trained) -> tuple[tuple[str, ...], Any]:
    """Return the names of the classes, and what the pixels are normalised with.

    Raises:
      ValueError: where nothing says it, or names are too few or too many.
    """
    count, own = trained.model.num_classes, getattr(trained.model, "normalization", None)
    if options.class_names is not None:
        names = tuple(options.class_names.read_text(encoding="utf-8").splitlines())
        if len(names) != count:
            raise ValueError(f"--class-names {options.class_names} has {len(names)} lines for {count} classes")
    else:
        names = tuple(map(str, range(count)))
    if options.data is None and (options.class_names is not None or trained.record is None):
        if own is None:
            raise ValueError(
                f"{trained.path} does not say what its images are normalised with: name the --data that it learned "
                "from, or write a folder that says it with jaxkd convert IN OUT --mean … --std …"
            )
        return names, own
    asked = argparse.Namespace(**{**vars(options), "image_size": None})  # which is for the pictures
    try:
        images = network.images_of(asked, trained.record, "test")
    except (OSError, ImportError):
        if own is None or options.data is not None:
            raise
        return names, own  # the run's data are elsewhere: its classes are told by their numbers
    if images.num_classes != count:
        raise ValueError(
            f"the network has {count} classes, but {images.name} has {images.num_classes}: "
            "give the --data it was trained on"
        )
    return names if options.class_names is not None else images.class_names, own or images.normalization


def shape_of(options: argparse.Namespace, trained: network.Trained) -> tuple[int, int, int]:
    """Return height, width and channels of what the network takes."""
    made_for = getattr(trained.model, "image_shape", (32, 32, 3))
    if options.image_size is not None:
        return (options.image_size, options.image_size, made_for[-1])
    learned_from = trained.record and trained.record.image_shape  # which the network may resize itself
    return learned_from or shape_of_data(trained.record, trained.model) or made_for


def view_of(options: argparse.Namespace, trained: network.Trained) -> View:
    """Return how a picture becomes what the network takes: as the test images of its data do.

    Of photographs that are read while training that is the middle, of images in memory the whole.
    """
    height, width, _ = shape_of(options, trained)
    if height != width:
        return functools.partial(fitted, size=(width, height))
    name = options.data or (trained.record and trained.record.data)
    middle = name in STREAMED if name in data_names() else height >= 64  # small images of unknown data are as CIFAR's
    return views(height)[1] if middle else ResizedCentreCrop(height, height)


def fitted(image: Any, size: tuple[int, int]) -> np.ndarray:
    """Return the largest part of a picture that has the shape of a size, width and height, at that size."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(image, size, Image.Resampling.BILINEAR))


def answered(
    model: Any, paths: Sequence[pathlib.Path], reader: Reader, batch_size: int, unreadable: list[str]
) -> tuple[list[str], np.ndarray]:
    """Return the names of all pictures that can be read, and their logits; of the others the reasons are added."""
    trainer, names, logits = jaxkd.Trainer(model), [], []
    for batch in batches(pictures(paths, reader, unreadable), batch_size):
        names += [name for name, _ in batch]
        logits.append(trainer.predict(np.stack([pixels for _, pixels in batch]), batch_size=batch_size))
    if not names:
        why = "; ".join(unreadable) or f"names of pictures end in {', '.join(EXTENSIONS)}"
        raise ValueError(f"there is no picture in {', '.join(map(str, paths))}: {why}")
    return names, np.concatenate(logits)


def batches(pairs: Iterator[tuple[str, np.ndarray]], size: int) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Yield the pairs in lists.

    Example:
      >>> [len(batch) for batch in batches(iter([("a", None), ("b", None), ("c", None)]), 2)]
      [2, 1]
    """
    batch: list[tuple[str, np.ndarray]] = []
    for pair in pairs:
        batch.append(pair)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def pictures(paths: Sequence[pathlib.Path], reader: Reader, unreadable: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and pixels, uint8 `[H, W, C]`, of all pictures in files, folders and arrays."""
    for path in paths:
        if path.suffix in (".npz", ".npy"):
            yield from ((f"{path}[{number}]", pixels) for number, pixels in enumerate(in_array(path)))
            continue
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and is_shown(path, file))
        for file in inside if path.is_dir() else [path]:
            try:
                yield str(file), reader(file)
            except BrokenImageError as error:
                unreadable.append(f"{file}: {error}")


def is_shown(folder: pathlib.Path, file: pathlib.Path) -> bool:
    """Return whether neither a file nor a folder on the way to it is hidden, as thumbnails of other programs are.

    Example:
      >>> folder = pathlib.Path(".a")
      >>> is_shown(folder, folder / "b.png"), is_shown(folder, folder / ".b" / "c.png")
      (True, False)
    """
    return not any(part.startswith(".") for part in file.relative_to(folder).parts)


def pixels_of(options: argparse.Namespace, trained: network.Trained, file: pathlib.Path) -> np.ndarray:
    """Return a picture as the network takes it, `[H, W, C]`."""
    needed("PIL", "stream", "reading pictures")
    view, channels = view_of(options, trained), shape_of(options, trained)[-1]
    image = decode(file)
    pixels = view(image.convert("L").convert("RGB") if channels == 1 else image)
    return pixels[..., :channels]


def in_array(path: pathlib.Path) -> np.ndarray:
    """Return the pixels in a file of NumPy's: its one array of uint8 `[N, H, W, C]`, or that called `images`.

    Raises:
      ValueError: there is no such array, or there are several; the file is damaged.
    """
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                arrays = {path.name: found}
            else:
                arrays = {name: found[name] for name in found.files}
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}; write it again") from None
    fit = {name: array for name, array in arrays.items() if array.dtype == np.uint8 and array.ndim == 4}
    if "images" in fit:
        return fit["images"]
    if len(fit) != 1:
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items())
        raise ValueError(f"{path}: give one array of pixels, uint8 [N, H, W, C], or call it images; it has {shapes}")
    return next(iter(fit.values()))


def ranked(answers: Answers, classes: Sequence[str], top_k: int) -> Iterator[tuple[str, int, int, str, float]]:
    """Yield file, rank, class, its name and its probability, the likeliest class first."""
    for name, probabilities in zip(answers.names, answers.probabilities, strict=True):
        for rank, label in enumerate(np.argsort(-probabilities, kind="stable")[:top_k], 1):
            yield name, rank, int(label), classes[label], float(probabilities[label])


def lines(answers: Answers, classes: Sequence[str], top_k: int) -> Iterator[str]:
    """Yield a line for each picture, with its likeliest classes."""
    width = max(map(len, answers.names))
    rows = list(ranked(answers, classes, top_k))
    each = min(top_k, len(classes))
    for start in range(0, len(rows), each):
        said = ", ".join(f"{name} {probability:.1%}" for _, _, _, name, probability in rows[start : start + each])
        yield f"{rows[start][0]:{width}s}  {said}"


def write(path: pathlib.Path, answers: Answers, classes: Sequence[str], top_k: int) -> None:
    """Write a table, a line for each picture and class, or arrays: files, logits, probabilities, classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((*row[:-1], f"{row[-1]:.6f}") for row in ranked(answers, classes, top_k))
        write_text(path, table.getvalue())
        return
    with atomic_write(path) as stream:
        np.savez(
            stream,
            files=np.array(answers.names),
            logits=answers.logits,
            probabilities=answers.probabilities,
            class_names=np.array(classes),
        )


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = CommandLine(prog=program("predict"), description=__doc__, epilog=EXAMPLES, formatter_class=Help)
    network.add_options(parser)
    parser.add_argument(
        "pictures", nargs="+", type=pathlib.Path, metavar="PICTURE", help="files, folders of them, or .npz or .npy"
    )
    parser.add_argument("--top-k", type=int, default=1, metavar="K", help="the K likeliest classes; default: 1")
    parser.add_argument(
        "--class-names", type=pathlib.Path, metavar="FILE", help="a line each; default: those of the run's data"
    )
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", help="FILE.csv or FILE.npz; default: print")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="default: 256")
    network.add_data_options(parser)
    return parser
