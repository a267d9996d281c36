"""A model's variables under PyTorch's names, in PyTorch's order and layout, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.convert.errors import ConversionError
from jaxkd.convert.state_dict import match_names
from jaxkd.convert.zoo import in_definition_order

_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
"""Our variables' names in the order in which PyTorch lists them: parameters first, then buffers."""


class Entry(NamedTuple):
    """One variable of a model and where it stands in a state dict.

    Attributes:
      name: its key, `layer1.0.conv1.weight`.
      variable: the variable itself.
      is_kernel: whether its axes differ: `[…, in, out]` here, `[out, in, …]` in PyTorch.
    """

    name: str
    variable: nnx.Variable
    is_kernel: bool

    @property
    def is_statistic(self) -> bool:
        """Whether it is a running statistic and no parameter."""
        return isinstance(self.variable, nnx.BatchStat)

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Its shape in PyTorch's layout."""
        shape = tuple(self.variable.shape)
        return tuple(shape[axis] for axis in _torch_axes(len(shape))) if self.is_kernel else shape

    def to_torch(self) -> np.ndarray:
        """Its value in PyTorch's layout."""
        value = np.asarray(self.variable.get_value())
        return value.transpose(_torch_axes(value.ndim)) if self.is_kernel else value

    def from_torch(self, value: np.ndarray) -> jax.Array:
        """A value in PyTorch's layout as the variable holds it."""
        axes = np.argsort(_torch_axes(value.ndim)) if self.is_kernel else range(value.ndim)
        return jnp.asarray(np.ascontiguousarray(value.transpose(axes)), self.variable.dtype)


def entries(model: nnx.Module) -> list[Entry]:
    """Every variable of a model, in the order of PyTorch's state dict: attributes as they were defined, depth first.

    A module that is not of the zoo keeps that order only until Flax has split and merged it.

    Example:
      >>> from jaxkd import models
      >>> [entry.name for entry in entries(models.create("resnet8"))][-2:]
      ['fc.weight', 'fc.bias']
    """
    by_name = {entry.name: entry for entry in _walk(model, prefix="")}
    order = in_definition_order(model, _names)
    return [by_name[name] for name in order] if by_name.keys() == set(order) else list(by_name.values())


def to_state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    """A model's weights as PyTorch's state dict: the same keys, order and layout, and BatchNorm's step counters (0).

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
    return weights


def load_state_dict(model: nnx.Module, weights: Mapping[str, np.ndarray], source: str | PathLike[str]) -> None:
    """Fills a model with the weights of a state dict, all of them or none.

    Args:
      model: the module to fill; its variables may be abstract (`nnx.eval_shape`).
      weights: arrays in PyTorch's layout, as `state_dict.unwrap` returns them.
      source: where they come from, for the error.

    Raises:
      ConversionError: with all keys that are missing, unexpected, misshapen or no floating-point numbers; the model is
        as it was.

    Example:
      >>> from jaxkd import models
      >>> model = models.create("resnet8", num_classes=10)
      >>> load_state_dict(model, {"fc.bias": np.zeros(100)}, "a.pth")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      jaxkd.convert.errors.ConversionError: a.pth: does not fit the model; missing (46): conv1.weight, ...
    """
    by_name = {entry.name: entry for entry in entries(model)}
    matched = match_names(weights, by_name)
    found = {ours: weights[theirs] for theirs, ours in matched.items()}
    problems = {
        "missing": [name for name in by_name if name not in found],
        "unexpected": [name for name in weights if name not in matched],
        "misshapen": [
            f"{name} {list(value.shape)} where the model has {list(by_name[name].torch_shape)}"
            for name, value in found.items()
            if value.shape != by_name[name].torch_shape
        ],
        "not floating-point": [
            f"{name} ({value.dtype})" for name, value in found.items() if not jnp.issubdtype(value.dtype, jnp.floating)
        ],
    }
    if any(problems.values()):
        listed = [f"{kind} ({len(names)}): {', '.join(names)}" for kind, names in problems.items() if names]
        raise ConversionError(source, "; ".join(["does not fit the model", *listed]))
    values = {name: by_name[name].from_torch(value) for name, value in found.items()}
    for name, value in values.items():
        by_name[name].variable.set_value(value)


def _names(model: nnx.Module) -> list[str]:
    return [entry.name for entry in _walk(model, prefix="")]


def _walk(node: Any, prefix: str) -> Iterator[Entry]:
    children = dict(_children(node))
    variables = {name: value for name, value in children.items() if isinstance(value, nnx.Param | nnx.BatchStat)}
    order = list(_TORCH_NAMES)
    for name in sorted(variables, key=lambda name: order.index(name) if name in order else len(order)):
        yield Entry(prefix + _TORCH_NAMES.get(name, name), variables[name], is_kernel=name == "kernel")
    for name, child in children.items():
        if isinstance(child, nnx.Module | nnx.List | nnx.Dict):
            yield from _walk(child, f"{prefix}{name}.")


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, nnx.List):
        for position, child in enumerate(node):
            yield str(position), child
    else:
        for name, child in node.items() if isinstance(node, nnx.Dict) else vars(node).items():
            if not str(name).startswith("_"):  # Flax's own bookkeeping
                yield str(name), child


def _torch_axes(dimensions: int) -> tuple[int, ...]:
    """`[…, in, out]` to `[out, in, …]`."""
    return (dimensions - 1, dimensions - 2, *range(dimensions - 2))
