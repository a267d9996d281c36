"""Models on disk: an orbax checkpoint of the weights, and a manifest that says which network they are for."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from flax import nnx
from orbax.checkpoint import v1 as ocp

from jaxkd.base import Normalization
from jaxkd.convert.errors import ConversionError
from jaxkd.convert.mapping import load_state_dict, to_state_dict
from jaxkd.convert.state_dict import unwrap
from jaxkd.convert.zoo import abstract_model

_FORMAT = "jaxkd-model"


def save(model: Any, path: str | PathLike[str], source: dict[str, str] | None = None) -> None:
    """Saves a model of the zoo as an orbax checkpoint with its name, options, classes and normalisation.

    Args:
      model: made by `models.create` or `from_torch`.
      path: the directory; a model saved there before is replaced.
      source: where the weights come from (`{"file": …, "sha256": …}`), kept in the manifest.

    Raises:
      FileExistsError: something other than a saved model is at `path`.

    Example:
      >>> import tempfile
      >>> from jaxkd import models
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(models.create("resnet8", num_classes=10), Path(folder) / "student")
      ...     load(Path(folder) / "student").num_classes
      10
    """
    manifest = {
        "format": _FORMAT,
        "architecture": model.name,
        "options": dict(model.options),
        "num_classes": model.num_classes,
        "normalization": model.normalization
        and {key: list(value) for key, value in model.normalization._asdict().items()},
        "source": source,
    }
    _check_replaceable(Path(path))
    ocp.save(Path(path).absolute(), to_state_dict(model), custom_metadata=manifest, overwrite=True)


def _check_replaceable(path: Path) -> None:
    """Orbax empties a folder it overwrites, whatever was in it."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        read_manifest(path)
    except ConversionError:
        raise FileExistsError(f"{path} exists and is no saved model: choose another place") from None


def load(path: str | PathLike[str]) -> nnx.Module:
    """Loads a model that `save` wrote.

    Args:
      path: the directory.

    Returns:
      The model, its normalisation set to what it was saved with.

    Raises:
      ConversionError: there is no such checkpoint there, or it does not fit the network its manifest names.
    """
    manifest = read_manifest(path)
    try:
        weights = ocp.load(Path(path).absolute())
    except Exception as error:  # orbax, tensorstore and the file system each fail in ways of their own
        raise ConversionError(path, f"the checkpoint is damaged ({error})") from error
    name, classes, options = (manifest[key] for key in ("architecture", "num_classes", "options"))
    model = abstract_model(name, classes, **options)
    load_state_dict(model, unwrap(weights, path), path)
    if normalization := manifest["normalization"]:
        model.normalization = Normalization(tuple(normalization["mean"]), tuple(normalization["std"]))
    return model


def read_manifest(path: str | PathLike[str]) -> dict[str, Any]:
    """What `save` wrote beside the weights.

    Raises:
      ConversionError: `path` holds no checkpoint of a model.
    """
    try:
        manifest = ocp.metadata(Path(path).absolute()).custom_metadata
    except Exception as error:
        raise ConversionError(path, "holds no checkpoint of a model") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ConversionError(path, f"holds a checkpoint without a model's manifest: {json.dumps(manifest)[:80]}")
    return manifest
