"""Layers of a network by name: the attributes that lead to them, with dots between, such as "layer4.0.bn1"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

Path = Sequence[Any]


def name_of(path: Path) -> str:
    """Return the name of what lies at a path.

    Example:
      >>> name_of(("layer4", 0, "conv1"))
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
    known = dict.fromkeys(name_of(path[:length]) for path in layers for length in range(1, len(path) + 1))
    inner = [name for name in known if name.endswith(f".{wanted}")]
    close = [*inner, *difflib.get_close_matches(wanted, known, n=3)][:3]
    top = ", ".join(name for name in known if "." not in name) or "none"
    return (f"did you mean {', '.join(close)}? " if close else "") + f"at its top are {top}"
