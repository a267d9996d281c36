"""Networks as state dicts see them: their variables by PyTorch's keys, with or without weights, and an index of all.

Building sixty networks takes ten seconds even without weights, so the package carries an index of their keys and
shapes. A network that is not on it is built when it is asked for; `python -m jaxkd.convert.architectures` brings the
index up to date, and a test says when that is due.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxkd import models
from jaxkd.formats.files import atomic_write, listed
from jaxkd.models.ensemble import Constant
from jaxkd.models.registry import Classifier, hashable
from jaxkd.nn.attention import Rate
from jaxkd.nn.outputs import layer_name
from jaxkd.nn.stack import Stack
from jaxkd.nn.tokens import Positions

_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
"""Our variables' names in the order in which PyTorch lists them: parameters first, then buffers."""

_NO_WEIGHTS = (nnx.RngState, nnx.Intermediate, nnx.Perturbation, nnx.Cache, Rate, Constant)
"""The types of variables that hold what a network draws, records in a call, or was made with."""

_FLAX = ("_pytree__", "_object__")
"""Beginnings of the names of Flax's own attributes."""

CLASSES, CHANNELS = 10_007, 10_009
"""Stand in a survey's shapes for the number of classes and of input channels: numbers that no layer is as wide as."""

Options = tuple[tuple[str, Any], ...]
Shapes = Mapping[str, tuple[int, ...]]

PAD: Options = (("shortcut", "pad"),)
"""Shortcuts without weights, which CIFAR ResNets offer."""

FILE = Path(__file__).with_name("listing.json.gz")


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


def is_weight(_: Any, variable: Any) -> bool:
    """Return whether a variable is in a state dict. It is a filter of Flax, which gives the path first."""
    return isinstance(variable, nnx.Variable) and not isinstance(variable, _NO_WEIGHTS)


def entries(model: nnx.Module) -> list[Entry]:
    """Return every variable of a model, in the order of PyTorch's state dict: attributes as defined, depth first.

    A module that is not of the zoo keeps that order only until Flax has split and merged it.

    Raises:
      ValueError: two variables have the same key, or one lies where no key leads.

    Example:
      >>> from jaxkd import models
      >>> [entry.name for entry in entries(models.create("resnet8"))][-2:]
      ['fc.weight', 'fc.bias']
    """
    by_name = {entry.name: entry for entry in walk(model)}
    _check_complete(model, by_name.values())
    order = [name for name in keys_of(model) if name in by_name]
    return [by_name[name] for name in order] if len(order) == len(by_name) else list(by_name.values())


def _check_complete(model: nnx.Module, found: Iterable[Entry]) -> None:
    """Refuse a model whose file would lack some of its weights."""
    reached = {id(entry.variable) for entry in found}
    variables = nnx.to_flat_state(nnx.state(model, is_weight))
    if left_out := [layer_name(path) for path, variable in variables if id(variable) not in reached]:
        raise ValueError(
            f"{type(model).__name__}: {listed({'weights without a key of their own': left_out})[0]}: keep layers in "
            "attributes, lists, tuples or dictionaries, and give one of two weights with the same key another name"
        )


def keys_of(model: nnx.Module) -> Iterable[str]:
    """Return the keys in the order of definition of a network that `models.create` made; none of any other module."""
    name, options = getattr(model, "name", None), getattr(model, "options", ())
    try:
        return keys(name, dict(options)) if isinstance(name, str) else ()
    except ValueError:  # somebody else's network, which has a name too
        return ()


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
    members = list(_members(node))
    variables = {name: member for name, member, _ in members if is_weight((), member)}
    order = list(_TORCH_NAMES)
    for name in sorted(variables, key=lambda name: order.index(name) if name in order else len(order)):
        yield Entry(prefix + _TORCH_NAMES.get(name, name), variables[name], name == "kernel", position)
    for name, member, inner in members:
        if isinstance(member, nnx.Pytree | list | tuple | Mapping):
            yield from _below(member, f"{prefix}{name}.", position if inner is None else inner)


def _members(node: Any) -> Iterator[tuple[str, Any, int | None]]:
    """Yield name and value of what a node holds, and its position in its stack. A stack counts as the blocks it holds.

    Layers also lie in plain lists, tuples and dictionaries (`nnx.data`), those of linen modules in dictionaries alone.
    """
    if isinstance(node, nnx.List | list | tuple):
        names = map(str, itertools.count())
        for member in node:
            if isinstance(member, Stack):
                yield from ((next(names), member.block, position) for position in range(len(member)))
            else:
                yield next(names), member, None
        return
    for name, member in (node if isinstance(node, nnx.Dict | Mapping) else vars(node)).items():
        if isinstance(member, Stack) and member.names:
            yield from ((block, member.block, position) for position, block in enumerate(member.names))
        elif not str(name).startswith(_FLAX):
            yield str(name), member, None


def _torch_axes(dimensions: int) -> tuple[int, ...]:
    """Return the axes that turn `[…, in, out]` into `[out, in, …]`."""
    return (dimensions - 1, dimensions - 2, *range(dimensions - 2))


def abstract_model(name: str, num_classes: int, **options: Any) -> Any:
    """Return what `models.create` makes without initial weights: shapes only, in a fraction of the time.

    What is no weight, as the random keys of dropout, has its value.

    Example:
      >>> abstract_model("resnet8", 10).fc.kernel.shape
      (64, 10)
    """
    # Without the copy all networks of one blueprint would have the same variables: filling one would change the others.
    return nnx.merge(*_blueprint(name, num_classes, hashable(options)), copy=True)


@functools.lru_cache(maxsize=64)
def _blueprint(name: str, num_classes: int, options: Options) -> tuple[nnx.GraphDef[Any], nnx.State[Any, Any]]:
    def build() -> Any:
        return models.create(name, num_classes, **dict(options))

    model = nnx.eval_shape(build)
    if jax.tree.leaves(nnx.state(model, nnx.Not(is_weight))):
        # The weights are dead code here, which XLA drops.
        nnx.update(model, jax.jit(lambda: nnx.state(build(), nnx.Not(is_weight)))())
    return nnx.split(model)


class Network(NamedTuple):
    """A network under all its published names.

    Attributes:
      names: the plainest first.
      shapes: as in `Survey`.
      pads: whether it can be made with `PAD`.
    """

    names: tuple[str, ...]
    shapes: Shapes
    pads: bool


def networks() -> tuple[Network, ...]:
    """Return all published networks.

    Example:
      >>> next(network for network in networks() if "resnet110" in network.names).names
      ('resnet110', 'ResNet110')
    """
    return _networks(tuple(models.list()))


def synonyms(name: str) -> tuple[str, ...]:
    """Return other published names of the same network.

    Example:
      >>> synonyms("ResNet110")
      ('resnet110',)
    """
    network = _by_name(tuple(models.list())).get(name)
    return () if network is None else tuple(other for other in network.names if other != name)


def keys(name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a network's keys in PyTorch's order, and perhaps others that its options take away.

    Raises:
      ValueError: unknown name or option.

    Example:
      >>> keys("resnet8", {})[-2:]
      ('fc.weight', 'fc.bias')
    """
    listed = _by_name(tuple(models.list())).get(name)
    if listed is not None and options.keys() <= {"channels", "image_size", *dict(PAD)}:
        return tuple(listed.shapes)
    return tuple(survey(name, hashable({key: value for key, value in options.items() if key != "channels"})).shapes)


@functools.lru_cache(maxsize=4)
def _by_name(published: tuple[str, ...]) -> dict[str, Network]:
    return {name: network for network in _networks(published) for name in network.names}


@functools.lru_cache(maxsize=4)
def _networks(published: tuple[str, ...]) -> tuple[Network, ...]:
    listed = [
        Network(names, MappingProxyType({key: tuple(shape) for key, shape in entry["shapes"].items()}), entry["pads"])
        for entry in json.loads(gzip.decompress(FILE.read_bytes()))
        if (names := tuple(name for name in entry["names"] if name in published))
    ]
    new = set(published).difference(*(network.names for network in listed))
    return (*listed, *built(sorted(new)))


class Survey(NamedTuple):
    """The state dict of a network, whatever its classes and channels.

    Attributes:
      shapes: by key, in PyTorch's order and layout; `CLASSES`, `CHANNELS` and `ANY` stand for the numbers that vary.
      graph: its structure without weights or name. Networks of equal structure compute the same.
    """

    shapes: Shapes
    graph: nnx.GraphDef[Any]


@functools.lru_cache(maxsize=512)
def survey(name: str, options: Options = ()) -> Survey:
    """Return the keys, shapes and structure of a network.

    Flax sorts attributes by name when it splits a module and merges it again, while PyTorch lists them as they were
    defined. So a network is built here, and looked at before Flax has taken it apart.

    Args:
      name: as `models.create` takes it.
      options: likewise, but for `channels`.

    Raises:
      ValueError: unknown name or option.

    Example:
      >>> list(survey("resnet8").shapes.items())[-1] == ("fc.bias", (CLASSES,))
      True
    """
    found = []

    def build() -> tuple[()]:
        try:
            model: Any = models.create(name, CLASSES, channels=CHANNELS, **dict(options))
        except ValueError:  # a family for images of three channels only, or what the next line complains of
            model = models.create(name, CLASSES, **dict(options))
        shapes = {entry.name: entry.torch_pattern for entry in walk(model)}
        model.name = model.image_shape = None
        found.append(Survey(MappingProxyType(shapes), nnx.graphdef(model)))
        return ()

    jax.eval_shape(build)
    return found[0]


def built(names: list[str], options: Options = ()) -> list[Network]:
    """Build the networks of these names with some options; those of equal keys and structure are one."""
    groups: dict[Any, list[str]] = {}
    for name in names:
        shapes, graph = survey(name, options)
        groups.setdefault((tuple(shapes.items()), graph), []).append(name)
    return [
        Network(tuple(sorted(group, key=_plainness)), survey(group[0], options).shapes, not options and _pads(group[0]))
        for group in groups.values()
    ]


def _plainness(name: str) -> tuple[int, int, str]:
    """Return a key that sorts lower case first, as most people write networks' names, then short names."""
    return (sum(map(str.isupper, name)), len(name), name)


def _pads(name: str) -> bool:
    try:
        survey(name, PAD)
    except ValueError:
        return False
    return True


def main() -> None:
    """Build every published network and write down its keys and shapes; the same networks give the same bytes."""
    networks = built(models.list())
    entries = [{"names": network.names, "shapes": dict(network.shapes), "pads": network.pads} for network in networks]
    with atomic_write(FILE) as file:
        file.write(gzip.compress(json.dumps(entries).encode(), mtime=0))
    print(f"{len(networks)} networks under {len(models.list())} names in {FILE}")


if __name__ == "__main__":
    main()
