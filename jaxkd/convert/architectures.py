"""Build networks without weights: to be filled, and to index which keys and shapes a file for them has.

Building sixty networks takes ten seconds even without weights, so the package carries an index of them. A network that
is not on it is built when it is asked for; `python -m jaxkd.convert.architectures` brings the index up to date, and a
test says when that is due.
"""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from flax import nnx

from jaxkd import models
from jaxkd.convert.state_dict import WEIGHTS, walk
from jaxkd.formats.files import atomic_write
from jaxkd.models.registry import hashable

CLASSES, CHANNELS = 10_007, 10_009
"""Stand in a survey's shapes for the number of classes and of input channels: numbers that no layer is as wide as."""

NO_WEIGHTS = nnx.Not(nnx.Any(*WEIGHTS))
"""The variables of a network that no file of weights has."""

Options = tuple[tuple[str, Any], ...]
Shapes = Mapping[str, tuple[int, ...]]


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
    if jax.tree.leaves(nnx.state(model, NO_WEIGHTS)):
        # The weights are dead code here, which XLA drops.
        nnx.update(model, jax.jit(lambda: nnx.state(build(), NO_WEIGHTS))())
    return nnx.split(model)


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


PAD: Options = (("shortcut", "pad"),)
"""Shortcuts without weights, which CIFAR ResNets offer."""

FILE = Path(__file__).with_name("listing.json.gz")


class Network(NamedTuple):
    """A network under all its published names.

    Attributes:
      names: the plainest first.
      shapes: as in `architectures.Survey`.
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
