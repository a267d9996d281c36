"""Call a network in training or evaluation mode, however it is told, and keep layers of it frozen."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from flax.nnx import bridge

IN_TRAINING = ("train", "training", "is_training")
IN_EVALUATION = ("deterministic", "use_running_average")
"""Arguments of a call that say in which mode a network computes; those of layers in Flax say the opposite."""

_SWITCHES = {"use_running_average": True, "deterministic": True, "keeps_statistics": True}
"""Attributes by which layers know their mode (Flax's BatchNorm and Dropout, ours), with their value in evaluation."""


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
        return any(_under(layer, path) for layer in self.layers)


def checked_trainable(network: nnx.Module, layers: str | Iterable[str] | None) -> Trainable | None:
    """Return what `compile(trainable=…)` says; None where all layers are trained.

    Raises:
      ValueError: for no layer, or one that the network does not have, with the names it has.
    """
    if layers is None:
        return None
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    if not names:
        raise ValueError("trainable=() trains nothing: name the layers to train, as in trainable=('fc',)")
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(network, nnx.Param))]
    for name in names:
        if not any(_under(name, path) for path in paths):
            raise ValueError(
                f"trainable={name!r}: {type(network).__name__} has no such layer with parameters; "
                f"{named_layers(name, paths)}"
            )
    return Trainable(names)


def named_layers(wanted: str, paths: Iterable[Sequence[Any]]) -> str:
    """Return which layers there are, in words: those whose names are like the one wanted, and those at the top.

    Example:
      >>> named_layers("layer5", [("layer4", 0, "conv1", "kernel"), ("fc", "kernel")])
      'did you mean layer4, layer4.0? at its top are layer4, fc'
    """
    known = {".".join(map(str, path[:length])): None for path in paths for length in range(1, len(path))}
    close = difflib.get_close_matches(wanted, known, n=3)
    top = ", ".join(name for name in known if "." not in name)
    return (f"did you mean {', '.join(close)}? " if close else "") + f"at its top are {top}"


def call(network: Any, images: jax.Array, train: bool, trainable: Trainable | None = None) -> Any:
    """Return what a network returns for images, in training or evaluation mode.

    A network is told by an argument of its call (`train`, `training`, `is_training`, `deterministic` or
    `use_running_average`), or else by Flax's `network.train()` and `network.eval()`. A linen module in
    `nnx.bridge.ToNNX` is told in the same way; its statistics move in training alone.

    Args:
      network: merged for this call, since the attributes that say the mode may be changed.
      images: `[B, H, W, C]`.
      train: whether to compute as in training.
      trainable: where given, all other layers compute as in evaluation.
    """
    if train and trainable is not None:
        freeze(network, trainable)
    if isinstance(network, bridge.ToNNX):
        return _call_linen(network, images, train)
    told = mode_arguments(type(network))
    if told is None:
        network.train() if train else network.eval()
        if train and trainable is not None:
            freeze(network, trainable)
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
    """Put all layers but those that are trained into evaluation mode."""
    for path, layer in nnx.iter_modules(network):
        if not trainable.covers(path):
            for name, value in _SWITCHES.items():
                if hasattr(layer, name):
                    setattr(layer, name, value)


def _call_linen(network: Any, images: jax.Array, train: bool) -> Any:
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


def _under(layer: str, path: Sequence[Any]) -> bool:
    parts = tuple(layer.split("."))
    return tuple(map(str, path[: len(parts)])) == parts
