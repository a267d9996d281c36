"""A trained network that a command is given, with the record of its run and the data that it learned from."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any, NamedTuple

from jaxkd import data
from jaxkd.convert.checkpoint import load_pretrained
from jaxkd.data.load import OWN, STREAMED
from jaxkd.export.source import record_in
from jaxkd.records import Record

Images = data.Dataset | data.StreamedDataset

RECORDED = ("data_dir", "image_size", "validation_split")
"""Options that say which images of a data set are meant; by default as the run's record has them."""


class Trained(NamedTuple):
    """A trained network.

    Attributes:
      model: with its weights.
      path: the file or folder that they are in.
      record: of the run that trained it; None where it is not the directory of one.
    """

    model: Any
    path: pathlib.Path
    record: Record | None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which network is meant to a command line."""
    parser.add_argument(
        "network",
        metavar="NETWORK",
        help="the directory of a run (its network at the end of training), the folder of a saved network, or a file of "
        "weights, also hf://user/repo/file",
    )
    parser.add_argument(
        "--name", metavar="NAME", help="the network in a file of weights, as in resnet56; default: found by its keys"
    )


def add_data_options(parser: argparse.ArgumentParser, default: str = "what the run was trained on") -> None:
    """Add what says which data are meant to a command line; `default` says what is taken without `--data`."""
    images = parser.add_argument_group("data")
    images.add_argument("--data", choices=data.names(), help=f"default: {default}")
    images.add_argument(
        "--data-dir",
        type=pathlib.Path,
        metavar="DIR",
        help="where its files are, or the file of npz; default: the run's, else $JAXKD_DATA, else ~/data",
    )
    images.add_argument(
        "--image-size", type=int, metavar="N", help="pixels a side; default: the run's, else what the network is for"
    )
    images.add_argument(
        "--validation-split", type=float, metavar="X", help="of folder and npz without a split; default: the run's"
    )
    images.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="how many processes decode; 0 decodes in threads; default: one a core, at most 32, and threads on fewer "
        "than four",
    )


def load(options: argparse.Namespace) -> Trained:
    """Return the network that a command line names.

    Raises:
      FileNotFoundError, ValueError: as `convert.load_pretrained`, and for a run that is not finished.
    """
    record = None if options.network.startswith("hf:") else record_in(options.network)
    if record is not None and not any((record.path / name).is_dir() for name in ("student", "model")):
        record.student()  # raises what is wrong with the run
    model, path = load_pretrained(options.network, options.name)
    return Trained(model, path, record)


def images_of(options: argparse.Namespace, record: Record | None, split: str) -> Images:
    """Return the images that a command line, or else the run, names.

    Raises:
      FileNotFoundError, ValueError: where neither says which data set, or as `data.load`.
    """
    recorded: dict[str, Any] = {}
    if record is not None and options.data is None:
        recorded = record.data_options
        if recorded["name"] not in OWN:  # published images of another machine are looked for as usual
            recorded["data_dir"] = record.data_folder
    name = options.data or recorded.get("name")
    if name is None:
        raise ValueError(f"{options.network} does not say what it was trained on: give --data, as in cifar100")
    if record is not None and name in STREAMED and not recorded:  # other images, seen as it saw its own
        height, width, _ = record.image_shape or (None, None, None)
        recorded["image_size"] = record.data_options["image_size"] or (height if height == width else None)
    given = {option: getattr(options, option) or recorded.get(option) for option in RECORDED}
    load_any: Any = data.load  # which overloads by the name
    found: Images = load_any(name, split=split, workers=options.workers, **given)
    return found
