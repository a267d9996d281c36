"""`python -m jaxkd.convert`: files of weights to checkpoints of this library, or to torch or safetensors files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx

import jaxkd
from jaxkd import data
from jaxkd.base import Normalization
from jaxkd.convert.checkpoint import save
from jaxkd.convert.listing import synonyms
from jaxkd.convert.torch_file import SUFFIXES
from jaxkd.convert.torch_models import from_torch, to_torch

FILE_SUFFIXES = (".pth", ".pt", ".safetensors")
"""What OUT ends in when it is to be a file; anything else is a folder."""

COLUMNS = ("file", "architecture", "classes", "parameters", "normalisation", "top-1", "top-5", "written")
"""Of the table that ends the conversion of a folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: the command line; None takes the process's own.

    Returns:
      The exit code: 0, or 2 with one line on standard error for each file that cannot be converted.
    """
    options = _parser().parse_intermixed_args(arguments)
    try:
        normalization = _normalization(options.mean, options.std)
        test = data.load(options.evaluate, options.data_dir, split="test") if options.evaluate else None
        if options.input.is_dir():
            return _convert_folder(options.input, options.name, options.output, normalization, test)
        _convert(options.input, options.name, options.output, normalization, test)
    except (ValueError, OSError) as error:  # ConversionError, and an architecture or data set that does not exist
        _complain(str(error))
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jaxkd.convert", description=__doc__)
    parser.add_argument(
        "input", metavar="IN", type=Path, help=f"a file ({', '.join(SUFFIXES)}), or a folder of such files"
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="the architecture, such as resnet56; by default guessed from the keys"
    )
    parser.add_argument(
        "output", metavar="OUT", type=Path,
        help=f"a file ({', '.join(FILE_SUFFIXES)}), or else a folder for a checkpoint with its manifest; each file of "
        "a folder IN becomes a folder in OUT",
    )  # fmt: skip
    parser.add_argument("--evaluate", metavar="DATA", help="also measure accuracy on this data set's test images")
    parser.add_argument("--data-dir", type=Path, help="where the data set is")
    parser.add_argument("--mean", nargs="+", type=float, help="per-channel mean the network was trained with (0 to 1)")
    parser.add_argument("--std", nargs="+", type=float, help="per-channel deviation, likewise")
    return parser


def _convert(
    file: Path, name: str | None, output: Path, normalization: Normalization | None, test: data.Dataset | None
) -> tuple[str, ...]:
    """Converts a file and prints what it was; returns it as a row of `COLUMNS`."""
    model: Any = from_torch(file, name, normalization=normalization)
    architecture = model.name + "".join(f", {key} {value}" for key, value in model.options)
    others = f"; also called {', '.join(synonyms(model.name))}" if synonyms(model.name) else ""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    print(f"architecture   {architecture}{'' if name else f' (guessed from the keys{others})'}")
    print(f"classes        {model.num_classes}")
    print(f"parameters     {parameters:,}")
    if known := model.normalization:
        print(f"normalisation  mean {_numbers(known.mean)}, std {_numbers(known.std)}")
    else:
        print("normalisation  not known: the data set's (give --mean and --std if the network was trained with others)")
    accuracies = ("", "")
    if test is not None:
        logs = jaxkd.Trainer(model).evaluate(test)
        accuracies = (f"{logs['accuracy']:.2%}", f"{logs['top5']:.2%}")
        print(f"accuracy       top-1 {accuracies[0]}, top-5 {accuracies[1]} of {len(test):,} images of {test.name}")
    if output.suffix in FILE_SUFFIXES:
        to_torch(model, output)
    else:
        save(model, output)
    print(f"written        {output}")
    known_or_not = "known" if known else "not known"
    return (file.name, architecture, str(model.num_classes), f"{parameters:,}", known_or_not, *accuracies, str(output))


def _convert_folder(
    folder: Path, name: str | None, output: Path, normalization: Normalization | None, test: data.Dataset | None
) -> int:
    """Converts every file of a folder, each on its own, and ends with a table; 2 if any failed."""
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    if not files:
        raise ValueError(f"{folder} holds no file that ends in {', '.join(SUFFIXES)}")
    if output.suffix in FILE_SUFFIXES:
        raise ValueError(f"{folder} is a folder and {output} would be a file: give a folder as OUT")
    rows: list[tuple[str, ...]] = []
    for file in files:
        print(f"\nfile           {file.name}")
        try:
            if others := [other.name for other in files if other != file and other.stem == file.stem]:
                raise ValueError(f"{file}: {', '.join(others)} would become {output / file.stem} too: rename one")
            rows.append(_convert(file, name, output / file.stem, normalization, test))
        except (ValueError, OSError) as error:
            _complain(str(error) if str(file) in str(error) else f"{file}: {error}")
            rows.append((file.name, *[""] * (len(COLUMNS) - 2), "failed"))
    failed = sum(row[-1] == "failed" for row in rows)
    print(f"\n{len(files) - failed} of {len(files)} files converted\n{_table(rows)}")
    return 2 if failed else 0


def _table(rows: list[tuple[str, ...]]) -> str:
    """Rows of `COLUMNS` under their headings, without the columns that are empty."""
    columns = [(heading, *cells) for heading, *cells in zip(COLUMNS, *rows, strict=True) if any(cells)]
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in columns]
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def _complain(reason: str) -> None:
    print(f"error: {' '.join(reason.split())}", file=sys.stderr)


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
    sys.exit(main())
