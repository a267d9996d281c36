"""Call a network in training or evaluation mode and in a precision, however it is told; keep layers of it frozen."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import bridge

from jaxkd.nn.outputs import is_under, known_layers, layer_name
from jaxkd.nn.stack import several_blocks, stacked_paths
from jaxkd.nn.tokens import resized

IN_TRAINING = ("train", "training", "is_training")
IN_EVALUATION = ("deterministic", "use_running_average")
"""Arguments of a call that say in which mode a network computes; those of layers in Flax say the opposite."""

_SWITCHES = ("use_running_average", "deterministic")
"""Attributes by which Flax's BatchNorm and Dropout know their mode; they are true in evaluation."""

_FROZEN = "keeps_statistics"
"""The attribute of a layer that computes as in evaluation whatever the mode: of our BatchNorm, and set on Flax's."""


@dataclass(frozen=True)
class Trainable:
    """The layers of a network that are trained; all others are frozen. A filter of Flax for their parameters.

    Attributes:
      layers: names as paths, such as "fc" and "layer4.0".

    Example:
      >>> Trainable(("fc",))(("fc", "kernel"), nnx.Param(0.0)), Trainable(("fc",))(("fc2", "kernel"), nnx.Param(0.0))
      (True, False)
    """

    layers: tuple[str, ...]

    def __call__(self, path: Sequence[Any], value: Any) -> bool:
        return issubclass(getattr(value, "type", type(value)), nnx.Param) and self.covers(path)

    def covers(self, path: Sequence[Any]) -> bool:
        """Return whether what lies at a path belongs to a layer that is trained."""
        return any(is_under(layer, path) for layer in self.layers)


def checked_trainable(network: nnx.Module, layers: str | Iterable[str] | None) -> Trainable | None:
    """Return what `compile(trainable=…)` says; None where all layers are trained.

    Raises:
      TypeError: for anything but names.
      ValueError: for no layer, one that is several blocks, or one that the network does not have, with those it has.
    """
    if layers is None:
        return None
    names = (layers,) if isinstance(layers, str) else tuple(layers) if isinstance(layers, Iterable) else layers
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"trainable={layers!r}: name the layers to train, as in trainable=('fc',)")
    if not names:
        raise ValueError("trainable=() trains nothing: name the layers to train, as in trainable=('fc',)")
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(network, nnx.Param))]
    for name in names:
        if not any(is_under(name, path) for path in paths):
            raise ValueError(
                f"trainable={name!r}: {type(network).__name__} has no such layer with parameters; "
                f"{known_layers(name, (path[:-1] for path in paths))}"
            )
        if any(name == layer_name(path[:-1]) for path in stacked_paths(network)):
            raise ValueError(f"trainable={name!r}: {several_blocks(name)}")
    return Trainable(names)


def call(network: Any, images: jax.Array, train: bool, trainable: Trainable | None = None) -> Any:
    """Return what a network returns for images, in training or evaluation mode.

    A network is told by an argument of its call (`train`, `training`, `is_training`, `deterministic` or
    `use_running_average`), or else by Flax's `network.train()` and `network.eval()`. A linen module in
    `nnx.bridge.ToNNX` is told in the same way; its statistics move in training alone.

    Args:
      network: merged for this call, since the attributes that say the mode may be changed.
      images: `[B, H, W, C]`; the network sees them at its `resize_to`.
      train: whether to compute as in training.
      trainable: where given, all other layers compute as in evaluation.
    """
    images = resized(network, images)
    if train and trainable is not None:
        freeze(network, trainable)
    if isinstance(network, bridge.ToNNX):
        return _call_linen(network, images, train)
    told = mode_arguments(type(network))
    if told is None:
        with in_mode(network, evaluation=not train):
            return network(images)
    return network(images, **_mode(told, train))


def mode_arguments(kind: type) -> tuple[str, ...] | None:
    """Return the arguments that tell networks of a class their mode; None for Flax's attributes.

    Example:
      >>> mode_arguments(nnx.BatchNorm), mode_arguments(nnx.Linear)
      (('use_running_average',), None)
    """
    parameters = inspect.signature(kind.__call__).parameters
    if found := tuple(name for name in (*IN_TRAINING, *IN_EVALUATION) if name in parameters):
        return found
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return ("train",) if passes_on and not issubclass(kind, nnx.Sequential) else None


def freeze(network: nnx.Module, trainable: Trainable) -> None:
    """Put all layers but those that are trained into evaluation mode, for good."""
    for path, layer in nnx.iter_modules(network):
        if not trainable.covers(path):
            switches = _switches(layer)
            for name in switches:
                setattr(layer, name, True)
            if switches or hasattr(layer, _FROZEN):
                setattr(layer, _FROZEN, True)


@contextlib.contextmanager
def in_mode(network: nnx.Module, evaluation: bool) -> Iterator[None]:
    """Put a network into a mode while the block runs, as Flax's `train()` and `eval()` do; what is frozen stays."""
    before = [
        (layer, name, getattr(layer, name), name in vars(layer))
        for _, layer in nnx.iter_modules(network)
        if not getattr(layer, _FROZEN, False)
        for name in _switches(layer)
    ]
    try:
        # Past Flax, which refuses to change a module that a trace has closed over: these are changed back.
        for layer, name, *_ in before:
            object.__setattr__(layer, name, evaluation)
        yield
    finally:
        for layer, name, value, own in before:
            object.__setattr__(layer, name, value) if own else object.__delattr__(layer, name)


@contextlib.contextmanager
def in_precision(network: nnx.Module, dtype: jnp.dtype) -> Iterator[None]:
    """Let a network's layers compute in a type of floats while the block runs; its parameters keep their own.

    Those of the zoo compute in the type of their inputs. Flax's promote it to that of their parameters unless their
    `dtype` is set, and one that is set stays; the parameters of a linen module are converted, since its layers are made
    in its call.
    """
    layers = [layer for _, layer in nnx.iter_modules(network) if getattr(layer, "dtype", dtype) is None]
    params = [
        (variable, variable.get_value())
        for bridged in (layer for _, layer in nnx.iter_modules(network) if isinstance(layer, bridge.ToNNX))
        for _, variable in nnx.iter_graph(bridged)
        if isinstance(variable, nnx.Param) and variable.get_value().dtype == jnp.float32
    ]
    try:
        for layer in layers:
            object.__setattr__(layer, "dtype", dtype)
        for variable, value in params:
            variable.set_raw_value(value.astype(dtype))
        yield
    finally:
        for layer in layers:
            object.__setattr__(layer, "dtype", None)
        for variable, value in params:
            variable.set_raw_value(value)


def _switches(layer: nnx.Module) -> list[str]:
    """Return the attributes by which a layer itself knows its mode."""
    return [name for name in _SWITCHES if isinstance(getattr(layer, name, ()), bool | None)]


def _call_linen(network: Any, images: jax.Array, train: bool) -> Any:
    with _plain_attributes_hidden(network):
        return _call_linen_alone(network, images, train)


@contextlib.contextmanager
def _plain_attributes_hidden(network: Any) -> Iterator[None]:
    """Take what a network says of itself, such as `normalization`, from where Flax would pass it on as a variable."""

    def holds_variables(value: Any) -> bool:
        leaves = jax.tree.leaves(value, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
        return bool(leaves) and all(isinstance(leaf, nnx.Variable) for leaf in leaves)

    plain = {
        name: value
        for name, value in vars(network).items()
        if not name.startswith(("to_nnx__", "_pytree__")) and not holds_variables(value)
    }
    try:
        for name in plain:
            object.__delattr__(network, name)
        yield
    finally:
        for name, value in plain.items():
            object.__setattr__(network, name, value)


def _call_linen_alone(network: Any, images: jax.Array, train: bool) -> Any:
    told = mode_arguments(type(network.to_nnx__module))
    mode = {} if told is None else _mode(told, train)
    if not train:
        return network(images, rngs={}, mutable=False, **mode)  # draws nothing
    kinds = {type(variable) for _, variable in nnx.to_flat_state(nnx.state(network))}
    carried = [kind for kind in kinds if not issubclass(kind, nnx.Param | nnx.RngState)]
    names = sorted(nnx.variable_name_from_type(kind) for kind in carried)
    return network(images, mutable=names or False, **mode)


def _mode(told: Iterable[str], train: bool) -> dict[str, bool]:
    return {name: train if name in IN_TRAINING else not train for name in told}
