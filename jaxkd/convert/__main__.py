"""Convert files of weights to checkpoints of this library, and either to torch or safetensors files.

Says which network a file holds, what its images are normalised with and, with --evaluate, how good it is. Nothing that
a file contains is run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from jaxkd import data
from jaxkd.command_line import CommandLine, Help, by_other_names, program
from jaxkd.convert.architectures import synonyms
from jaxkd.convert.checkpoint import check_replaceable, is_saved, load_pretrained, locate, save
from jaxkd.convert.torch_models import to_torch
from jaxkd.formats.torch_reader import SUFFIXES
from jaxkd.tables import text_table
from jaxkd.trainer import Trainer
from jaxkd.types import Normalization, tree_size

FILE_SUFFIXES = (".pth", ".pt", ".safetensors")
"""The suffixes by which OUT is a file; anything else is a folder."""

_EXPORTED = (".onnx", ".tflite", ".stablehlo")

EXAMPLES = """examples:
  a folder that jaxkd distill takes as --teacher, with the accuracy on CIFAR-100:
    jaxkd convert cifar100_resnet56.pth teachers/resnet56 --evaluate cifar100 --data-dir ~/data
  every file of a folder:
    jaxkd convert downloads teachers
  a network that was trained with ImageNet's normalisation:
    jaxkd convert net.pth teachers/net --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225
  a transformer, for smaller images than those of its file:
    jaxkd convert deit.pth teachers/deit --image-size 32
  a student of jaxkd distill as safetensors, which keep its normalisation:
    jaxkd convert runs/kd student.safetensors
"""

COLUMNS = ("file", "architecture", "classes", "parameters", "normalisation", "top-1", "top-5", "written")
"""Columns of the table that ends the conversion of a folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
      arguments: the command line; None takes the process's own.

    Returns:
      The exit code: 0, or 2 with one line on standard error for each file that cannot be converted.
    """
    options = command_line().parse_intermixed_args(arguments)
    try:
        normalization = _normalization(options.mean, options.std)
        test = None
        if options.evaluate:
            held_out = {"validation_split": options.validation_split}
            test = data.load(options.evaluate, options.data_dir, split="test", **held_out)
        elif options.validation_split is not None:
            raise ValueError("--validation-split says which images are test images: give --evaluate too")
        found, given = locate(options.input), {"name": options.name, "normalization": normalization}
        given |= {"weights": options.weights, "image_size": options.image_size}
        output = options.output.expanduser()
        if output.suffix in {*SUFFIXES, *_EXPORTED} - {*FILE_SUFFIXES}:
            by = "jaxkd export" if output.suffix in _EXPORTED else ", ".join(FILE_SUFFIXES)
            raise ValueError(f"{output}: no network is written to {output.suffix} files by this command; use {by}")
        if found.is_dir() and not is_saved(found):
            return _convert_folder(found, given, output, test)
        _convert(found, given, output, test, options.force)
    except (ValueError, OSError, ImportError) as error:  # ConversionError above all
        _complain(str(error))
        return 2
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = CommandLine(
        prog=program("convert"),
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=Help,
    )
    parser.add_argument(
        "input",
        metavar="IN",
        type=Path,
        help=f"a file ({', '.join(SUFFIXES)}), a folder in which there are such files, a folder that this command "
        "wrote, or the directory of a run",
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="the architecture, such as resnet56; default: found by the keys"
    )
    parser.add_argument(
        "output",
        metavar="OUT",
        type=Path,
        help=f"a file ({', '.join(FILE_SUFFIXES)}), or else a folder for a checkpoint with its manifest; each file "
        "in a folder IN becomes a folder in OUT",
    )
    parser.add_argument("--force", action="store_true", help="replace the file OUT, where there is one")
    parser.add_argument(
        "--weights",
        metavar="WHICH",
        help="of a file with several sets of weights: raw, averaged, or where they lie, as in module.student",
    )
    parser.add_argument(
        "--evaluate", metavar="DATA", help=f"also measure accuracy on the test images of: {', '.join(data.names())}"
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where its files are; default: $JAXKD_DATA, else ~/data"
    )
    parser.add_argument(
        "--validation-split",
        type=float,
        metavar="X",
        help="of folder and npz without a split: the part that was held out as test images",
    )
    parser.add_argument(
        "--mean",
        nargs="+",
        type=float,
        metavar="X",
        help="per channel, of pixels from 0 to 1: what the network was trained with; default: what the file says, what "
        "is known of published files, else the data set's",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="resize the position embeddings of a transformer for images of N×N; default: those of the file",
    )
    parser.add_argument("--std", nargs="+", type=float, metavar="X", help="the deviation, likewise")
    return parser


def _convert(
    file: Path, given: dict[str, Any], output: Path, test: data.Dataset | None, force: bool = False
) -> tuple[str, ...]:
    """Convert a file or a saved network, print what it was, and return that as a row of `COLUMNS`.

    Args:
      file: what is converted.
      given: how `load_pretrained` shall load it.
      output: what is written.
      test: the images that accuracy is measured on; None measures none.
      force: replaces a file.
    """
    model: Any = load_pretrained(file, **given).model
    _check_place(output, force)  # before anything is measured
    architecture = model.name + "".join(f", {key} {value}" for key, value in model.options)
    others = f"; also called {', '.join(synonyms(model.name))}" if synonyms(model.name) else ""
    origin = (
        "" if given["name"] else " (as its manifest says)" if file.is_dir() else f" (guessed from the keys{others})"
    )
    classes = model.num_classes
    parameters = tree_size(nnx.state(model, nnx.Param))
    print(f"architecture   {architecture}{origin}")
    if (source := getattr(model, "source", None)) and source.matched:
        print(f"matched        {source.matched}")
    print(f"classes        {classes}")
    print(f"parameters     {parameters:,}")
    if known := model.normalization:
        print(f"normalisation  mean {_numbers(known.mean)}, std {_numbers(known.std)}")
    else:
        print("normalisation  not known: the data set's (give --mean and --std if the network was trained with others)")
    accuracies = ("", "")
    if test is not None and test.num_classes != classes:
        print(f"accuracy       not measured: {test.name} has {test.num_classes} classes, the network {classes}")
    elif test is not None:
        logs = Trainer(model).evaluate(test)
        accuracies = (f"{logs['accuracy']:.2%}", f"{logs['top5']:.2%}")
        print(f"accuracy       top-1 {accuracies[0]}, top-5 {accuracies[1]} of {len(test):,} images of {test.name}")
    if output.suffix in FILE_SUFFIXES:
        to_torch(model, output)
    else:
        save(model, output)
    lost = known and output.suffix in FILE_SUFFIXES and output.suffix != ".safetensors"
    print(f"written        {output}{' (which cannot hold the normalisation: write it down)' if lost else ''}")
    known_or_not = "known" if known else "not known"
    return (file.name, architecture, str(classes), f"{parameters:,}", known_or_not, *accuracies, str(output))


def _check_place(output: Path, force: bool) -> None:
    """Make the folder around OUT, and refuse a place where something else is.

    Raises:
      OSError: nothing can be written there, or a file is there that `force` would replace.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix not in FILE_SUFFIXES:
        check_replaceable(output)
    elif output.is_dir():
        raise IsADirectoryError(f"{output} is a folder and OUT would be a file: choose another name")
    elif output.exists() and not force:
        raise FileExistsError(f"{output} exists: choose another name for OUT, or replace it by --force")


def _convert_folder(folder: Path, given: dict[str, Any], output: Path, test: data.Dataset | None) -> int:
    """Convert every file in a folder and those below, each on its own, and print a table; return 2 if any failed."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    if not files:
        raise ValueError(f"{folder} holds no file that ends in {', '.join(SUFFIXES)}")
    if output.suffix in FILE_SUFFIXES:
        raise ValueError(f"{folder} is a folder and {output} would be a file: give a folder as OUT")
    rows: list[tuple[str, ...]] = []
    places = {file: output / _without_suffixes(file.relative_to(folder)) for file in files}
    for file, place in places.items():
        label = str(file.relative_to(folder))
        print(f"\nfile           {label}")
        try:
            if others := [other.name for other in files if other != file and places[other] == place]:
                raise ValueError(f"{file}: {', '.join(others)} would become {place} too: rename one")
            rows.append((label, *_convert(file, given, place, test)[1:]))
        except (ValueError, OSError) as error:
            _complain(str(error) if str(file) in str(error) else f"{file}: {error}")
            rows.append((label, *[""] * (len(COLUMNS) - 2), "failed"))
    failed = sum(row[-1] == "failed" for row in rows)
    print(f"\n{len(files) - failed} of {len(files)} files converted\n{_table(rows)}")
    return 2 if failed else 0


def _without_suffixes(file: Path) -> Path:
    """Return the folder that a file becomes: `best` of `best.pth.tar`."""
    while file.suffix in SUFFIXES:
        file = file.with_suffix("")
    return file


def _table(rows: list[tuple[str, ...]]) -> str:
    """Return rows of `COLUMNS` under their headings, without the columns that are empty."""
    columns = [(heading, *cells) for heading, *cells in zip(COLUMNS, *rows, strict=True) if any(cells)]
    return "\n".join(text_table(list(zip(*columns, strict=True))))


def _complain(reason: str) -> None:
    lines = [" ".join(line.split()) for line in reason.splitlines()]
    print(f"error: {'; '.join(filter(None, lines)).replace(':; ', ': ')}", file=sys.stderr)


def _normalization(mean: list[float] | None, std: list[float] | None) -> Normalization | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None or len(mean) != len(std):
        raise ValueError("--mean and --std go together, with one number per channel each")
    if not min(std) > 0:
        raise ValueError(f"--std {_numbers(std)}: must be above 0")
    return Normalization(tuple(mean), tuple(std))


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


if __name__ == "__main__":
    sys.exit(by_other_names(main)())
