"""Write a trained network for use without this package, and check the file against what the network computes.

StableHLO, ONNX and LiteRT files take uint8 pixels, [batch, height, width, channels], normalise them inside, and leave
the size of the batch free. A file that computes something else is not kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd import data
from jaxkd.callbacks.terminal import fitted
from jaxkd.command_line import CommandLine, Help, by_other_names, program
from jaxkd.commands.network import Images, images_of
from jaxkd.convert.checkpoint import load_pretrained, locate
from jaxkd.data.load import STREAMED
from jaxkd.export.comparison import REPEATS, compare, table
from jaxkd.export.formats import FORMATS
from jaxkd.export.source import located, record_in
from jaxkd.export.written import CALIBRATED, Exported, write
from jaxkd.records import Record

MEASURED = 10_000
"""Test images, of those that are streamed, that int8 is measured on: ImageNet's would take 7.5 GB at once."""

EXAMPLES = """examples:
  the student of a run, as runs/kd/student.onnx:
    jaxkd export runs/kd --to onnx
  in int8, calibrated on the run's training images, with a loss of half a point at most:
    jaxkd export runs/kd --to litert --int8
  beside its teacher, in size and speed:
    jaxkd export runs/kd --to stablehlo --output student.stablehlo --compare runs/teacher
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
      arguments: the command line; None takes the process's own.

    Returns:
      The exit code: 0, or 2 with one line on standard error.
    """
    options = command_line().parse_args(arguments)
    try:
        record = record_in(options.source)
        calibration, test = _images(options, record) if options.int8 else (None, None)
        shape = None if options.image_size is None else _shape(options)
        exported = write(
            options.source, options.output, options.to, image_shape=shape, calibration=calibration, test=test
        )
        print(fitted(_described(exported), sys.stdout))
        print(f"\n{_comparison(exported, options, record)}")
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = CommandLine(
        prog=program("export"),
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=Help,
    )
    parser.add_argument(
        "source",
        metavar="RUN",
        help="the directory of a run (its network at the end of training), the folder of a saved network, or a file of "
        "weights",
    )
    parser.add_argument("--to", choices=FORMATS, help="the format; default: what the suffix of --output says")
    parser.add_argument("--output", "-o", type=Path, metavar="FILE", help="default: beside the network, under its name")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="pixels a side; default: of the run's data, else what the network was made for",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="weights and activations in int8, for onnx and litert; refused where more than half a point of accuracy "
        "on the test images is lost",
    )
    parser.add_argument(
        "--data", choices=data.names(), help="the images for --int8; default: what the run was trained on"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where its files are, or the file of npz; default: the run's, else $JAXKD_DATA, else ~/data",
    )
    parser.add_argument(
        "--validation-split", type=float, metavar="X", help="of folder and npz without a split; default: the run's"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="TEACHER",
        help="a network to compare with in size and speed; default: the run's teacher, where its file still is",
    )
    return parser


def _shape(options: argparse.Namespace) -> tuple[int, int, int]:
    model, _, _ = located(options.source)
    return (options.image_size, options.image_size, getattr(model, "image_shape", (0, 0, 3))[-1])


def _images(options: argparse.Namespace, record: Record | None) -> tuple[data.Dataset, data.Dataset]:
    """Return the images to calibrate with and those to measure on."""
    name = options.data or (record and record.data)
    size = options.image_size if name in STREAMED else None  # those in memory have a size of their own
    asked = argparse.Namespace(**{**vars(options), "network": options.source, "image_size": size, "workers": None})
    train, test = (images_of(asked, record, split) for split in ("train", "test"))
    return _in_memory(train, CALIBRATED), _in_memory(test, MEASURED)


def _in_memory(images: Images, count: int | None = None) -> data.Dataset:
    """Return images in memory; streamed ones, or so many of them, as they are evaluated."""
    if isinstance(images, data.Dataset):
        return images
    numbers = np.random.default_rng(0).permutation(len(images))[:count]
    plan = [data.BatchIndices(part, part, 0, 0) for part in np.array_split(numbers, -(-len(numbers) // CALIBRATED))]
    read = [
        (np.asarray(batch.images)[readable], np.asarray(batch.labels)[readable])
        for batch in images.batches(plan, train=False)
        if (readable := np.asarray(batch.index) >= 0).any()
    ]
    pixels, labels = (np.concatenate(parts) for parts in zip(*read, strict=True))
    return data.Dataset(pixels, labels, images.class_names, images.normalization, name=images.name)


def _described(exported: Exported) -> str:
    """Return what was written, a line for each thing one has to know to use it."""
    network = exported.classifier
    size = "×".join(map(str, network.image_shape))
    lines = [f"network        {network.name}, {network.parameters:,} parameters, images {size}"]
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in network.normalization)
    lines += [f"format         {exported.format.name}: {exported.format.contents}"]
    lines += [f"normalisation  pixels / 255, mean {mean}, std {std}"]
    if exported.accuracy is not None:
        exact, int8 = exported.accuracy
        lines += [f"checked        {int8:.2%} of the test images are right in int8, {exact:.2%} before"]
    else:
        lines += [
            f"checked        logits differ by {exported.difference:.1e} at most; the largest is {exported.scale:.3g}"
        ]
    return "\n".join([*lines, f"written        {exported.path}, {exported.bytes / 1024:,.0f} KiB"])


def _comparison(exported: Exported, options: argparse.Namespace, record: Record | None) -> str:
    """Return a table of the exported network and, where there is one, its teacher."""
    recorded: Any = record and record.arguments.get("teacher")
    if isinstance(recorded, list):  # an ensemble is no file
        recorded = None
    lost = options.compare is None and recorded is not None and not locate(recorded).exists()
    note = f"latency: the median of {REPEATS} on this machine, by {exported.format.runtime}"
    if lost:
        note += f"\nthe run's teacher, {recorded}, is not there: say where it is by --compare"
    if options.compare is not None or lost or recorded is None:
        return f"{table(compare(exported, options.compare))}\n{note}"
    try:
        rows = compare(exported, _teacher(Path(recorded), record))
    except Exception as error:  # what was asked for is written, and formats' libraries fail in any way
        rows, note = compare(exported), f"{note}\nthe run's teacher, {recorded}, is not compared: {error}"
    return f"{table(rows)}\n{note}"


def _teacher(path: Path, record: Record | None) -> Any:
    """Return the teacher of a run; a file may need the name that the run was given."""
    name = ((record and record.teacher) or {}).get("name")
    return load_pretrained(path, name if locate(path).is_file() else None).model


if __name__ == "__main__":
    sys.exit(by_other_names(main)())
