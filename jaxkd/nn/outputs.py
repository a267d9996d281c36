"""Read what a network returns: `Outputs`, logits alone, or several in a dictionary or tuple; find layers by name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd.types import Outputs, is_array

Path = Sequence[Any]


def layer_name(path: Path) -> str:
    """Return the name of what lies at a path.

    Example:
      >>> layer_name(("layer4", 0, "conv1"))
      'layer4.0.conv1'
    """
    return ".".join(map(str, path))


def is_under(layer: str, path: Path) -> bool:
    """Return whether a path leads to a layer or into it.

    Example:
      >>> is_under("layer4", ("layer4", 0)), is_under("fc", ("fc2", "kernel"))
      (True, False)
    """
    parts = tuple(layer.split("."))
    return tuple(map(str, path[: len(parts)])) == parts


def known_layers(wanted: str, layers: Iterable[Path]) -> str:
    """Return which layers there are, in words: those whose names are like the one wanted, and those at the top.

    Example:
      >>> known_layers("layer5", [("layer4",), ("layer4", 0), ("fc",)])
      'did you mean layer4, layer4.0? at its top are layer4, fc'
    """
    known = dict.fromkeys(layer_name(path[:length]) for path in layers for length in range(1, len(path) + 1))
    inner = [name for name in known if name.endswith(f".{wanted}")]
    close = [*inner, *difflib.get_close_matches(wanted, known, n=3)][:3]
    top = ", ".join(name for name in known if "." not in name) or "none"
    return (f"did you mean {', '.join(close)}? " if close else "") + f"at its top are {top}"


_FORMS = (
    "return logits [B, K], jaxkd.Outputs(logits, features), a dictionary with logits and perhaps features, or a tuple "
    "that begins with the logits"
)


def as_outputs(returned: Any, network: Any) -> Outputs:
    """Return what a network returned as `Outputs`.

    - an array is the logits;
    - in a dictionary, a named tuple or a dataclass, `logits` are the logits, `features` and `preactivations` those of
      `Outputs`, each a sequence or a dictionary of arrays in order; anything else is kept in `others` by its name;
    - in a tuple or list, the first entry is the logits; a second that is a sequence or dictionary is the features;
      arrays after the logits are kept in `others` as "1", "2", ….

    Args:
      returned: by the network.
      network: for errors.

    Raises:
      TypeError: for anything else.
      ValueError: for logits that are no floating-point `[B, K]`.

    Example:
      >>> both = {"logits": jnp.zeros((2, 10)), "aux": jnp.zeros((2, 10)), "features": [jnp.zeros((2, 64))]}
      >>> found = as_outputs(both, None)
      >>> found.logits.shape, len(found.features), list(found.others)
      ((2, 10), 1, ['aux'])
    """
    name = type(network).__name__
    found = returned if isinstance(returned, Outputs) else _read(returned, name)
    if not jnp.issubdtype(found.logits.dtype, jnp.floating) or found.logits.ndim != 2:
        raise ValueError(
            f"the logits of {name} are {found.logits.dtype} of shape {found.logits.shape}: {_FORMS}, floating-point "
            "scores before the softmax, a row for each image and a column for each class"
        )
    return found


def _read(returned: Any, name: str) -> Outputs:
    if is_array(returned):
        return Outputs(returned)
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        returned = {field.name: getattr(returned, field.name) for field in dataclasses.fields(returned)}
    elif isinstance(returned, tuple) and hasattr(returned, "_asdict"):
        returned = returned._asdict()
    elif isinstance(returned, list | tuple) and returned and is_array(returned[0]):
        logits, *rest = returned
        features = rest.pop(0) if rest and isinstance(rest[0], Mapping | list | tuple) else ()
        numbered = {str(number): value for number, value in enumerate(rest, start=2 if features else 1)}
        return Outputs(logits, _in_order(features, name, "features"), others=numbered or None)
    if not isinstance(returned, Mapping):
        raise TypeError(f"{name} returned {_described(returned)}: {_FORMS}")
    entries = {str(key): value for key, value in returned.items() if value is not None}
    if not is_array(entries.get("logits")):
        raise TypeError(f"{name} returned entries {', '.join(entries) or 'without a name'} and no logits: {_FORMS}")
    logits, features, before = (entries.pop(key, ()) for key in ("logits", "features", "preactivations"))
    classify = entries.pop("classify", None)
    features, before = _in_order(features, name, "features"), _in_order(before, name, "preactivations")
    return Outputs(logits, features, before, classify, others=entries or None)


def _in_order(values: Any, name: str, kind: str) -> tuple[jax.Array, ...]:
    found = tuple(values.values()) if isinstance(values, Mapping) else values
    if isinstance(found, list | tuple) and all(map(is_array, found)):
        return tuple(found)
    raise TypeError(f"the {kind} of {name} are {_described(values)}: give arrays in a sequence, or by name in order")


def _described(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {', '.join(type(one).__name__ for one in value) or 'nothing'}"
    return f"a {type(value).__name__}"
