"""Identify the network that weights are for: compare their keys and shapes with those of networks."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxkd.convert.architectures import CHANNELS, CLASSES, PAD, Network, Shapes, built, networks
from jaxkd.convert.state_dict import WeightSet, weight_sets
from jaxkd.formats import torch_reader
from jaxkd.models.registry import hashable
from jaxkd.nn.tokens import ANY

SYNONYMS = {"linear": "fc", "classifier": "fc", "shortcut": "downsample"}
"""Names that networks give their classifier or shortcut: each maps to the one they are compared by."""


class Candidate(NamedTuple):
    """A network and how well a file fits it.

    Attributes:
      name: as `models.create` takes it.
      synonyms: other published names of the same network.
      num_classes: of the file's classifier; None where it holds none.
      options: what `models.create` needs besides, as in `{"shortcut": "pad"}`.
      matching: how many keys the file and the network share, with the same shape.
      differing: how many are missing in the file, unexpected in it, or misshapen; 0 where the file fits.
    """

    name: str
    synonyms: tuple[str, ...]
    num_classes: int | None
    options: dict[str, Any]
    matching: int
    differing: int

    @property
    def fits(self) -> bool:
        """Tell whether the file is for this very network."""
        return self.differing == 0

    @property
    def similarity(self) -> float:
        """From 0, nothing in common, to 1, the same keys and shapes."""
        return self.matching / max(self.matching + self.differing, 1)

    def __str__(self) -> str:
        arguments = {"num_classes": self.num_classes, **self.options}
        listed = ", ".join(f"{key}={value!r}" for key, value in arguments.items() if value is not None)
        return f"{self.name} ({listed})" if listed else self.name


def candidates(name: str | None, options: Mapping[str, Any] = MappingProxyType({})) -> tuple[Network, ...]:
    """Return the networks that a file may be for: the one of a name, or all published ones.

    Raises:
      ValueError: there is no such network.
    """
    return networks() if name is None else (named(name, options),)


def named(name: str, options: Mapping[str, Any] = MappingProxyType({})) -> Network:
    """Return the network of a name, published or of the same form; that name is its first.

    Args:
      name: as `models.create` takes it.
      options: likewise.

    Raises:
      ValueError: there is no such network.
    """
    if chosen := hashable({key: value for key, value in options.items() if key != "channels"}):
        return built([name], chosen)[0]
    published = next((network for network in networks() if name in network.names), None)
    if published is None:
        return built([name])[0]
    return published._replace(names=(name, *(other for other in published.names if other != name)))


def fitting(sets: Iterable[WeightSet], known: Iterable[Network]) -> list[tuple[WeightSet, Candidate]]:
    """Return which sets of weights fit which networks."""
    sized = [(network, {len(shapes) for _, shapes in variants(network)}) for network in known]
    return [
        (each, candidate)
        for each in sets
        for network, sizes in sized
        if len(each.weights) in sizes
        and (candidate := _best_variant(network, _canonical(shapes_of(each.weights)))).fits
    ]


def shapes_of(weights: Mapping[str, np.ndarray]) -> Shapes:
    """Return the shapes of arrays by key."""
    return {key: value.shape for key, value in weights.items()}


def _best_variant(network: Network, file: Shapes) -> Candidate:
    expected = _canonical(network.shapes)
    plain = _fit(network.names, expected, {}, file)
    if not network.pads or _projects(file):
        return plain
    options, without = variants(network._replace(shapes=expected))[1]
    padded = _fit(network.names, without, options, file)
    return max(plain, padded, key=lambda candidate: candidate.similarity)


def _fit(names: tuple[str, ...], network: Shapes, options: dict[str, Any], file: Shapes) -> Candidate:
    """Count keys, with those numbers of classes and channels that most of the keys that depend on them have."""
    chosen = {}
    for placeholder, least in ((CLASSES, 2), (CHANNELS, 1)):
        numbers = Counter(
            file[key][shape.index(placeholder)]
            for key, shape in network.items()
            if placeholder in shape and _is_like(file.get(key, ()), shape)
        )
        if numbers and (number := numbers.most_common(1)[0][0]) >= least:
            chosen[placeholder] = number
    expected = {
        key: _sized(tuple(chosen.get(size, size) for size in shape), file.get(key, ()))
        for key, shape in network.items()
    }
    matching = sum(file.get(key) == shape for key, shape in expected.items())
    differing = len(network) + len(file) - len(network.keys() & file.keys()) - matching
    if chosen.get(CHANNELS, 3) != 3:
        options["channels"] = chosen[CHANNELS]
    name, *synonyms = names
    return Candidate(name, tuple(synonyms), chosen.get(CLASSES), options, matching, differing)


def _is_like(found: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Return whether two shapes are equal but for what varies."""
    return len(found) == len(shape) and all(
        size in (length, CLASSES, CHANNELS, ANY) for length, size in zip(found, shape, strict=True)
    )


def _sized(shape: tuple[int, ...], found: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape with a file's own lengths for those that depend on the size of images."""
    if len(found) != len(shape):
        return shape
    return tuple(own if size == ANY else size for size, own in zip(shape, found, strict=True))


def _canonical(shapes: Shapes) -> Shapes:
    """Return shapes by canonical keys; two keys that are synonyms stay two."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        key = canonical(name)
        found[key if key not in found else f"{name} again"] = shape
    return found


@functools.lru_cache(maxsize=2**14)  # more than all networks have keys
def canonical(name: str) -> str:
    """Return the name with every synonym replaced.

    Example:
      >>> canonical("layer2.0.shortcut.0.weight")
      'layer2.0.downsample.0.weight'
    """
    return ".".join(SYNONYMS.get(part, part) for part in name.split("."))


def _projects(names: Iterable[str]) -> bool:
    return any("downsample" in name.split(".") for name in names)


def variants(network: Network) -> list[tuple[dict[str, Any], Shapes]]:
    """Return the options that change a network's keys, each with the keys and shapes that go with them."""
    plain: list[tuple[dict[str, Any], Shapes]] = [({}, network.shapes)]
    if network.pads:
        plain.append((dict(PAD), {key: shape for key, shape in network.shapes.items() if not _projects([key])}))
    return plain


def guess(weights: Mapping[str, np.ndarray] | str | PathLike[str]) -> list[Candidate]:
    """Rank all published networks by how well weights fit them. Names of one and the same network share a line.

    Args:
      weights: a state dict as PyTorch spells it, or the file that holds one, also as `hf://user/repo/file`.

    Returns:
      The best first. The weights are for a network whose `fits` is true; several that are may differ in what has no
      weights.

    Raises:
      ConversionError: the file cannot be read.

    Example:
      >>> from jaxkd import convert, models
      >>> weights = convert.to_state_dict(models.create("resnet14", num_classes=10))
      >>> best, second, *_ = guess(weights)
      >>> print(best)
      resnet14 (num_classes=10)
      >>> best.fits, best.synonyms, second.fits
      (True, ('ResNet14',), False)
    """
    if isinstance(weights, Mapping):
        sets = weight_sets(dict(weights), "weights")
    else:
        sets = weight_sets(torch_reader.read(weights), weights)
    fits = fitting(sets, networks())
    return _ranked(shapes_of((fits[0][0] if fits else nearest(sets, networks())).weights))


def nearest(sets: Sequence[WeightSet], known: Iterable[Network]) -> WeightSet:
    """Return the first set, without what all of its keys begin with where it is more like a network then."""
    known = tuple(known)
    first = sets[0]
    same = [each for each in sets if each.dictionary is first.dictionary and len(each.weights) == len(first.weights)]

    def similarity(each: WeightSet) -> tuple[float, bool]:
        return most_similar(known, shapes_of(each.weights)).similarity, each.prefix == "module."

    tried = [each for each in same if each is same[0] or each is same[-1] or each.prefix == "module."]
    return max(tried, key=similarity) if len(tried) > 1 else first


def most_similar(known: Iterable[Network], shapes: Shapes) -> Candidate:
    """Return the network whose keys and shapes a file's are most like."""
    file = _canonical(shapes)
    return max((_best_variant(network, file) for network in known), key=lambda candidate: candidate.similarity)


def closest(shapes: Shapes) -> str:
    """Say of weights that did not fit which network they are for, or which come closest."""
    ranked = _ranked(shapes)
    if fitting := [str(candidate) for candidate in ranked if candidate.fits]:
        return f"the file fits {' and '.join(fitting)}"
    near = [candidate for candidate in ranked[:3] if candidate.similarity > max(0.2, 0.8 * ranked[0].similarity)]
    if not near:
        return "no network of the zoo is similar"
    apart = [f"{entry}, {entry.differing} key{'s' if entry.differing > 1 else ''} apart" for entry in near]
    return f"closest is {' or '.join(apart)}"


def _ranked(shapes: Shapes) -> list[Candidate]:
    file = _canonical(shapes)
    candidates = [_best_variant(network, file) for network in networks()]
    return sorted(candidates, key=lambda candidate: (-candidate.similarity, candidate.differing, candidate.name))
