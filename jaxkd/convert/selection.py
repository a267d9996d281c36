"""Choose what of a file is loaded: which of its sets of weights, into which network, and say so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxkd.convert import identify
from jaxkd.convert.architectures import Network
from jaxkd.convert.identify import Candidate, closest, named, shapes_of, variants
from jaxkd.convert.renaming import Renamed, renamed, side_by_side
from jaxkd.convert.state_dict import WeightSet, weight_sets
from jaxkd.formats.files import ConversionError, brief, listed

_CIFAR_STEM = frozenset({"ResNet18_cifar", "ResNet34_cifar", "ResNet50"})
_VGG_CIFAR = re.compile(r"(vgg|VGG)\d+")
_TIMM_FROM_TENSORFLOW = re.compile(r"timm_(efficientnet_b\d)|(mobilenetv3_(?:large|small)_100)")
_SIMILAR = 0.2
Match = TypeVar("Match", Candidate, Renamed)


class Selection(NamedTuple):
    """The part of a file that is loaded.

    Attributes:
      candidate: the network.
      weights: the tensors, by keys that `weights.load_state_dict` takes.
      matched: what was done to match them, in words; empty where the file says all that plainly.
    """

    candidate: Candidate
    weights: dict[str, np.ndarray]
    matched: str


def select(
    tree: Any,
    source: str | PathLike[str],
    name: str | None = None,
    weights: str | None = None,
    stated: str | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Selection:
    """Find the weights in what a file holds, and the network they are for.

    Keys are compared as they are, then without what all of them begin with, then by order and shape.

    Args:
      tree: what `torch_reader.read` returned.
      source: the file, for errors.
      name: the architecture; None takes the published one that fits.
      weights: which set, as `from_torch` takes it.
      stated: the architecture that the file names. It is taken if it fits.
      options: of the architecture called `name`.

    Raises:
      ConversionError: nothing fits, or several things do.
      ValueError: there is no network called `name`.

    Example:
      >>> from jaxkd import convert, models
      >>> weights = convert.to_state_dict(models.create("resnet8", num_classes=10))
      >>> compiled = {f"_orig_mod.{key}": value for key, value in weights.items()}
      >>> select(compiled, "x.pth").matched
      "keys begin with '_orig_mod.', which was left off"
    """
    known = identify.networks() if name is None else (named(name, options),)
    sets = weight_sets(tree, source)
    found = [each for each in sets if weights is None or each.is_at(weights)]
    if not found:
        places = dict.fromkeys(each.place for each in sets if not each.prefix or each.prefix.count(".") == 1)
        kind = f"{weights} weights" if weights in ("raw", "averaged") else f"weights at {brief(str(weights))!r}"
        raise ConversionError(source, f"holds no {kind}; {'; '.join(listed({'it holds weights at': list(places)}))}")
    try:
        return _select(found, source, known, name, weights, stated)
    except ConversionError as error:
        strange = listed({"no tensors": found[0].strange})
        raise ConversionError(source, "; ".join([error.reason, *strange])) if strange else error from None


def _select(
    sets: list[WeightSet],
    source: str | PathLike[str],
    known: Sequence[Network],
    name: str | None,
    weights: str | None,
    stated: str | None,
) -> Selection:
    fitting = identify.fitting(sets, known)
    said = [match for match in fitting if stated in (match[1].name, *match[1].synonyms)]
    if said and name is None and stated is not None:
        fitting = [(each, candidate._replace(name=stated)) for each, candidate in said]
    elif stated is not None and name is None and (own := _of_that_name(sets, stated)):
        fitting = own
    if fitting:
        chosen, candidate = _pick(fitting, source, weights)
        if name is None and not said:
            _refuse_other_networks_beside(chosen, source, weights)
            _refuse_twins(candidate, chosen.weights, True, source)
        guessed = name is None and not said
        return Selection(candidate, chosen.weights, _in_words(chosen, candidate, None, guessed))
    if matches := _by_order(sets, known):
        chosen, match = _pick(matches, source, weights)
        if name is None:
            _refuse_other_networks_beside(chosen, source, weights)
            _refuse_twins(match.candidate, chosen.weights, match.shows_blocks, source)
        values = {ours: chosen.weights[theirs] for ours, theirs in match.keys.items()}
        return Selection(match.candidate, values, _in_words(chosen, match.candidate, match, name is None))
    nearest = identify.nearest(sets, known)
    shapes = shapes_of(nearest.weights)
    candidate = identify.most_similar(known, shapes)
    rows = side_by_side(known, shapes) if candidate.similarity < _SIMILAR else None
    if rows is not None:
        fit = "fits no network of the zoo" if name is None else f"does not fit {name}"
        raise ConversionError(source, f"{fit}, by its keys or by its shapes in order; {rows}")
    if name is None:
        raise ConversionError(
            source, f"fits no network of the zoo; {closest(shapes)}; say which architecture it is, as in 'resnet56'"
        )
    if candidate.num_classes is None:
        raise ConversionError(
            source, f"holds no classifier of two or more classes for a {candidate.name}; {closest(shapes)}"
        )
    return Selection(candidate, nearest.weights, "")  # what is wrong with it is said where it is loaded


def _of_that_name(sets: list[WeightSet], stated: str) -> list[tuple[WeightSet, Candidate]]:
    try:
        return identify.fitting(sets, (named(stated),))
    except ValueError:  # another zoo's name
        return []


def _by_order(sets: list[WeightSet], known: Iterable[Network]) -> list[tuple[WeightSet, Renamed]]:
    """Return the matches by order and shape: of sets of the same tensors, those of the longest prefix.

    Where a set matches several networks, only those are left that its keys are most like.
    """
    sized = [(network, {len(shapes) for _, shapes in variants(network)}) for network in known]
    longest = {(id(each.dictionary), id(next(iter(each.weights.values()))), len(each.weights)): each for each in sets}
    found = []
    for each in longest.values():
        fits = [network for network, sizes in sized if len(each.weights) in sizes]
        matches = [match for network in fits if (match := renamed(network, shapes_of(each.weights)))]
        most = max((match.likeness for match in matches), default=None)
        found += [(each, match) for match in matches if match.likeness == most]
    return found


def _pick(
    matches: list[tuple[WeightSet, Match]], source: str | PathLike[str], weights: str | None
) -> tuple[WeightSet, Match]:
    """Return the one match there is.

    Raises:
      ConversionError: there are several; the message names them, and the argument that chooses.
    """
    raw = [match for match in matches if not match[0].averaged]
    averaged = [match for match in matches if match[0].averaged]
    if raw and averaged:
        places = [" and ".join(dict.fromkeys(repr(each.place) for each, _ in kind)) for kind in (raw, averaged)]
        raise ConversionError(
            source,
            f"holds two sets of weights, raw ones at {places[0]} and averaged ones at {places[1]}: "
            "say which by weights='raw' or weights='averaged'",
        )
    usual = [match for match in matches if match[0].usual]
    left = usual or matches
    places = list(dict.fromkeys(each.place for each, _ in left))
    if len(places) > 1:
        found = [f"{_network_of(match)} at {each.place!r}" for each, match in left]
        raise ConversionError(
            source, f"{'; '.join(listed({'holds several networks': found}))}: say which by weights={places[0]!r}"
        )
    if len(left) > 1:
        fits = " and ".join(sorted(str(_network_of(match)) for _, match in left))
        raise ConversionError(
            source,
            f"fits several networks alike; the file fits {fits}, which differ in what has no weights; "
            f"say which architecture it is, as in name={_network_of(left[0][1]).name!r}",
        )
    return left[0]


def _network_of(match: Candidate | Renamed) -> Candidate:
    return match if isinstance(match, Candidate) else match.candidate


def _refuse_other_networks_beside(chosen: WeightSet, source: str | PathLike[str], weights: str | None) -> None:
    """Refuse to choose one of two networks of which the other is not in the zoo.

    Raises:
      ConversionError: half as many convolutions as are taken, or more, would be left out.
    """
    beside = chosen.beside if chosen.prefix else []
    own = sum(value.ndim == 4 for value in chosen.weights.values())
    others = [key for key in beside if chosen.dictionary[key].ndim == 4]
    if weights is None and 2 * len(others) >= max(own, 1):
        raise ConversionError(
            source,
            f"holds several networks, one at {chosen.place!r} and {len(others)} more convolutions beside it "
            f"({brief(others[0])}, …): say which is meant by weights={chosen.place!r}",
        )


def _refuse_twins(candidate: Candidate, shapes: Iterable[str], shows_blocks: bool, source: str | PathLike[str]) -> None:
    """Refuse what known networks outside the zoo look like, which differ from one inside in what has no weights.

    Raises:
      ConversionError: with the other network, and how to say that it is not meant.
    """
    twin = None
    if candidate.name in _CIFAR_STEM and not any("linear" in key.split(".") for key in shapes):
        twin = (
            "so does a network that keeps torchvision's max pooling behind a 3×3 stem (huyvnphan/PyTorch_CIFAR10), as "
            "keys that are not called 'linear' suggest"
        )
    elif not shows_blocks and _VGG_CIFAR.fullmatch(candidate.name):
        twin = "so does a VGG that pools at other places (kuangliu/pytorch-cifar), and its keys show no blocks"
    elif not shows_blocks and candidate.options.get("shortcut") == "pad":
        twin = "so does a ResNet with BatchNorm before its convolutions, and its keys show no blocks"
    if twin:
        raise ConversionError(
            source,
            f"is ambiguous: it fits {candidate}, and {twin}. Look at the forward() it was trained with: if it is "
            f"jaxkd's network, say name={candidate.name!r}; the other is not in the zoo and would give other logits",
        )


def _in_words(chosen: WeightSet, candidate: Candidate, match: Renamed | None, guessed: bool) -> str:
    """Say what a reader of the file would not expect, and which other network a guess may have missed."""
    said = []
    if chosen.averaged:
        said.append("averaged weights")
    if not chosen.usual:
        said.append(f"the weights are those under {'/'.join(chosen.containers)!r}")
    if chosen.prefix not in ("", "module."):
        said.append(f"keys begin with {brief(chosen.prefix)!r}, which was left off")
    said += listed({"tensors left out": chosen.beside if chosen.prefix else [], "no tensors": chosen.strange})
    if match is not None:
        said.append(str(match))
    if guessed and (twin := _TIMM_FROM_TENSORFLOW.fullmatch(candidate.name)):
        said.append(
            f"timm's tf_{twin[1] or twin[2]}, which is not in the zoo, has the same keys and shapes, but pads as "
            "TensorFlow does and would give other logits"
        )
    return "; ".join(said)
