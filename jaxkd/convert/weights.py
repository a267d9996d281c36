"""Map a model's variables to PyTorch's names, order and layout, and back.

Position embeddings and relative biases are fitted to images of another size, as timm does when it loads a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.convert.architectures import Entry, abstract_model, entries, keys_of
from jaxkd.convert.identify import canonical, closest, shapes_of
from jaxkd.convert.state_dict import is_counter
from jaxkd.formats.files import ConversionError, listed
from jaxkd.models.registry import Classifier
from jaxkd.nn.attention import Frozen
from jaxkd.nn.tokens import Positions

_USUAL = (nnx.Param, nnx.BatchStat, Frozen)
"""The types of variables that a file has to have."""


def to_state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    """Return a model's weights as PyTorch's state dict: its keys, order and layout, and BatchNorm's step counters (0).

    Args:
      model: any module whose attributes carry the names of the PyTorch network's.

    Returns:
      Arrays by key: convolutions `[out, in, h, w]`, linear layers `[out, in]`.

    Raises:
      ValueError: with the names of weights that no key leads to, or that share one with others.

    Example:
      >>> from jaxkd import models
      >>> weights = to_state_dict(models.create("resnet8", num_classes=10))
      >>> weights["conv1.weight"].shape, weights["fc.weight"].shape
      ((16, 3, 3, 3), (10, 64))
    """
    weights: dict[str, np.ndarray] = {}
    for entry in entries(model):
        weights[entry.name] = entry.to_torch()
        if entry.name.endswith("running_var"):
            weights[entry.name.removesuffix("running_var") + "num_batches_tracked"] = np.zeros((), np.int64)
        if isinstance(model, Classifier):
            weights |= model.buffers_after(entry.name)
    return weights


def load_state_dict(
    model: nnx.Module, weights: Mapping[str, np.ndarray], source: str | PathLike[str]
) -> dict[str, np.ndarray]:
    """Fill a model with the weights of a state dict, all of them or none.

    Args:
      model: the module to fill; its variables may be abstract (`nnx.eval_shape`).
      weights: arrays in PyTorch's layout, as `to_state_dict` and `formats.torch_reader.read` return them; BatchNorm's
        counters of steps are left aside.
      source: where they come from, for the error.

    Returns:
      What was loaded: by the model's own keys, in the order and layout of `to_state_dict`; real numbers in float32.
      Variables of the user's own types that are not there stay as they are.

    Raises:
      ConversionError: with the keys that are missing, unexpected, misshapen or hold no sensible numbers, and the
        network of the zoo that they fit or come closest to; the model is as it was.

    Example:
      >>> from jaxkd import models
      >>> model = models.create("resnet8", num_classes=10)
      >>> load_state_dict(model, {"fc.bias": np.zeros(100)}, "a.pth")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      jaxkd.formats.files.ConversionError: a.pth: does not fit resnet8 (num_classes=10); missing (46): ...
    """
    by_name = {entry.name: entry for entry in entries(model)}
    weights = {name: value for name, value in weights.items() if name in by_name or not is_counter(name)}
    matched = match_names(weights, by_name)
    found = {ours: weights[theirs] for theirs, ours in matched.items()}
    other_network = {
        "missing": [name for name in by_name if name not in found and isinstance(by_name[name].variable, _USUAL)],
        "unexpected": [name for name in weights if name not in matched],
        "misshapen": [
            f"{name} {list(value.shape)} where the model has {list(by_name[name].torch_shape)}"
            for name, value in found.items()
            if value.shape != by_name[name].torch_shape
        ],
    }
    other_type = [
        f"{name} ({value.dtype})"
        for name, value in found.items()
        if _is_real(value) != _is_real(by_name[name].variable)
    ]
    if any(other_network.values()) or other_type:
        problems = [f"does not fit {_called(model)}", *listed({**other_network, "of another type": other_type})]
        if any(other_network.values()) and keys_of(model):
            problems.append(closest(shapes_of(weights)))
        raise ConversionError(source, "; ".join(problems))
    with np.errstate(over="ignore"):  # of float64; what becomes infinite is refused below
        present = {name: found[name] for name in by_name if name in found}
        values = {name: np.asarray(value, np.float32 if _is_real(value) else None) for name, value in present.items()}
    damaged = {
        "not finite": [name for name, value in values.items() if not np.isfinite(value).all()],
        "negative": [name for name, value in values.items() if name.endswith("running_var") and (value < 0).any()],
    }
    if any(damaged.values()):
        raise ConversionError(source, "; ".join(["holds damaged weights", *listed(damaged)]))
    _fill([by_name[name] for name in values], values)
    return values


def match_names(names: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """Map the names of a file to those of a model: equal ones, then those equal but for `SYNONYMS`.

    Args:
      names: of the file.
      expected: of the model.

    Returns:
      File name to model name; names without a partner are left out.

    Example:
      >>> match_names(["conv1.weight", "linear.weight", "extra"], ["conv1.weight", "fc.weight"])
      {'conv1.weight': 'conv1.weight', 'linear.weight': 'fc.weight'}
    """
    names, open_names = list(names), dict.fromkeys(expected)
    matched = {name: name for name in names if name in open_names}
    by_canonical = {canonical(name): name for name in open_names if name not in matched}
    for name in names:
        if name not in matched and (partner := by_canonical.pop(canonical(name), None)):
            matched[name] = partner
    return matched


def _fill(entries: Iterable[Entry], values: Mapping[str, np.ndarray]) -> None:
    """Set the variables to values by key, in PyTorch's layout; a stack's are put together from those of its blocks."""
    shared: dict[int, list[Entry]] = {}
    for entry in entries:
        shared.setdefault(id(entry.variable), []).append(entry)
    for same in shared.values():
        arrays = [entry.from_torch(values[entry.name]) for entry in sorted(same, key=lambda entry: entry.position or 0)]
        array = arrays[0] if same[0].position is None else np.stack(arrays)
        same[0].variable.set_value(jnp.asarray(np.ascontiguousarray(array), same[0].variable.dtype))


def _is_real(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _called(model: nnx.Module) -> str:
    name = getattr(model, "name", None)
    return f"{name} (num_classes={getattr(model, 'num_classes', None)})" if isinstance(name, str) else "the model"


def weights_sha256(weights: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of a state dict's floating-point numbers in float32, with keys and shapes, in hexadecimal.

    Example:
      >>> weights_sha256({"fc.bias": np.zeros(3)}) == weights_sha256({"fc.bias": np.zeros(3, np.float32)})
      True
    """
    total = hashlib.sha256()
    for name, value in weights.items():
        if value.dtype.kind not in "iub":  # BatchNorm's step counters count nothing here
            total.update(f"{name} {value.shape} ".encode())
            total.update(np.ascontiguousarray(value, "<f4").data)
    return total.hexdigest()


def network_for(
    weights: Mapping[str, np.ndarray],
    source: str | PathLike[str],
    name: str,
    num_classes: int,
    options: Mapping[str, Any],
) -> Any:
    """Return a network to be filled with weights, made for images of the size that they are for.

    Args:
      weights: by the network's keys.
      source: where they come from, for the error.
      name: as `models.create` takes it.
      num_classes: likewise.
      options: likewise. Without `image_size` the weights say it, where they depend on it.

    Raises:
      ConversionError: several sizes have weights of these shapes.
    """
    model = abstract_model(name, num_classes, **options)
    if "image_size" in options:
        return model
    sides = [positions.side(weights[entry.name].shape) for entry, positions in _differing(model, weights)]
    if not sides or 0 in sides:  # all fit the network as it is, or no size makes them fit
        return model
    try:
        size = int(model.image_size_of(sides[0]))
    except ValueError as error:
        raise ConversionError(source, str(error)) from error
    return abstract_model(name, num_classes, **options, image_size=size)


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
    return [
        (entry, positions)
        for entry in entries(model)
        if (positions := entry.positions) is not None
        and (shape := weights[entry.name].shape if entry.name in weights else entry.torch_shape) != entry.torch_shape
        and len(shape) == len(entry.torch_shape)
        and positions.pattern(shape) == entry.torch_pattern
    ]
