"""Load models from files of weights, and write them for PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from flax import nnx

from jaxkd.convert import identify, manifest
from jaxkd.convert.architectures import abstract_model
from jaxkd.convert.identify import Candidate
from jaxkd.convert.published import PUBLISHED
from jaxkd.convert.state_dict import unwrap
from jaxkd.convert.weights import load_state_dict, to_state_dict
from jaxkd.formats import safetensors, torch_reader, torch_writer
from jaxkd.formats.errors import ConversionError
from jaxkd.types import Normalization


def from_torch(
    path: str | PathLike[str],
    name: str | None = None,
    num_classes: int | None = None,
    normalization: Normalization | None = None,
) -> nnx.Module:
    """Load a PyTorch checkpoint into a model, without torch and without running anything the file asks for.

    The number of classes, the channels of the images and the kind of shortcut are found in the file.

    Args:
      path: a `.pth`, `.pt`, `.th` or `.tar` file of either format of `torch.save`, or a `.safetensors` file.
      name: the architecture, one of `models.list()` or of the same form. None means the published one that the keys and
        shapes fit, which is then the model's `name`.
      num_classes: what the classifier must have, if it is to be checked.
      normalization: what the network's images were normalised with. None means what the file says (a `.safetensors`
        file that `to_torch` wrote does), what is known of the published files in `published.PUBLISHED`, and for other
        files the data set's.

    Returns:
      The model, with `normalization` set (or None), and in `source` where its weights are from.

    Raises:
      ConversionError: the file is unreadable or unsafe, or does not fit; the message lists missing, unexpected and
        misshapen keys, and the network that the file fits or comes closest to. Without a name, it fits none or several.
      ValueError: the architecture is unknown.

    Example:
      >>> import tempfile
      >>> from jaxkd import models
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     to_torch(models.create("resnet8", num_classes=10), Path(folder) / "student.pth")
      ...     model = from_torch(Path(folder) / "student.pth")
      >>> model.name, model.num_classes
      ('resnet8', 10)
    """
    contents = torch_reader.read_contents(path)
    weights = unwrap(contents.tree, path)
    shapes = {key: value.shape for key, value in weights.items()}
    network = _network(shapes, name, contents.metadata, path)
    classes = network.num_classes if num_classes is None else num_classes
    if classes is None:
        hint = identify.closest(shapes)
        raise ConversionError(path, f"holds no classifier of two or more classes for a {network.name}; {hint}")
    model = abstract_model(network.name, classes, **network.options)
    loaded = load_state_dict(model, weights, path)
    known = PUBLISHED.get(contents.sha256)
    model.normalization = (
        normalization or manifest.normalization_in(contents.metadata, path) or (known.normalization if known else None)
    )
    model.source = manifest.Source(Path(path).name, contents.sha256, manifest.weights_sha256(loaded))
    return model


def to_torch(model: nnx.Module, path: str | PathLike[str]) -> None:
    """Write a model as a PyTorch state dict, for `torch.load(weights_only=True)` and a strict `load_state_dict`.

    Args:
      model: the model; the network to load it into is the one of the same name.
      path: the file, written completely or not at all. One that ends in `.safetensors` is of that format, and also
        says which network it is for and what its images are normalised with; any other is of `torch.save`'s format.

    Example:
      >>> import tempfile
      >>> from jaxkd import models
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     to_torch(models.create("resnet8"), Path(folder) / "student.pth")
      ...     len(torch_reader.read(Path(folder) / "student.pth"))
      56
    """
    weights = to_state_dict(model)
    if Path(path).suffix != ".safetensors":
        torch_writer.write(path, weights)
    else:
        described = manifest.describe(model, weights) if manifest.is_of_the_zoo(model) else {}
        safetensors.write(path, weights, manifest.to_strings(described))


def _network(
    shapes: Mapping[str, tuple[int, ...]], name: str | None, metadata: Mapping[str, str], path: str | PathLike[str]
) -> Candidate:
    """Return the network that was named or that the file names, otherwise the one it fits."""
    if name is not None:
        return identify.compared(name, shapes)
    stated = metadata.get("architecture")
    try:
        if stated is not None and (candidate := identify.compared(stated, shapes)).fits:
            return candidate
    except ValueError:  # another zoo's name
        pass
    return identify.the_one(shapes, path)
