"""Identify the network a file is for by the keys and shapes of its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from jaxkd.convert.architecture_index import PAD, Network, built, networks
from jaxkd.convert.architectures import CHANNELS, CLASSES, Shapes
from jaxkd.convert.state_dict import canonical, unwrap
from jaxkd.formats import torch_reader
from jaxkd.formats.errors import ConversionError


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
        """Whether the file is for this very network."""
        return self.differing == 0

    @property
    def similarity(self) -> float:
        """From 0, nothing in common, to 1, the same keys and shapes."""
        return self.matching / max(self.matching + self.differing, 1)

    def __str__(self) -> str:
        arguments = {"num_classes": self.num_classes, **self.options}
        listed = ", ".join(f"{key}={value!r}" for key, value in arguments.items() if value is not None)
        return f"{self.name} ({listed})" if listed else self.name


def guess(weights: Mapping[str, np.ndarray] | str | PathLike[str]) -> list[Candidate]:
    """Rank all published networks by how well weights fit them. Names of one and the same network share a line.

    Args:
      weights: a state dict as PyTorch spells it, or the file that holds one.

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
    if not isinstance(weights, Mapping):
        weights = unwrap(torch_reader.read(weights), weights)
    return _ranked({name: np.shape(value) for name, value in unwrap(dict(weights), "weights").items()})


def compared(name: str, shapes: Shapes) -> Candidate:
    """Compare weights with one network, published or of the same form.

    Args:
      name: as `models.create` takes it.
      shapes: of the weights, by key.

    Raises:
      ValueError: there is no such network.
    """
    published = next((network for network in networks() if name in network.names), None)
    if published is not None:
        published = published._replace(names=(name, *(other for other in published.names if other != name)))
    return _best_variant(published or built([name])[0], _canonical(shapes))


def the_one(shapes: Shapes, source: str | PathLike[str]) -> Candidate:
    """Return the network that weights fit.

    Raises:
      ConversionError: there is none, or more than one; the message lists the closest.
    """
    fitting = [candidate for candidate in _ranked(shapes) if candidate.fits]
    if len(fitting) == 1:
        return fitting[0]
    problem = "fits several networks alike" if fitting else "fits no network of the zoo"
    raise ConversionError(source, f"{problem}; {closest(shapes)}; say which architecture it is, as in 'resnet56'")


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


def _best_variant(network: Network, file: Shapes) -> Candidate:
    expected = _canonical(network.shapes)
    plain = _fit(network.names, expected, {}, file)
    if not network.pads or _projects(file):
        return plain
    without = {key: shape for key, shape in expected.items() if not _projects([key])}
    padded = _fit(network.names, without, dict(PAD), file)
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
    expected = {key: tuple(chosen.get(size, size) for size in shape) for key, shape in network.items()}
    matching = sum(file.get(key) == shape for key, shape in expected.items())
    differing = len(network) + len(file) - len(network.keys() & file.keys()) - matching
    if chosen.get(CHANNELS, 3) != 3:
        options["channels"] = chosen[CHANNELS]
    name, *synonyms = names
    return Candidate(name, tuple(synonyms), chosen.get(CLASSES), options, matching, differing)


def _is_like(found: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Return whether two shapes are equal but for what varies."""
    return len(found) == len(shape) and all(
        size in (length, CLASSES, CHANNELS) for length, size in zip(found, shape, strict=True)
    )


def _canonical(shapes: Shapes) -> Shapes:
    """Return shapes by canonical keys; two keys that are synonyms stay two."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        key = canonical(name)
        found[key if key not in found else f"{name} again"] = shape
    return found


def _projects(names: Iterable[str]) -> bool:
    return any("downsample" in name.split(".") for name in names)
