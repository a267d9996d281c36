"""Choose what of a file is loaded where it is not plain: several sets of weights or networks, or none that fits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np

from jaxkd.convert.architectures import Network
from jaxkd.convert.identify import Candidate, closest, fitting, most_similar, named, nearest, shapes_of, variants
from jaxkd.convert.manifest import Stated
from jaxkd.convert.renaming import Renamed, renamed, side_by_side
from jaxkd.convert.state_dict import WeightSet
from jaxkd.formats.files import ConversionError, brief, listed

_CIFAR_STEM = frozenset({"ResNet18_cifar", "ResNet34_cifar", "ResNet50"})
_VGG_CIFAR = re.compile(r"(vgg|VGG)\d+")
_TIMM_FROM_TENSORFLOW = re.compile(r"timm_(efficientnet_b\d)|(mobilenetv3_(?:large|small)_100)")
_SIMILAR = 0.2


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


class Wanted(NamedTuple):
    """What shall be loaded, as far as the user or the file says it.

    Attributes:
      source: the file, for errors.
      name: the architecture.
      weights: which set, as `from_torch` takes it.
      stated: the network that the file names.
    """

    source: str | PathLike[str]
    name: str | None
    weights: str | None
    stated: Stated | None


def decide(
    sets: list[WeightSet], fits: list[tuple[WeightSet, Candidate]], known: Sequence[Network], wanted: Wanted
) -> Selection:
    """Return the one set of weights and the one network that can be meant.

    Args:
      sets: of the file.
      fits: which of them fit which network, by their keys and shapes.
      known: the networks that the file may be for.
      wanted: what was asked for.

    Raises:
      ConversionError: nothing fits, or several things do.
    """
    try:
        return _decide(sets, fits, known, wanted)
    except ConversionError as error:
        strange = listed({"no tensors": sets[0].strange})
        raise ConversionError(wanted.source, "; ".join([error.reason, *strange])) if strange else error from None


class _Match(NamedTuple):
    """A set of weights and a network that it fits, by its own keys or by others in the same order."""

    found: WeightSet
    candidate: Candidate
    renamed: Renamed | None = None


def _decide(
    sets: list[WeightSet], fits: list[tuple[WeightSet, Candidate]], known: Sequence[Network], wanted: Wanted
) -> Selection:
    guessed = wanted.name is None
    if guessed and wanted.stated is not None:
        said = [fit for fit in fits if wanted.stated.name in (fit[1].name, *fit[1].synonyms)]
        said = said or fitting(sets, (named(wanted.stated.name, wanted.stated.options),))
        guessed = not said
        fits = [(each, candidate._replace(name=wanted.stated.name)) for each, candidate in said] or fits
    matches = [_Match(*fit) for fit in fits] or _by_order(sets, known)
    if not matches:
        return _nearest(sets, known, wanted)
    found, candidate, other = _pick(matches, wanted)
    if guessed:
        _refuse_other_networks_beside(found, wanted)
        _refuse_twins(candidate, found.weights, other is None or other.shows_blocks, wanted)
    weights = found.weights if other is None else {ours: found.weights[key] for ours, key in other.keys.items()}
    said_of = [found.described, *([] if other is None else [str(other)])]
    if guessed and (twin := _TIMM_FROM_TENSORFLOW.fullmatch(candidate.name)):
        said_of.append(
            f"timm's tf_{twin[1] or twin[2]}, which is not in the zoo, has the same keys and shapes, but pads as "
            "TensorFlow does and would give other logits"
        )
    return Selection(candidate, weights, "; ".join(filter(None, said_of)))


def _nearest(sets: list[WeightSet], known: Sequence[Network], wanted: Wanted) -> Selection:
    """Return the set that comes closest to the network of a name; what is wrong with it is said where it is loaded.

    Raises:
      ConversionError: nothing comes close, or no name was given.
    """
    near = nearest(sets, known)
    shapes = shapes_of(near.weights)
    candidate = most_similar(known, shapes)
    rows = side_by_side(known, shapes) if candidate.similarity < _SIMILAR else None
    unfit = "fits no network of the zoo" if wanted.name is None else f"does not fit {wanted.name}"
    if rows is not None:
        raise ConversionError(wanted.source, f"{unfit}, by its keys or by its shapes in order; {rows}")
    if wanted.name is None:
        cure = "say which architecture it is, as in 'resnet56'"
        raise ConversionError(wanted.source, f"{unfit}; {closest(shapes)}; {cure}")
    if candidate.num_classes is None:
        missing = f"holds no classifier of two or more classes for a {candidate.name}"
        raise ConversionError(wanted.source, f"{missing}; {closest(shapes)}")
    return Selection(candidate, near.weights, "")


def _by_order(sets: list[WeightSet], known: Iterable[Network]) -> list[_Match]:
    """Return the matches by order and shape: of sets of the same tensors, those of the longest prefix.

    Where a set matches several networks, only those are left that its keys are most like.
    """
    sized = [(network, {len(shapes) for _, shapes in variants(network)}) for network in known]
    longest = {(id(each.dictionary), id(next(iter(each.weights.values()))), len(each.weights)): each for each in sets}
    found: list[_Match] = []
    for each in longest.values():
        fits = [network for network, sizes in sized if len(each.weights) in sizes]
        matches = [match for network in fits if (match := renamed(network, shapes_of(each.weights)))]
        most = max((match.likeness for match in matches), default=None)
        found += [_Match(each, match.candidate, match) for match in matches if match.likeness == most]
    return found


def _pick(matches: list[_Match], wanted: Wanted) -> _Match:
    """Return the one match there is.

    Raises:
      ConversionError: there are several; the message names them, and the argument that chooses.
    """
    raw, averaged = ([match for match in matches if match.found.averaged is kind] for kind in (False, True))
    if raw and averaged:
        places = [" and ".join(dict.fromkeys(repr(match.found.place) for match in kind)) for kind in (raw, averaged)]
        raise ConversionError(
            wanted.source,
            f"holds two sets of weights, raw ones at {places[0]} and averaged ones at {places[1]}: "
            "say which by weights='raw' or weights='averaged', or write one to a file of its own: "
            "jaxkd convert FILE OUT --weights averaged",
        )
    left = [match for match in matches if match.found.usual] or matches
    places = list(dict.fromkeys(match.found.place for match in left))
    if len(places) > 1:
        several = listed({"holds several networks": [f"{match.candidate} at {match.found.place!r}" for match in left]})
        cure = f"say which by weights={places[0]!r}, or by jaxkd convert FILE OUT --weights {places[0]}"
        raise ConversionError(wanted.source, f"{'; '.join(several)}: {cure}")
    if len(left) > 1:
        fits = " and ".join(sorted(str(match.candidate) for match in left))
        raise ConversionError(
            wanted.source,
            f"fits several networks alike; the file fits {fits}, which differ in what has no weights; "
            f"say which architecture it is, as in name={left[0].candidate.name!r}, or by jaxkd convert FILE "
            f"{left[0].candidate.name} OUT",
        )
    return left[0]


def _refuse_other_networks_beside(chosen: WeightSet, wanted: Wanted) -> None:
    """Refuse to choose one of two networks of which the other is not in the zoo.

    Raises:
      ConversionError: half as many convolutions as are taken, or more, would be left out.
    """
    beside = chosen.beside if chosen.prefix else []
    own = sum(value.ndim == 4 for value in chosen.weights.values())
    others = [key for key in beside if chosen.dictionary[key].ndim == 4]
    if wanted.weights is None and 2 * len(others) >= max(own, 1):
        raise ConversionError(
            wanted.source,
            f"holds several networks, one at {chosen.place!r} and {len(others)} more convolutions beside it "
            f"({brief(others[0])}, …): say which is meant by weights={chosen.place!r}",
        )


def _refuse_twins(candidate: Candidate, keys: Iterable[str], shows_blocks: bool, wanted: Wanted) -> None:
    """Refuse what known networks outside the zoo look like, which differ from one inside in what has no weights.

    Raises:
      ConversionError: with the other network, and how to say that it is not meant.
    """
    twin = None
    if candidate.name in _CIFAR_STEM and not any("linear" in key.split(".") for key in keys):
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
            wanted.source,
            f"is ambiguous: it fits {candidate}, and {twin}. Look at the forward() it was trained with: if it is "
            f"jaxkd's network, say name={candidate.name!r}; the other is not in the zoo and would give other logits",
        )
