"""List the sets of weights in a file: under which names, behind which prefix, raw or averaged."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from jaxkd.convert.state_dict import CONTAINERS, check_key_lengths, has_counter_name
from jaxkd.formats.files import ConversionError

MAX_CONTAINERS = 3
"""How deep dictionaries are looked into: `{"state": {"model": {"state_dict": …}}}`."""

MAX_SEGMENTS = 6
"""How many segments a prefix may have, as in `module._orig_mod.model.`; files from strangers have any number."""

_AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|average|averaged|shadow|polyak)([._]|$)")
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|callback|hyper_parameters|loops", re.IGNORECASE)
"""Parts of a training script's file in which tensors are no weights."""


class WeightSet(NamedTuple):
    """Tensors of a file whose keys begin alike.

    Attributes:
      containers: the names they lie under, outermost first.
      prefix: what their keys begin with in the file, as in `module.`; left off in `weights`.
      weights: the tensors by key, in the file's order, without counters.
      dictionary: all of the dictionary's tensors by their full keys, likewise.
      strange: keys in the same dictionary whose values are no tensors.
      averaged: whether they are a running average of the weights.
      usual: whether they lie where training scripts put what they trained, see `state_dict.CONTAINERS`.
    """

    containers: tuple[str, ...]
    prefix: str
    weights: dict[str, np.ndarray]
    dictionary: dict[str, np.ndarray]
    strange: tuple[str, ...]
    averaged: bool
    usual: bool

    @property
    def beside(self) -> list[str]:
        """Keys of the other tensors in the same dictionary."""
        return [key for key in self.dictionary if not key.startswith(self.prefix)]

    @property
    def place(self) -> str:
        """Where they are, as `weights` of `from_torch` takes it: `state_dict/module.`, or `/` for all of a file."""
        return "/".join(filter(None, [*self.containers, self.prefix])) or "/"

    def is_at(self, wanted: str) -> bool:
        """Return whether this is what a user asks for: "raw", "averaged", or a place or the beginning of the keys."""
        if wanted in ("raw", "averaged"):
            return self.averaged == (wanted == "averaged")
        own, asked = self.place.rstrip("./").replace("/", "."), wanted.strip("./").replace("/", ".")
        return f".{asked}." in f".{own}." if asked else not self.prefix and not self.containers


def weight_sets(tree: Any, source: str | PathLike[str]) -> list[WeightSet]:
    """Return all sets of weights in what a file holds: the one in the usual place first, outer prefixes before inner.

    Args:
      tree: what `torch_reader.read` returned.
      source: the file, for the error.

    Raises:
      ConversionError: there is no tensor under any name.

    Example:
      >>> averaged = {"n_averaged": np.array(7), "module.fc.bias": np.zeros(10)}
      >>> [(found.place, list(found.weights), found.averaged) for found in weight_sets(averaged, "swa.pth")]
      [('/', ['module.fc.bias'], True), ('module.', ['fc.bias'], True), ('module.fc.', ['bias'], True)]
    """
    usual = _usual_place(tree)
    places = sorted(_dictionaries(tree), key=lambda place: place[0] != usual)  # stable: the file's order else
    found = [
        each for containers, content in places for each in _split(containers, content, containers == usual, source)
    ]
    if not found:
        raise ConversionError(source, f"holds no state dict, neither by itself nor under {', '.join(CONTAINERS)}")
    return found


def _usual_place(tree: Any) -> tuple[str, ...]:
    place: tuple[str, ...] = ()
    for _ in range(2):
        inner = next((name for name in CONTAINERS if isinstance(tree, dict) and isinstance(tree.get(name), dict)), None)
        if inner is None:
            break
        place, tree = (*place, inner), tree[inner]
    return place


def _dictionaries(tree: Any) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Return every dictionary with tensors in it and the names it lies under; one that is met twice counts once."""
    found, seen = [], set()
    waiting = deque[tuple[tuple[str, ...], Any]]([((), tree)])
    while waiting:
        containers, node = waiting.popleft()
        if not isinstance(node, dict) or id(node) in seen or not all(isinstance(key, str) for key in node):
            continue
        seen.add(id(node))
        if any(isinstance(value, np.ndarray) for value in node.values()):
            found.append((containers, node))
        if len(containers) < MAX_CONTAINERS:
            inner = [key for key, value in node.items() if isinstance(value, dict) and not _NO_WEIGHTS.search(key)]
            waiting.extend(((*containers, key), node[key]) for key in inner)
    return found


def _split(
    containers: tuple[str, ...], content: dict[str, Any], usual: bool, source: str | PathLike[str]
) -> Iterator[WeightSet]:
    """Yield the tensors of a dictionary, and those behind each prefix."""
    check_key_lengths(content, source)
    tensors = {key: value for key, value in content.items() if isinstance(value, np.ndarray)}
    weights = {key: value for key, value in tensors.items() if value.ndim > 0 and not has_counter_name(key)}
    strange = tuple(key for key, value in content.items() if key not in tensors)
    counted = {key.removesuffix("n_averaged") for key in content if key.rpartition(".")[2] == "n_averaged"}
    behind: dict[str, dict[str, np.ndarray]] = {"": weights} if weights else {}
    for key, value in weights.items():
        for prefix in _prefixes(key):
            behind.setdefault(prefix, {})[key[len(prefix) :]] = value
    for prefix, group in behind.items():
        named = _AVERAGED.search(".".join([*containers, prefix])) is not None
        averaged = named or not counted.isdisjoint(["", prefix, *_prefixes(prefix)])
        yield WeightSet(containers, prefix, group, weights, strange, averaged, usual)


def _prefixes(key: str) -> list[str]:
    """Return the beginnings of a key that end in a dot, the shortest first: `MAX_SEGMENTS` of them at most."""
    segments = key.split(".", MAX_SEGMENTS)[:-1]
    return [".".join(segments[: count + 1]) + "." for count in range(len(segments))]
