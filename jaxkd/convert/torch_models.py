"""Torch files to models and back."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jaxkd.base import Normalization
from jaxkd.convert import torch_file, torch_write
from jaxkd.convert.errors import ConversionError
from jaxkd.convert.mapping import entries, load_state_dict, to_state_dict
from jaxkd.convert.published import PUBLISHED
from jaxkd.convert.state_dict import canonical, unwrap
from jaxkd.convert.zoo import abstract_model


def from_torch(
    path: str | PathLike[str],
    name: str,
    num_classes: int | None = None,
    normalization: Normalization | None = None,
) -> nnx.Module:
    """Loads a PyTorch checkpoint into a model, without torch and without running anything the file asks for.

    The number of classes, the channels of the images and the kind of shortcut are found in the file.

    Args:
      path: a `.pth`, `.pt`, `.th` or `.tar` file of either format of `torch.save`.
      name: the architecture, one of `models.list()` or of the same form.
      num_classes: what the classifier must have, if it is to be checked.
      normalization: what the network's images were normalised with. None means what is known of the published files in
        `published.PUBLISHED`, and for other files the data set's.

    Returns:
      The model, with `normalization` set (or None).

    Raises:
      ConversionError: the file is unreadable or unsafe, or does not fit; the message lists missing, unexpected and
        misshapen keys.
      ValueError: the architecture is unknown.

    Example:
      >>> import tempfile
      >>> from jaxkd import models
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     to_torch(models.create("resnet8", num_classes=10), Path(folder) / "student.pth")
      ...     from_torch(Path(folder) / "student.pth", "resnet8").num_classes
      10
    """
    weights = unwrap(torch_file.read(path), path)
    classes = num_classes if num_classes is not None else _count_classes(weights, path)
    model = _model_for(name, classes, weights)
    load_state_dict(model, weights, path)
    known = PUBLISHED.get(sha256(path))
    model.normalization = normalization or (known.normalization if known else None)
    return model


def to_torch(model: nnx.Module, path: str | PathLike[str]) -> None:
    """Writes a model as a PyTorch state dict, for `torch.load(weights_only=True)` and a strict `load_state_dict`.

    Args:
      model: the model; the network to load it into is the one of the same name.
      path: the file, written completely or not at all.

    Example:
      >>> import tempfile
      >>> from jaxkd import models
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     to_torch(models.create("resnet8"), Path(folder) / "student.pth")
      ...     len(torch_file.read(Path(folder) / "student.pth"))
      56
    """
    torch_write.write(path, to_state_dict(model))


def sha256(path: str | PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _count_classes(weights: Mapping[str, np.ndarray], path: str | PathLike[str]) -> int:
    """Rows of the classifier, which is the last matrix of a state dict."""
    matrices = [value for value in weights.values() if value.ndim == 2]
    if not matrices or len(matrices[-1]) < 2:
        raise ConversionError(path, "holds no classifier (a linear layer of two classes or more)")
    return len(matrices[-1])


def _model_for(name: str, num_classes: int, weights: Mapping[str, np.ndarray]) -> Any:
    """The model the weights are for, still empty: loading fills all of it or fails."""
    channels = next((value.shape[1] for value in weights.values() if value.ndim == 4), 3)
    options = {"channels": channels} if channels not in (0, 3) else {}
    model = abstract_model(name, num_classes, **options)
    if _projects(entry.name for entry in entries(model)) and not _projects(weights):
        # The option-A shortcuts of the CIFAR ResNets have no weights. A family that knows no such shortcut stays as it
        # is, and loading will say what is missing.
        with contextlib.suppress(ValueError):
            return abstract_model(name, num_classes, shortcut="pad", **options)
    return model


def _projects(names: Iterable[str]) -> bool:
    return any("downsample" in canonical(name).split(".") for name in names)
