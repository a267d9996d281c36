"""Match a file whose keys are renamed: tensor by tensor in order, where shapes and structure leave one choice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxkd.convert.architectures import CHANNELS, CLASSES, Network, Shapes
from jaxkd.convert.identify import Candidate, variants
from jaxkd.formats.files import brief
from jaxkd.nn.tokens import ANY

_KINDS = {
    "weight": "weight kernel gamma scale",
    "bias": "bias beta offset",
    "running_mean": "running_mean moving_mean mean",
    "running_var": "running_var moving_var moving_variance var variance",
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words.split()}
_KIND = re.compile(rf"(?:^|[._/])({'|'.join(sorted(_KIND_OF, key=len, reverse=True))})$")
_TOKEN = re.compile(r"\d+|[^\d._/]+")
_ROWS = 4
_NEAR = 0.8


class Renamed(NamedTuple):
    """A network that a file fits but for the keys.

    Attributes:
      candidate: the network.
      keys: those of the file by those of the network, in the file's order.
      shows_blocks: whether the file's keys group its tensors as the network's blocks do. Where they do not, a network
        whose blocks begin elsewhere may have the same shapes in the same order.
      likeness: of two networks that a file fits in order and by shape, it is for the one of the greater likeness:
        whether its keys count as the network's keys do, and whether they group its tensors exactly as those do.
    """

    candidate: Candidate
    keys: dict[str, str]
    shows_blocks: bool
    likeness: tuple[bool, bool]

    def __str__(self) -> str:
        ours, theirs = next((pair for pair in self.keys.items() if pair[0] != pair[1]), ("", ""))
        return f"its {len(self.keys)} keys have other names, matched in order and by shape: {brief(theirs)} is {ours}"


def renamed(network: Network, shapes: Shapes) -> Renamed | None:
    """Return how a network's keys are called in a file of the same shapes in the same order; None if it is another.

    Numbers in the file's keys must count upwards, `weight` must be a weight, and no group of keys may reach over the
    border of a block.

    Example:
      >>> from jaxkd.convert.identify import named
      >>> network = named("resnet8")
      >>> sizes = {key.replace("layer", "stage"): shape for key, shape in network.shapes.items()}
      >>> renamed(network, sizes).keys["layer1.0.conv1.weight"]
      'stage1.0.conv1.weight'
    """
    theirs = list(shapes)
    for options, expected in variants(network):
        ours = list(expected)
        numbers = _numbers(list(expected.values()), list(shapes.values()))
        if numbers is None or not _same_kinds(ours, theirs) or not _counts_upwards(theirs):
            continue
        blocks, groups = _blocks(ours), _groups(key.split(".")[:-1] for key in theirs)
        if any(_cross(block, group) for block in blocks for group in groups):
            continue
        finer = _groups(_TOKEN.findall(key)[:-1] for key in theirs)
        name, *synonyms = network.names
        if (channels := numbers.get(CHANNELS, 3)) != 3:
            options["channels"] = channels
        candidate = Candidate(name, tuple(synonyms), numbers.get(CLASSES), options, len(ours), 0)
        keys, whole = dict(zip(ours, theirs, strict=True)), frozenset(range(len(ours)))
        nested_alike = groups == _groups(key.split(".")[:-1] for key in ours)
        likeness = (_counts_alike(ours, theirs), nested_alike)
        return Renamed(candidate, keys, blocks <= finer | {whole}, likeness)
    return None


def side_by_side(networks: Iterable[Network], shapes: Shapes) -> str | None:
    """Show where a file leaves the network whose shapes it comes closest to, a few rows of both; None if none is near.

    Example:
      >>> from jaxkd.convert.identify import named
      >>> network = named("resnet8")
      >>> sizes = {f"x.{number}": shape for number, shape in enumerate(network.shapes.values())}
      >>> print(side_by_side([network], {**sizes, "x.45": (10, 32), "x.46": (10,)}))
      its shapes are nearly those of resnet8, 1 apart, the first key 46:
        file | resnet8
        x.45 [10, 32] | fc.weight [10, 64]
    """
    theirs = list(shapes.items())
    near: list[tuple[int, str, list[tuple[str, tuple[int, ...]]]]] = []
    for network in networks:
        for _, expected in variants(network):
            numbers = _likely_numbers(shapes)
            ours = [(key, tuple(numbers.get(size, size) for size in shape)) for key, shape in expected.items()]
            shared = (Counter(shape for _, shape in ours) & Counter(shapes.values())).total()
            longest = max(len(ours), len(theirs))
            if shared >= _NEAR * longest:
                near.append((longest - shared, network.names[0], ours))
    if not near:
        return None
    _, name, ours = min(near)
    common = min(len(ours), len(theirs))
    apart = [number for number in range(common) if ours[number][1] != theirs[number][1]]
    rows: Sequence[int]
    if len(ours) != len(theirs):
        first = min([*apart, common])
        rows, said = range(first, max(len(ours), len(theirs))), f"nearly those of {name}, from key {first + 1} on"
    elif apart:
        rows, said = apart, f"nearly those of {name}, {len(apart)} apart, the first key {apart[0] + 1}"
    else:
        rows, said = range(common), f"those of {name}, but its names or their numbers are not in that order"
    lines = [
        " | ".join(
            f"{brief(side[row][0])} {list(side[row][1])}" if row < len(side) else "none" for side in (theirs, ours)
        )
        for row in rows[:_ROWS]
    ]
    return "\n  ".join([f"its shapes are {said}:", f"file | {name}", *lines])


def _numbers(expected: Sequence[tuple[int, ...]], found: Sequence[tuple[int, ...]]) -> dict[int, int] | None:
    """Return the classes and channels with which all shapes are equal; None if they are not."""
    if len(expected) != len(found):
        return None
    numbers: dict[int, int] = {}
    for ours, theirs in zip(expected, found, strict=True):
        if len(ours) != len(theirs):
            return None
        for size, other in zip(ours, theirs, strict=True):
            if size == ANY:
                continue
            if size in (CLASSES, CHANNELS):
                size = numbers.setdefault(size, other)
            if size != other:
                return None
    return numbers if numbers.get(CLASSES, 0) >= 2 and numbers.get(CHANNELS, 1) >= 1 else None


def _likely_numbers(shapes: Shapes) -> dict[int, int]:
    """Return the classes and channels that the last and the first tensor of a file suggest."""
    numbers = {CHANNELS: 3}
    first = next((shape for shape in shapes.values() if len(shape) == 4), ())
    last = next((shape for shape in reversed(list(shapes.values())) if len(shape) == 1), ())
    if first:
        numbers[CHANNELS] = first[1]
    if last:
        numbers[CLASSES] = last[0]
    return numbers


def _same_kinds(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Return whether no name of a kind of tensor stands for another kind, nor one unknown name for two."""
    meant: dict[str, str] = {}
    for our_key, their_key in zip(ours, theirs, strict=True):
        kind, known = _kind(our_key) or our_key.rpartition(".")[2], _kind(their_key)
        if known and known != kind:
            return False
        if not known and meant.setdefault(their_key.rpartition(".")[2], kind) != kind:
            return False
    return True


def _kind(key: str) -> str | None:
    """Return the kind of tensor that a key says it is, by any of its names."""
    found = _KIND.search(key)
    return _KIND_OF[found[1]] if found else None


def _counts_upwards(keys: Iterable[str]) -> bool:
    """Return whether numbers in keys grow from one to the next of the same beginning: sorted as text, they do not."""
    last: dict[tuple[str, ...], int] = {}
    for key in keys:
        tokens = _TOKEN.findall(key)
        for place, token in enumerate(tokens):
            if token.isdecimal() and len(token) < 10:
                before = tuple(tokens[:place])
                if int(token) < last.get(before, -1):
                    return False
                last[before] = int(token)
    return True


def _counts_alike(ours: Iterable[str], theirs: Iterable[str]) -> bool:
    """Return whether the numbers in two lists of keys are the same, or all of one apart from the other by as much."""
    numbers = [
        [int(token) for key in keys for token in _TOKEN.findall(key) if token.isdecimal()] for keys in (ours, theirs)
    ]
    mine, others = numbers
    return len(mine) == len(others) and len({other - one for one, other in zip(mine, others, strict=True)}) <= 1


def _groups(paths: Iterable[Sequence[str]]) -> set[frozenset[int]]:
    """Return, for each beginning of a path, which keys have it."""
    members: dict[tuple[str, ...], list[int]] = {}
    for number, path in enumerate(paths):
        for length in range(1, len(path) + 1):
            members.setdefault(tuple(path[:length]), []).append(number)
    return {frozenset(numbers) for numbers in members.values()}


def _blocks(keys: Iterable[str]) -> set[frozenset[int]]:
    """Return which keys are in each block: what lies around a layer, or around the shortcut that it belongs to."""
    members: dict[tuple[str, ...], list[int]] = {}
    for number, key in enumerate(keys):
        around = key.split(".")[:-2]
        if around and around[-1] in ("downsample", "shortcut"):
            around = around[:-1]
        for length in range(1, len(around) + 1):
            members.setdefault(tuple(around[:length]), []).append(number)
    direct = {tuple(key.split(".")[:-2]) for key in keys}
    return {frozenset(numbers) for path, numbers in members.items() if path in direct}


def _cross(block: frozenset[int], group: frozenset[int]) -> bool:
    return not block.isdisjoint(group) and not block <= group and not group <= block
