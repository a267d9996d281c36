"""Find the network that is to be exported, and make it ready: evaluation mode, float32, its normalisation inside."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxkd import records
from jaxkd.convert.checkpoint import load_pretrained
from jaxkd.data.load import STREAMED
from jaxkd.export.portable import program
from jaxkd.models.description import macs_of
from jaxkd.records import Record
from jaxkd.records.reading import is_run
from jaxkd.trainer import Trainer
from jaxkd.training.forward import forward, network_input
from jaxkd.types import Normalization, tree_size

Source = str | os.PathLike[str] | Record | Trainer | nnx.Module
"""A run directory, a saved network or a file of weights; a record; a `Trainer` or `Distiller`; a network."""

_SIDES = {"cifar10": 32, "cifar100": 32, "digits": 8, "stl10": 96, "svhn": 32, "tiny-imagenet": 64} | dict.fromkeys(
    STREAMED, 224
)
"""Pixels a side, for records that do not say it."""


@dataclass(frozen=True)
class Classifier:
    """A trained network to be exported.

    Attributes:
      model: with `normalization` set; it shares its weights with what was given.
      normalization: what its pixels are normalised with.
      image_shape: `(H, W, C)`.
      path: the folder or file of its weights; None for a network in memory.
    """

    model: Any
    normalization: Normalization
    image_shape: tuple[int, int, int]
    path: Path | None = None

    def __call__(self, images: jax.Array) -> jax.Array:
        """Return logits `[B, K]` of uint8 pixels `[B, H, W, C]`; what is exported."""
        graph, state = nnx.split(self.model)
        device = jax.devices()[0]  # weights that lie on several would make a program for as many
        network = nnx.merge(graph, jax.tree.map(lambda leaf: jax.device_put(leaf, device), state))
        return forward(network, network_input(images, self.normalization), False, "float32").logits

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return logits `[N, K]` of uint8 pixels `[N, H, W, C]`, as `Trainer.predict` does; what is checked against."""
        return Trainer(self.model).predict(images)

    @property
    def name(self) -> str:
        """The network's name, or that of its class."""
        return getattr(self.model, "name", None) or type(self.model).__name__

    @property
    def parameters(self) -> int:
        """The number of trained values."""
        return tree_size(nnx.state(self.model, nnx.Param))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all convolutions and linear layers for one image."""
        return macs_of(program(self, self.pixels(1)).jaxpr)

    def pixels(self, batch: Any) -> jax.ShapeDtypeStruct:
        """Return shape and type of its input; the batch may be symbolic."""
        return jax.ShapeDtypeStruct((batch, *self.image_shape), np.uint8)


def classifier(
    source: Source,
    image_shape: tuple[int, int, int] | None = None,
    normalization: Normalization | None = None,
) -> Classifier:
    """Return the network of a run, a folder, a file, a trainer, or one given, ready to be exported.

    Args:
      source: see `Source`. Of a run, the network at the end of training.
      image_shape: `(H, W, C)` of its images; by default that of the run's data, else what the network was made for.
      normalization: of its pixels; by default what the network carries.

    Raises:
      FileNotFoundError: there is nothing, or the run is not finished.
      ConversionError: the weights are damaged, or fit no network.
      ValueError: the normalisation or the shape of the images is not known.
    """
    model, path, record = located(source)
    normalization = normalization or getattr(model, "normalization", None)
    where = "the network" if path is None else str(path)
    if normalization is None:
        raise ValueError(
            f"{where}: the normalisation of its images is not known, and goes into the file: give "
            "normalization=jaxkd.Normalization(mean, std), or write a folder that says it with jaxkd convert "
            "IN OUT --mean … --std …"
        )
    shape = image_shape or shape_of_data(record, model) or getattr(model, "image_shape", None)
    if shape is None:
        raise ValueError(f"{where}: give image_shape=(height, width, channels), since the network does not say it")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"image_shape={shape!r}: give (height, width, channels)")
    model = copy.copy(model)  # the same variables, in the same order, and a normalisation of its own
    model.normalization = normalization
    return Classifier(model, normalization, shape, path)


def located(source: Source) -> tuple[Any, Path | None, Record | None]:
    """Return the network that is meant, where its weights are, and the record of its run; see `classifier`."""
    if isinstance(source, Trainer):
        return source.model, None, None
    if isinstance(source, nnx.Module):
        return source, None, None
    if not isinstance(source, str | os.PathLike | Record):
        raise TypeError(
            f"a {type(source).__name__} cannot be exported: give a run directory, a saved network, a file of weights, "
            "a Trainer or a network"
        )
    record = source if isinstance(source, Record) else record_in(source)
    if record is not None and not any((record.path / name).is_dir() for name in ("student", "model")):
        record.student()  # raises what is wrong with the run
    loaded = load_pretrained(source.path if isinstance(source, Record) else source)
    return loaded.model, loaded.path, record


def record_in(path: str | os.PathLike[str]) -> Record | None:
    """Return the record of the run in a folder; None where there is none."""
    folder = Path(path).expanduser()
    return records.read(folder) if is_run(folder) else None


def shape_of_data(record: Record | None, model: Any) -> tuple[int, int, int] | None:
    """Return the shape of the images that a run was trained on; None where its record does not say which they were.

    Raises:
      ValueError: a record of an earlier version does not say how large its own images are.
    """
    if record is None or getattr(model, "resize_to", None) is not None:
        return None
    if record.image_shape is not None:
        return record.image_shape
    side = record.data_options["image_size"] or _SIDES.get(record.data or "")
    if side is None and record.data == "npz":
        raise ValueError(
            f"{record.path} does not say how large its images are, which earlier versions did not record: give "
            '--image-size N, or write "image_shape": [height, width, channels] into its result.json'
        )
    return (side, side, getattr(model, "image_shape", (0, 0, 3))[-1]) if side else None
