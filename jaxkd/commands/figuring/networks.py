"""Networks and images as a user names them on the command line, and what these networks answer."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxkd import analysis, convert, data, models, records
from jaxkd.commands.network import RECORDED, add_data_options, images_of
from jaxkd.commands.run import parameters
from jaxkd.data.load import OWN

NETWORK = (
    "a file of weights, a converted network or the directory of a run; NAME=PATH calls it so, and says which network a "
    "file holds, where NAME is one's"
)


class Network(NamedTuple):
    """A network to look at.

    Attributes:
      label: what to call it.
      model: with its weights.
      path: where they are from.
      record: of the run that trained it; None of a network without a run.
    """

    label: str
    model: Any
    path: pathlib.Path
    record: records.Record | None = None


class Answers(NamedTuple):
    """A network's answers to the images.

    Attributes:
      label: what to call it.
      logits: `[N, K]`.
      facts: which network it is and how good, as JSON values.
    """

    label: str
    logits: np.ndarray
    facts: dict[str, Any]


def add_networks(parser: argparse.ArgumentParser, name: str, what: str) -> None:
    """Add the option for any number of networks, in `options.networks`."""
    parser.add_argument("networks", nargs="*", metavar=name, help=f"{what}: each {NETWORK}")


def add_teacher(parser: argparse.ArgumentParser) -> None:
    """Add the option for the network that all others are compared with."""
    parser.add_argument("--teacher", metavar="NETWORK", help=f"{NETWORK}")


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add the options for the images that networks are shown."""
    add_data_options(parser, "what the runs were trained on, else cifar100; digits needs no file")
    group = parser.add_argument_group("images")
    group.add_argument("--split", choices=("test", "train"), default="test", help="default: test")
    group.add_argument("--images", type=int, metavar="N", help="the first N of them; default: all")


def images(options: argparse.Namespace, found: Sequence[Network]) -> data.Dataset:
    """Return the images that the options name, else those of the networks' runs, for networks that know their classes.

    Raises:
      FileNotFoundError, ValueError: as `data.load` and `Dataset.subset`; for another number of classes, and runs that
        saw different images.
    """
    runs = [network.record for network in found if network.record is not None and network.record.data is not None]
    _check_alike(options, runs)
    asked = options if runs else argparse.Namespace(**{**vars(options), "data": options.data or "cifar100"})
    load_any: Any = images_of  # streamed ones can be shown as well
    shown: data.Dataset = load_any(asked, next(iter(runs), None), options.split)
    for network in found:
        if network.model.num_classes != shown.num_classes:
            raise ValueError(
                f"{network.path} has {network.model.num_classes} classes, but {shown.name} has "
                f"{shown.num_classes}: choose the --data it was trained on"
            )
    return shown if options.images is None else shown.subset(options.images)


def _check_alike(options: argparse.Namespace, runs: Sequence[records.Record]) -> None:
    """Refuse runs that saw different images, unless the options say which ones are meant."""
    if options.data is not None:
        return
    own = sorted({str(run.data) for run in runs})
    if len(own) > 1:
        raise ValueError(f"these runs were trained on {' and '.join(own)}: say by --data which images to show them")
    for name in RECORDED:
        if name == "data_dir" and not set(own) & set(OWN):
            continue
        values = sorted({str(run.data_options[name] or "none") for run in runs})
        if len(values) > 1 and getattr(options, name) is None:
            option = f"--{name.replace('_', '-')}"
            given = f"{option} {' and '.join(values)}"
            raise ValueError(f"these runs were trained with {given}: say by {option} which images to show them")


def about(options: argparse.Namespace, shown: data.Dataset) -> dict[str, Any]:
    """Return which images were shown, for the record."""
    return {"data": shown.name, "split": options.split, "images": len(shown)}


def in_words(record: dict[str, Any]) -> str:
    """Return which images were shown, for a title.

    Example:
      >>> in_words({"data": "digits", "split": "test", "images": 360})
      '360 test images of digits'
    """
    kind = "training" if record["split"] == "train" else record["split"]
    return f"{record['images']:,} {kind} images of {record['data']}"


def load(texts: Sequence[str], at_least: int, option: str) -> list[Network]:
    """Load the networks that a command line names, all of them before any is shown an image.

    Args:
      texts: as typed.
      at_least: how many are needed.
      option: what they are on the command line, for errors.

    Raises:
      FileNotFoundError: for what does not exist.
      ValueError: for too few, two of one label, or files that hold no network.
    """
    if len(texts) < at_least:
        given = f"{option}: {at_least} needed, {len(texts)} given"
        raise ValueError(f"{given}; name files of weights or runs, or look at small ones by --smoke")
    placed = [_placed(text) for text in texts]
    runs = {path: records.read(path) for _, path in placed if (path / "config.json").exists()}
    own = _labels(runs.values())
    found = [_load(path, label or own.get(path) or "", runs.get(path)) for label, path in placed]
    labels = [network.label for network in found]
    for network in found:
        if labels.count(network.label) > 1:
            raise ValueError(f"two networks are called {network.label!r}: name them apart, as in alone={network.path}")
    return found


def ask(network: Network, shown: data.Dataset) -> Answers:
    """Show a network the images, and return its answers and how good they are."""
    print(f"{network.label}: {len(shown):,} images", flush=True)
    logits = analysis.predict(network.model, shown)
    return Answers(network.label, logits, facts(network, float((logits.argmax(1) == shown.labels).mean())))


def facts(network: Network, accuracy: float) -> dict[str, Any]:
    """Return which network it is and how good, as JSON values."""
    return {
        "label": network.label,
        "network": network.model.name,
        "parameters": parameters(network.model),
        "accuracy": round(accuracy, 6),
        "sha256": convert.Pretrained(network.model, network.path).sha256,
    }


def _placed(text: str) -> tuple[str, pathlib.Path]:
    """Return label, if one is given, and path of what a user typed."""
    whole = pathlib.Path(text).expanduser()
    label, equals, rest = text.partition("=")
    if whole.exists() or not equals:  # a folder may be called T=4
        label, path = "", whole
    else:
        path = pathlib.Path(rest).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    return label, path


def _labels(runs: Iterable[records.Record]) -> dict[pathlib.Path, str | None]:
    """Return names of runs: the network where there is no method, else the method and what tells it from the others."""
    groups = records.groups(runs)
    return {run.path: run.network if run.method is None else group.label for group in groups for run in group.runs}


def _load(path: pathlib.Path, label: str, run: records.Record | None) -> Network:
    if run is not None:
        model: Any = run.student()
        path = next(path / name for name in ("student", "model") if (path / name).is_dir())
    else:
        model, path = convert.load_pretrained(path, label if label in models.list() else None)
    return Network(label or model.name, model, path, run)
