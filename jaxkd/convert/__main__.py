"""`python -m jaxkd.convert`: a torch file to a checkpoint of this library, or to a clean torch file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxkd.base import Normalization
from jaxkd.convert.checkpoint import save
from jaxkd.convert.mapping import entries
from jaxkd.convert.torch_models import from_torch, sha256, to_torch

TORCH_SUFFIXES = (".pth", ".pt")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: the command line; None takes the process's own.

    Returns:
      The exit code: 0, or 2 with one line on standard error if the file cannot be converted.
    """
    options = _parser().parse_args(arguments)
    try:
        _convert(options)
    except (ValueError, OSError) as error:  # ConversionError, and an architecture or data set that does not exist
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jaxkd.convert", description=__doc__)
    parser.add_argument("input", metavar="IN", type=Path, help="a .pth, .pt, .th or .tar file")
    parser.add_argument("name", metavar="NAME", help="the architecture, such as resnet56")
    parser.add_argument("output", metavar="OUT", type=Path, help=".pth or .pt: a torch file; otherwise a directory")
    parser.add_argument("--evaluate", metavar="DATA", help="also measure accuracy on this data set's test images")
    parser.add_argument("--data-dir", type=Path, help="where the data set is")
    parser.add_argument("--mean", nargs="+", type=float, help="per-channel mean the network was trained with (0 to 1)")
    parser.add_argument("--std", nargs="+", type=float, help="per-channel deviation, likewise")
    return parser


def _convert(options: argparse.Namespace) -> None:
    model: Any = from_torch(options.input, options.name, normalization=_normalization(options.mean, options.std))
    parameters = sum(entry.variable.get_value().size for entry in entries(model) if not entry.is_statistic)
    chosen = "".join(f", {key} {value}" for key, value in model.options)
    print(f"architecture   {model.name}{chosen}")
    print(f"classes        {model.num_classes}")
    print(f"parameters     {parameters:,}")
    if model.normalization:
        print(f"normalisation  mean {_numbers(model.normalization.mean)}, std {_numbers(model.normalization.std)}")
    else:
        print("normalisation  not known: the data set's (give --mean and --std if the network was trained with others)")
    if options.evaluate:
        _evaluate(model, options.evaluate, options.data_dir)
    if options.output.suffix in TORCH_SUFFIXES:
        to_torch(model, options.output)
    else:
        save(model, options.output, source={"file": options.input.name, "sha256": sha256(options.input)})
    print(f"written        {options.output}")


def _normalization(mean: list[float] | None, std: list[float] | None) -> Normalization | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None or len(mean) != len(std):
        raise ValueError("--mean and --std go together, with one number per channel each")
    return Normalization(tuple(mean), tuple(std))


def _evaluate(model: Any, name: str, data_dir: Path | None) -> None:
    import jaxkd
    from jaxkd import data

    test = data.load(name, data_dir, split="test")
    logs = jaxkd.Trainer(model).evaluate(test)
    print(f"accuracy       top-1 {logs['accuracy']:.2%}, top-5 {logs['top5']:.2%} of {len(test):,} images of {name}")


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
