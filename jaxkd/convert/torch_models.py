"""Load models from files of weights, and write them for PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from flax import nnx

from jaxkd import models
from jaxkd.convert import manifest
from jaxkd.convert.architectures import synonyms
from jaxkd.convert.identify import candidates, fitting
from jaxkd.convert.selection import Selection, Wanted, decide
from jaxkd.convert.state_dict import weight_sets
from jaxkd.convert.weights import load_state_dict, network_for, resized, to_state_dict, weights_sha256
from jaxkd.formats import safetensors, torch_reader, torch_writer
from jaxkd.types import Normalization


def from_torch(
    path: str | PathLike[str],
    name: str | None = None,
    num_classes: int | None = None,
    normalization: Normalization | None = None,
    *,
    weights: str | None = None,
    seed: int = 0,
    **options: Any,
) -> nnx.Module:
    """Load a PyTorch checkpoint into a model, without torch and without running anything the file asks for.

    The number of classes, the channels of the images and the kind of shortcut are found in the file. Keys may begin
    with anything (`module.`, `_orig_mod.model.`), and have other names where order and shapes leave one choice.

    Args:
      path: a `.pth`, `.pt`, `.th`, `.tar` or `.ckpt` file of either format of `torch.save`, or a `.safetensors` file;
        or `hf://user/repo/file`, which is fetched from the Hugging Face Hub (`pip install "jaxkd[hub]"`).
      name: the architecture, one of `models.list()` or of the same form. None means the published one that the keys and
        shapes fit, which is then the model's `name`.
      num_classes: how many classes the network shall have. Where the file's has another number, its classifier is
        replaced by a fresh one. None means as many as the file's.
      normalization: what the network's images were normalised with. None means what the file says (a `.safetensors`
        file that `to_torch` wrote does), what is known of the published files in `manifest.PUBLISHED`, and for other
        files the data set's.
      weights: which of several sets of weights: "raw", "averaged" (EMA, SWA), or where they lie in the file, as in
        "state_dict_ema" and "module.student". None means the only one there is.
      seed: of a fresh classifier.
      **options: of the network's family, as `models.create` takes them. `image_size` resizes position embeddings and
        relative biases as timm does; without it, the size is the file's. Others than it, `drop` and `drop_path` need
        the name. They come before those that a `.safetensors` file of `to_torch` says.

    Returns:
      The model, with `normalization` set (or None), and in `source` where its weights are from; `source.matched` says
      in words what was left off, renamed or replaced.

    Raises:
      ConversionError: the file is unreadable or unsafe, or does not fit; the message lists missing, unexpected and
        misshapen keys, and the network that the file fits or comes closest to. Without a name, it fits none or several,
        or a known network outside the zoo as well. Without `weights`, it holds several sets.
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
    if not isinstance(normalization, Normalization | None):
        raise TypeError(f"normalization={normalization!r}: give jaxkd.Normalization(mean, std)")
    contents = torch_reader.read_contents(path)
    said = contents.metadata  # empty in all but safetensors files
    stated = manifest.stated_in(said, path, name, options)
    network, found, matched = select(contents.tree, path, name, weights, stated, options)
    if stated and network.name not in (stated.name, *synonyms(stated.name)):
        stated = None  # its keys say otherwise
    chosen = {**network.options, **(stated.options if stated else options)}
    model = network_for(found, path, network.name, cast(int, network.num_classes), chosen)
    model.resize_to = stated.resize_to if stated else None
    if "image_size" in options:
        found, changed = resized(model, found)
        matched = "; ".join(filter(None, [matched, changed]))
    loaded = load_state_dict(model, found, path)
    if normalization is None and said:
        normalization = manifest.normalization_in(said, path)
    model.normalization = normalization or manifest.PUBLISHED.get(contents.sha256)
    model.source = manifest.Source(Path(path).name, contents.sha256, weights_sha256(loaded), matched)
    return with_classes(model, num_classes, seed)


def select(
    tree: Any,
    source: str | PathLike[str],
    name: str | None = None,
    weights: str | None = None,
    stated: manifest.Stated | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Selection:
    """Find the weights in what a file holds, and the network they are for.

    Keys are compared as they are, then without what all of them begin with, then by order and shape.

    Args:
      tree: what `torch_reader.read` returned.
      source: the file, for errors.
      name: the architecture; None takes the published one that fits.
      weights: which set, as `from_torch` takes it.
      stated: the network that the file names. It is taken if it fits.
      options: of the architecture called `name`.

    Raises:
      ConversionError: nothing fits, or several things do.
      ValueError: there is no network called `name`.

    Example:
      >>> from jaxkd import convert, models
      >>> weights = convert.to_state_dict(models.create("resnet8", num_classes=10))
      >>> compiled = {f"_orig_mod.{key}": value for key, value in weights.items()}
      >>> select(compiled, "x.pth").matched
      "keys begin with '_orig_mod.', which was left off"
    """
    known = candidates(name, stated.options if stated else options)
    sets = weight_sets(tree, source, weights)
    fits = fitting(sets, known)
    if name is None or len(fits) != 1:
        return decide(sets, fits, known, Wanted(source, name, weights, stated))
    ((chosen, candidate),) = fits
    return Selection(candidate, chosen.weights, chosen.described)


def with_classes(model: Any, num_classes: int | None, seed: int = 0) -> Any:
    """Return a network that was loaded, with a fresh classifier where it has another number of classes.

    Args:
      model: with its `source`, which says afterwards that the classifier was replaced.
      num_classes: None keeps the network as it is.
      seed: of a fresh classifier.
    """
    if num_classes is None or num_classes == model.num_classes:
        return model
    changed: Any = models.reset_classifier(model, num_classes, seed)
    if source := getattr(model, "source", None):
        replaced = f"the classifier of {model.num_classes} classes was replaced by a fresh one of {num_classes}"
        matched = "; ".join(filter(None, [source.matched, f"{replaced} (seed {seed})"]))
        weights = weights_sha256(to_state_dict(changed))
        changed.source = source._replace(weights_sha256=weights, matched=matched)
    return changed


def to_torch(model: nnx.Module, path: str | PathLike[str]) -> None:
    """Write a model as a PyTorch state dict, for `torch.load(weights_only=True)` and a strict `load_state_dict`.

    Args:
      model: the model; the network to load it into is the one of the same name.
      path: the file, written completely or not at all; `~` is expanded, and its folder made. One that ends in
        `.safetensors` is of that format, and also says which network it is for, its options, and what its images are
        normalised with and resized to; any other is of `torch.save`'s format.

    Raises:
      ValueError: a weight has no key of its own, see `to_state_dict`.

    Example:
      >>> import tempfile
      >>> from jaxkd import models
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     to_torch(models.create("resnet8"), Path(folder) / "student.pth")
      ...     len(torch_reader.read(Path(folder) / "student.pth"))
      56
    """
    weights = to_state_dict(model)
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".safetensors":
        torch_writer.write(path, weights)
    else:
        described = manifest.describe(model, weights) if manifest.is_of_the_zoo(model) else {}
        safetensors.write(path, weights, manifest.to_strings(described))
