"""Fit position embeddings and relative biases to images of another size, as timm does when it loads a file."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

from jaxkd.convert.architectures import abstract_model
from jaxkd.convert.entries import Entry
from jaxkd.convert.weights import entries, load_state_dict
from jaxkd.formats.files import ConversionError
from jaxkd.nn.positions import Positions


def image_size_in(model: Any, weights: Mapping[str, np.ndarray], source: str | PathLike[str]) -> int | None:
    """Return the size of images that weights are for, where it is not the one that a network was made for.

    Args:
      model: made by `models.create`; its variables may be abstract.
      weights: by the network's keys.
      source: where they come from, for the error.

    Returns:
      Height and width; None where all weights fit the network as it is, or no size makes them fit.

    Raises:
      ConversionError: several sizes have weights of these shapes.
    """
    sides = [positions.side(weights[entry.name].shape) for entry, positions in _differing(model, weights)]
    if not sides or 0 in sides:
        return None
    try:
        return int(model.image_size_of(sides[0]))
    except ValueError as error:
        raise ConversionError(source, str(error)) from error


def for_images_of(model: Any, image_size: int) -> Any:
    """Return a network of the zoo made for images of another size, with the same weights, normalisation and source.

    Raises:
      ConversionError: some weights are tied to the size and cannot be resized, as a Mixer's.
      ValueError: its family knows no such size.

    Example:
      >>> from jaxkd import models
      >>> for_images_of(models.create("vit_tiny_patch16_224", 10, depth=1, image_size=32), 64).image_shape
      (64, 64, 3)
    """
    other = abstract_model(model.name, model.num_classes, **{**dict(model.options), "image_size": image_size})
    weights, said = resized(other, {entry.name: entry.to_torch() for entry in entries(model)})
    load_state_dict(other, weights, model.name)
    other.normalization, other.resize_to = model.normalization, getattr(model, "resize_to", None)
    if source := getattr(model, "source", None):
        other.source = source._replace(matched="; ".join(filter(None, [source.matched, said])))
    return other


def resized(model: Any, weights: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Return weights with those resized that depend on the size of images, and what was done in words.

    Args:
      model: the network that they shall fit.
      weights: by the network's keys; those of a shape that is for no grid or window are left as they are.

    Example:
      >>> from jaxkd import convert, models
      >>> large, small = (models.create("vit_tiny_patch16_224", 10, depth=1, image_size=size) for size in (224, 32))
      >>> found, said = resized(small, convert.to_state_dict(large))
      >>> found["pos_embed"].shape, said
      ((1, 5, 192), 'pos_embed was resized from 14×14 to 2×2')
    """
    found, said = dict(weights), []
    for entry, positions in _differing(model, weights):
        before, after = (positions.side(shape) for shape in (weights[entry.name].shape, entry.torch_shape))
        if before:
            found[entry.name] = positions.resized(np.asarray(weights[entry.name], np.float32), entry.torch_shape)
            said.append(f"{entry.name} was resized from {before}×{before} to {after}×{after}")
    return found, "; ".join(said if len(said) < 3 else [said[0], f"and {len(said) - 1} more"])


def _differing(model: Any, weights: Mapping[str, np.ndarray]) -> list[tuple[Entry, Positions]]:
    """Return the position embeddings that weights have for images of another size."""
    tied = [(entry, entry.positions) for entry in entries(model) if entry.positions is not None]
    shapes = {key: value.shape for key, value in weights.items()}
    return [
        (entry, positions)
        for entry, positions in tied
        if (shape := shapes.get(entry.name, entry.torch_shape)) != entry.torch_shape
        and len(shape) == len(entry.torch_shape)
        and positions.pattern(shape) == entry.torch_pattern
    ]
