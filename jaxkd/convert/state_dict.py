"""State dicts: those in what a file holds, raw or averaged, and the one a module's variables would make in PyTorch."""

from __future__ import annotations

import functools
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.formats.files import ConversionError, listed
from jaxkd.models.registry import Classifier
from jaxkd.nn.attention import Frozen
from jaxkd.nn.stack import Stack
from jaxkd.nn.tokens import Positions

CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
"""The keys under which training scripts put the weights, beside the epoch, the accuracy and the optimizer."""

SYNONYMS = {"linear": "fc", "classifier": "fc", "shortcut": "downsample"}
"""Names that networks give their classifier or shortcut: each maps to the one they are compared by."""

MAX_KEY_LETTERS = 1000
"""Keys are taken apart and compared with those of every network; no network has any that long."""


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
    for _ in range(2):
        inner = next((tree[name] for name in CONTAINERS if _is_dict(tree) and _is_dict(tree.get(name))), None)
        tree = tree if inner is None else inner
    if not _is_dict(tree) or not tree or not all(isinstance(name, str) for name in tree):
        raise ConversionError(source, f"holds no state dict, neither by itself nor under {', '.join(CONTAINERS)}")
    check_key_lengths(tree, source)
    if strange := [name for name, value in tree.items() if not isinstance(value, np.ndarray)]:
        raise ConversionError(source, f"holds no state dict; {'; '.join(listed({'no tensors': strange}))}")
    parallel = all(name.startswith("module.") for name in tree)
    names = {name.removeprefix("module.") if parallel else name: value for name, value in tree.items()}
    return {name: value for name, value in names.items() if not has_counter_name(name)}


def check_key_lengths(names: Iterable[str], source: str | PathLike[str]) -> None:
    """Refuse keys that no network has.

    Raises:
      ConversionError: one is longer than `MAX_KEY_LETTERS`.
    """
    if (longest := max(map(len, names), default=0)) > MAX_KEY_LETTERS:
        raise ConversionError(source, f"holds no state dict: a key has {longest} letters")


def has_counter_name(name: str) -> bool:
    """Return whether a key is that of BatchNorm's step counter, or of what Swin transformers can compute themselves."""
    return name.rpartition(".")[2] in ("num_batches_tracked", "relative_position_index", "attn_mask")


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


@functools.lru_cache(maxsize=2**14)  # more than all networks have keys
def canonical(name: str) -> str:
    """Return the name with every synonym replaced.

    Example:
      >>> canonical("layer2.0.shortcut.0.weight")
      'layer2.0.downsample.0.weight'
    """
    return ".".join(SYNONYMS.get(part, part) for part in name.split("."))


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


MAX_CONTAINERS = 3
"""The depth to which dictionaries are searched: `{"state": {"model": {"state_dict": …}}}`."""

MAX_SEGMENTS = 6
"""The most segments of a prefix, as in `module._orig_mod.model.`; files from strangers have any number."""

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
        """Return their place, as `weights` of `from_torch` takes it: `state_dict/module.`, or `/` for all of a file."""
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
        """Return its dependence on the size of images; None without."""
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
