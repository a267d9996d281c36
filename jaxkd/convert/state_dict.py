"""Find the state dicts in what a file holds: raw and averaged ones, wherever they lie and whatever keys begin with."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from jaxkd.formats.files import ConversionError, brief, listed

CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
"""The keys under which training scripts put the weights, beside the epoch, the accuracy and the optimizer."""

_NO_STATE_DICT = f"holds no state dict, neither by itself nor under {', '.join(CONTAINERS)}"

MAX_KEY_LETTERS = 1000
"""No network has keys any longer."""

MAX_CONTAINERS = 3
"""The depth to which dictionaries are searched: `{"state": {"model": {"state_dict": …}}}`."""

MAX_SEGMENTS = 6
"""The most segments of a prefix, as in `module._orig_mod.model.`; an untrusted file may have any number."""

_AVERAGED = re.compile(r"(^|[._-])(ema|swa|avg|average|averaged|shadow|polyak)([._-]|$)", re.IGNORECASE)
_NO_WEIGHTS = re.compile(
    r"(^|[._-])((optim(i[sz]er)?|(lr_?)?sched(uler)?|scaler|callback|loop)s?|hyper_parameters)([._-]|$)", re.IGNORECASE
)
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
    def described(self) -> str:
        """Say what a reader of the file would not expect of them; empty where they lie plainly."""
        said = ["averaged weights"] if self.averaged else []
        if not self.usual:
            said.append(f"the weights are those under {'/'.join(self.containers)!r}")
        if self.prefix not in ("", "module."):
            said.append(f"keys begin with {brief(self.prefix)!r}, which was left off")
        if self.prefix or self.strange:
            said += listed({"tensors left out": self.beside if self.prefix else [], "no tensors": self.strange})
        return "; ".join(said)

    @property
    def place(self) -> str:
        """Return their place, as `weights` of `from_torch` takes it: `state_dict/module.`, or `/` for all of a file."""
        return "/".join(filter(None, [*self.containers, self.prefix])) or "/"

    def is_at(self, wanted: str) -> bool:
        """Return whether this is what a user asks for: "raw", "averaged", or a place or the beginning of the keys."""
        if wanted in ("raw", "averaged"):
            return self.averaged == (wanted == "averaged")
        own, asked = self.place.rstrip("./").replace("/", "."), wanted.strip("./").replace("/", ".")
        return f".{asked}." in f".{own}." if asked else not self.prefix and not self.containers


def weight_sets(tree: Any, source: str | PathLike[str], wanted: str | None = None) -> list[WeightSet]:
    """Return the sets of weights in what a file holds: the one in the usual place first, outer prefixes before inner.

    Args:
      tree: what `torch_reader.read` returned.
      source: the file, for the error.
      wanted: "raw", "averaged", or where they lie. None means all of them.

    Raises:
      ConversionError: there is no tensor under any name, or none where they are wanted.

    Example:
      >>> averaged = {"n_averaged": np.array(7), "module.fc.bias": np.zeros(10)}
      >>> [(found.place, list(found.weights), found.averaged) for found in weight_sets(averaged, "swa.pth")]
      [('/', ['module.fc.bias'], True), ('module.', ['fc.bias'], True), ('module.fc.', ['bias'], True)]
    """
    usual = _usual_place(tree)
    places = sorted(_dictionaries(tree), key=lambda place: place[0] != usual)  # stable: the file's order else
    sets = [each for containers, content in places for each in _split(containers, content, containers == usual, source)]
    if not sets:
        raise ConversionError(source, _NO_STATE_DICT)
    found = [each for each in sets if wanted is None or each.is_at(wanted)]
    if not found:
        known = dict.fromkeys(each.place for each in sets if not each.prefix or each.prefix.count(".") == 1)
        kind = f"{wanted} weights" if wanted in ("raw", "averaged") else f"weights at {brief(str(wanted))!r}"
        raise ConversionError(source, f"holds no {kind}; {'; '.join(listed({'it holds weights at': list(known)}))}")
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
    _check_key_lengths(content, source)
    tensors = {key: value for key, value in content.items() if isinstance(value, np.ndarray)}
    weights = {key: value for key, value in tensors.items() if value.ndim > 0 and not is_counter(key)}
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


def unwrap(tree: Any, source: str | PathLike[str]) -> dict[str, np.ndarray]:
    """Return the weights in what a torch file holds, in the file's order.

    It looks inside `CONTAINERS` (twice), strips the `module.` that `DataParallel` puts before every name and drops
    BatchNorm's step counters, which nothing here counts.

    Args:
      tree: what `torch_reader.read` returned.
      source: the file, for the error.

    Raises:
      ConversionError: there is no state dict.

    Example:
      >>> checkpoint = {"epoch": 3, "state_dict": {"module.fc.bias": np.zeros(10)}}
      >>> list(unwrap(checkpoint, "last.pth"))
      ['fc.bias']
    """
    for container in _usual_place(tree):
        tree = tree[container]
    if not isinstance(tree, dict) or not tree or not all(isinstance(name, str) for name in tree):
        raise ConversionError(source, _NO_STATE_DICT)
    _check_key_lengths(tree, source)
    if strange := [name for name, value in tree.items() if not isinstance(value, np.ndarray)]:
        raise ConversionError(source, f"holds no state dict; {'; '.join(listed({'no tensors': strange}))}")
    parallel = all(name.startswith("module.") for name in tree)
    names = {name.removeprefix("module.") if parallel else name: value for name, value in tree.items()}
    return {name: value for name, value in names.items() if not is_counter(name)}


def _check_key_lengths(names: Iterable[str], source: str | PathLike[str]) -> None:
    """Refuse keys that no network has: they are taken apart and compared with those of every network."""
    if (longest := max(map(len, names), default=0)) > MAX_KEY_LETTERS:
        raise ConversionError(source, f"holds no state dict: a key has {longest} letters")


def is_counter(name: str) -> bool:
    """Return whether a key is that of BatchNorm's step counter, or of what Swin transformers can compute themselves."""
    return name.rpartition(".")[2] in ("num_batches_tracked", "relative_position_index", "attn_mask")
