"""The one error that reading and converting files raises, and how it lists what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

_LISTED = 6
_LETTERS = 120


class ConversionError(ValueError):
    """A file that could not be read or converted; nothing of it was loaded.

    Attributes:
      source: the file, as the caller named it.
      reason: what is wrong with it.

    Example:
      >>> print(ConversionError("teacher.pth", "the file is empty"))
      teacher.pth: the file is empty
    """

    def __init__(self, source: str | PathLike[str], reason: str):
        super().__init__(f"{source}: {reason}")
        self.source = str(source)
        self.reason = reason


def listed(problems: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a line for each kind of problem: how many there are and the first of them. Kinds without any are left out.

    Example:
      >>> listed({"missing": [f"layer{i}" for i in range(9)], "unexpected": [], "misshapen": ["fc.bias"]})
      ['missing (9): layer0, layer1, layer2, layer3, layer4, layer5, …', 'misshapen (1): fc.bias']
    """
    return [
        f"{kind} ({len(names)}): {', '.join([*map(brief, names[:_LISTED]), *(['…'] if len(names) > _LISTED else [])])}"
        for kind, names in problems.items()
        if names
    ]


def brief(text: str, letters: int = _LETTERS) -> str:
    """Shorten text from a file, which may be of any length, to part of one line.

    Example:
      >>> brief("layer1.conv1.weight", letters=6)
      'layer1…'
    """
    line = " ".join(text[: 4 * letters].split())
    return line if len(line) <= letters and len(text) <= 4 * letters else line[:letters] + "…"
