"""List a module's variables as PyTorch would: their keys, and their shapes and values in PyTorch's layout."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.models.registry import Classifier
from jaxkd.nn.attention import Frozen
from jaxkd.nn.positions import Positions
from jaxkd.nn.stack import Stack

_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
"""Our variables' names in the order in which PyTorch lists them: parameters first, then buffers."""

WEIGHTS = (nnx.Param, nnx.BatchStat, Frozen)
"""The types of the variables that are in a state dict."""


class Entry(NamedTuple):
    """One variable of a model and where it stands in a state dict.

    Attributes:
      name: its key, `layer1.0.conv1.weight`.
      variable: the variable itself.
      is_kernel: whether its axes differ: `[…, in, out]` here, `[out, in, …]` in PyTorch.
      position: which block of a stack it belongs to, along the variable's first axis; None outside of stacks.
    """

    name: str
    variable: nnx.Variable[Any]
    is_kernel: bool
    position: int | None = None

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Its shape in PyTorch's layout."""
        shape = tuple(self.variable.shape)[self.position is not None :]
        return tuple(shape[axis] for axis in _torch_axes(len(shape))) if self.is_kernel else shape

    @property
    def positions(self) -> Positions | None:
        """How it depends on the size of images; None where it does not."""
        return self.variable.get_metadata().get("positions")

    @property
    def torch_pattern(self) -> tuple[int, ...]:
        """Its shape in PyTorch's layout, with `ANY` for what depends on the size of images."""
        return self.torch_shape if self.positions is None else self.positions.pattern(self.torch_shape)

    def to_torch(self) -> np.ndarray:
        """Return its value in PyTorch's layout."""
        value = np.asarray(self.variable.get_value())
        value = value if self.position is None else value[self.position]
        return value.transpose(_torch_axes(value.ndim)) if self.is_kernel else value

    def from_torch(self, value: np.ndarray) -> np.ndarray:
        """Return a value that is in PyTorch's layout in that of the variable."""
        return value.transpose(np.argsort(_torch_axes(value.ndim))) if self.is_kernel else value


def walk(module: nnx.Module) -> Iterator[Entry]:
    """Yield every variable of a module, depth first, in its attributes' present order; those of stacks once per block.

    Networks of the zoo have the keys, and the order, of the library that they are named after.

    Example:
      >>> from jaxkd.nn.layers import Linear
      >>> [entry.name for entry in walk(Linear(2, 3, rngs=nnx.Rngs(0)))]
      ['weight', 'bias']
    """
    found = {entry.name: entry for entry in _below(module)}
    keys = module.torch_keys(list(found)) if isinstance(module, Classifier) else {name: name for name in found}
    for ours, theirs in keys.items():
        yield found[ours]._replace(name=theirs)


def _below(node: Any, prefix: str = "", position: int | None = None) -> Iterator[Entry]:
    variables = {name: value for name, value in _attributes(node) if isinstance(value, WEIGHTS)}
    order = list(_TORCH_NAMES)
    for name in sorted(variables, key=lambda name: order.index(name) if name in order else len(order)):
        yield Entry(prefix + _TORCH_NAMES.get(name, name), variables[name], name == "kernel", position)
    for name, child, inner in _children(node):
        yield from _below(child, f"{prefix}{name}.", position if inner is None else inner)


def fill(entries: Iterable[Entry], values: Mapping[str, np.ndarray]) -> None:
    """Set the variables to values by key, in PyTorch's layout; a stack's are put together from those of its blocks."""
    shared: dict[int, list[Entry]] = {}
    for entry in entries:
        shared.setdefault(id(entry.variable), []).append(entry)
    for same in shared.values():
        arrays = [entry.from_torch(values[entry.name]) for entry in sorted(same, key=lambda entry: entry.position or 0)]
        array = arrays[0] if same[0].position is None else np.stack(arrays)
        same[0].variable.set_value(jnp.asarray(np.ascontiguousarray(array), same[0].variable.dtype))


def _children(node: Any) -> Iterator[tuple[str, Any, int | None]]:
    """Yield name and module of each child, and its position in its stack. A stack counts as the blocks it holds."""
    if not isinstance(node, nnx.List):
        for name, child in _attributes(node):
            if isinstance(child, Stack) and child.names:
                yield from ((block, child.block, position) for position, block in enumerate(child.names))
            elif isinstance(child, nnx.Module | nnx.List | nnx.Dict):
                yield name, child, None
        return
    names = map(str, itertools.count())
    for child in node:
        if isinstance(child, Stack):
            yield from ((next(names), child.block, position) for position in range(len(child)))
        else:
            yield next(names), child, None


def _attributes(node: Any) -> Iterator[tuple[str, Any]]:
    for name, child in node.items() if isinstance(node, nnx.Dict) else vars(node).items():
        if not str(name).startswith("_"):  # Flax's own bookkeeping
            yield str(name), child


def _torch_axes(dimensions: int) -> tuple[int, ...]:
    """Return the axes that turn `[…, in, out]` into `[out, in, …]`."""
    return (dimensions - 1, dimensions - 2, *range(dimensions - 2))
