"""Save models with a manifest that says which network they are for, and load them from wherever their weights are."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx
from orbax.checkpoint import v1 as ocp

from jaxkd.convert import manifest as manifests
from jaxkd.convert.architectures import abstract_model, synonyms
from jaxkd.convert.state_dict import unwrap
from jaxkd.convert.torch_models import from_torch, with_classes
from jaxkd.convert.weights import for_images_of, load_state_dict, to_state_dict, weights_sha256
from jaxkd.formats.files import ConversionError, brief, fetched, sha256
from jaxkd.types import Normalization

_FORMAT = "jaxkd-model"


def save(model: Any, path: str | PathLike[str]) -> None:
    """Save a model of the zoo as an orbax checkpoint with its name, options, classes, normalisation and origin.

    Args:
      model: made by `models.create`, `from_torch` or `load`, and perhaps trained since.
      path: the directory, in which `~` is expanded; a model saved there before is replaced.

    Raises:
      FileExistsError: something other than a saved model is at `path`.
      ValueError: the model is not of the zoo.

    Example:
      >>> import tempfile
      >>> from jaxkd import models
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(models.create("resnet8", num_classes=10), Path(folder) / "student")
      ...     load(Path(folder) / "student").num_classes
      10
    """
    weights = to_state_dict(model)
    manifest = {"format": _FORMAT, **manifests.describe(model, weights)}
    check_replaceable(path)
    ocp.save(_place(path), weights, custom_metadata=manifest, overwrite=True)


def check_replaceable(path: str | PathLike[str]) -> None:
    """Refuse a place with anything but a saved model: Orbax empties a folder it overwrites, whatever was in it.

    Raises:
      FileExistsError: as `save` would.
    """
    place = _place(path)
    if place.exists() and not (place.is_dir() and not any(place.iterdir())) and not is_saved(place):
        raise FileExistsError(f"{path} exists and is not a saved model: choose another place")


def is_saved(path: str | PathLike[str]) -> bool:
    """Return whether `save` wrote a folder.

    Example:
      >>> is_saved("no such folder")
      False
    """
    try:
        read_manifest(path)
    except ConversionError:
        return False
    return True


def network_in(path: str | PathLike[str]) -> Path | None:
    """Return the saved model in the directory of a run, which is its `model` or `student`; None if there is none.

    Example:
      >>> network_in("no such folder") is None
      True
    """
    return next((Path(path) / name for name in ("model", "student") if is_saved(Path(path) / name)), None)


def load(path: str | PathLike[str]) -> nnx.Module:
    """Load a model that `save` wrote.

    Args:
      path: the directory, in which `~` is expanded.

    Returns:
      The model, its `normalization` and `source` set to what it was saved with.

    Raises:
      ConversionError: there is no such checkpoint there, it is damaged, or it does not fit the network its manifest
        names.
    """
    manifest = read_manifest(path)
    try:
        weights = ocp.load(_place(path))
    except Exception as error:  # orbax, tensorstore and the file system each fail in ways of their own
        raise ConversionError(path, f"the checkpoint is damaged ({brief(str(error))})") from error
    try:
        model = abstract_model(manifest["architecture"], manifest["num_classes"], **manifest["options"])
        if normalization := manifest["normalization"]:
            model.normalization = manifests.checked_normalization(normalization["mean"], normalization["std"], path)
        model.resize_to = manifests.checked_side(manifest.get("resize_to"), path)
        if source := manifest["source"]:
            model.source = manifests.Source.from_json(source)
        expected = manifest["weights_sha256"]
    except ConversionError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ConversionError(path, f"its manifest cannot be read ({error!r}): save the model again") from error
    loaded = load_state_dict(model, unwrap(weights, path), path)
    if weights_sha256(loaded) != expected:
        raise ConversionError(
            path, "is damaged: its weights are not those it was saved with: copy it, or save the model again"
        )
    return model


class Pretrained(NamedTuple):
    """A network with its weights, and where they are from.

    Attributes:
      model: as `from_torch` or `load` returns it.
      path: the file of weights or the folder that `save` wrote.
    """

    model: Any
    path: Path

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file, or of the folder's files with their names."""
        return sha256(self.path) if self.path.is_dir() else str(self.model.source.sha256)


def load_pretrained(
    path: str | PathLike[str],
    name: str | None = None,
    normalization: Normalization | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> Pretrained:
    """Load a network from a file of weights, a folder that `save` wrote, or the directory of a run.

    Args:
      path: as `from_torch` and `load` take it, or the directory of a run with a `model` or `student` in it.
      name: the architecture it has to be. None takes any: a folder says which it is, a file's is found by its keys.
      normalization: what the network's images were normalised with. None means what `from_torch` or `load` knows.
      weights: which of several sets of weights in a file, as `from_torch` takes it.
      image_size: of a network with position embeddings: they are resized. None means the size it was saved for.
      num_classes: how many classes the network shall have; where it has another number, its classifier is replaced by
        a fresh one. None means as many as it has.
      seed: of a fresh classifier.

    Raises:
      FileNotFoundError: there is nothing.
      ConversionError: as `from_torch` and `load`, and for a folder with another network than `name`.
      ValueError: the architecture is unknown.

    Example:
      >>> import tempfile
      >>> from jaxkd import models
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(models.create("resnet8", num_classes=10), Path(folder) / "run" / "student")
      ...     model, path = load_pretrained(Path(folder) / "run")
      >>> model.name, path.name
      ('resnet8', 'student')
    """
    found = locate(path)
    if not found.exists():
        raise FileNotFoundError(f"{found}: there is no such file or folder")
    if not found.is_dir():
        size = {} if image_size is None else {"image_size": image_size}
        loaded = from_torch(found, name, num_classes, normalization, weights=weights, seed=seed, **size)
        return Pretrained(loaded, found)
    model: Any = load(found)
    if image_size is not None:
        model = for_images_of(model, image_size)
    if name not in (None, model.name, *synonyms(model.name)):
        raise ConversionError(found, f"holds a {model.name}, not a {name}")
    if normalization:
        model.normalization = normalization
    return Pretrained(with_classes(model, num_classes, seed), found)


def locate(path: str | PathLike[str]) -> Path:
    """Return where the weights are that a user names.

    `~` is expanded, the directory of a run stands for its network, and `hf://user/repo/file` is fetched.

    Example:
      >>> locate("teacher.pth").name
      'teacher.pth'
    """
    path = Path(fetched(path)).expanduser()
    return network_in(path) or path


def read_manifest(path: str | PathLike[str]) -> dict[str, Any]:
    """Return what `save` wrote beside the weights, see `manifest.describe`.

    Raises:
      ConversionError: `path` holds no checkpoint of a model.
    """
    try:
        manifest = ocp.metadata(_place(path)).custom_metadata
    except Exception as error:
        raise ConversionError(path, _nothing_there(_place(path))) from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ConversionError(
            path,
            f"holds a checkpoint without a model's manifest, so convert.save did not write it: {brief(str(manifest))}",
        )
    return manifest


def _place(path: str | PathLike[str]) -> Path:
    return Path(path).expanduser().absolute()


def _nothing_there(path: Path) -> str:
    """Return why a place has no checkpoint, and where there is one: people name the folder of a run."""
    if not path.exists():
        return "there is no such folder"
    inside = network_in(path)
    if inside is None and (path / "config.json").is_file() and (path / "checkpoints").is_dir():
        return "is a run without its network: let it come to its end, with the same command and --resume"
    if inside is None and path.is_dir():  # one folder too high
        inside = next(filter(None, map(network_in, sorted(path.iterdir()))), None)
    return "holds no checkpoint of a model" + ("" if inside is None else f"; the run's network is in {inside}")
