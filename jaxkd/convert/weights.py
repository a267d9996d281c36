"""Map a model's variables to PyTorch's names, order and layout, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.convert.architecture_index import keys
from jaxkd.convert.entries import Entry, fill, walk
from jaxkd.convert.identify import closest
from jaxkd.convert.state_dict import match_names
from jaxkd.formats.files import ConversionError, listed
from jaxkd.models.registry import Classifier


def entries(model: nnx.Module) -> list[Entry]:
    """Return every variable of a model, in the order of PyTorch's state dict: attributes as defined, depth first.

    A module that is not of the zoo keeps that order only until Flax has split and merged it.

    Example:
      >>> from jaxkd import models
      >>> [entry.name for entry in entries(models.create("resnet8"))][-2:]
      ['fc.weight', 'fc.bias']
    """
    by_name = {entry.name: entry for entry in walk(model)}
    order = [name for name in _defined(model) if name in by_name]
    return [by_name[name] for name in order] if len(order) == len(by_name) else list(by_name.values())


def _defined(model: nnx.Module) -> Iterable[str]:
    """Return the keys in the order of definition, for a network that `models.create` made."""
    name, options = getattr(model, "name", None), getattr(model, "options", ())
    try:
        return keys(name, dict(options)) if isinstance(name, str) else ()
    except ValueError:  # somebody else's network, which has a name too
        return ()


def to_state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    """Return a model's weights as PyTorch's state dict: its keys, order and layout, and BatchNorm's step counters (0).

    Args:
      model: any module whose attributes carry the names of the PyTorch network's.

    Returns:
      Arrays by key: convolutions `[out, in, h, w]`, linear layers `[out, in]`.

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
      weights: arrays in PyTorch's layout, as `state_dict.unwrap` returns them.
      source: where they come from, for the error.

    Returns:
      What was loaded: float32 by the model's own keys, in the order and layout of `to_state_dict`.

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
    matched = match_names(weights, by_name)
    found = {ours: weights[theirs] for theirs, ours in matched.items()}
    other_network = {
        "missing": [name for name in by_name if name not in found],
        "unexpected": [name for name in weights if name not in matched],
        "misshapen": [
            f"{name} {list(value.shape)} where the model has {list(by_name[name].torch_shape)}"
            for name, value in found.items()
            if value.shape != by_name[name].torch_shape
        ],
    }
    no_floats = [
        f"{name} ({value.dtype})" for name, value in found.items() if not jnp.issubdtype(value.dtype, jnp.floating)
    ]
    if any(other_network.values()) or no_floats:
        problems = [f"does not fit {_called(model)}", *listed({**other_network, "not floating-point": no_floats})]
        if any(other_network.values()) and _defined(model):
            problems.append(closest({name: value.shape for name, value in weights.items()}))
        raise ConversionError(source, "; ".join(problems))
    with np.errstate(over="ignore"):  # of float64; what becomes infinite is refused below
        values = {name: np.asarray(found[name], np.float32) for name in by_name}
    damaged = {
        "not finite": [name for name, value in values.items() if not np.isfinite(value).all()],
        "negative": [name for name, value in values.items() if name.endswith("running_var") and (value < 0).any()],
    }
    if any(damaged.values()):
        raise ConversionError(source, "; ".join(["holds damaged weights", *listed(damaged)]))
    fill(by_name.values(), values)
    return values


def _called(model: nnx.Module) -> str:
    name = getattr(model, "name", None)
    return f"{name} (num_classes={getattr(model, 'num_classes', None)})" if isinstance(name, str) else "the model"
