"""Images that cannot be read: each is named once, and too many of them stop the run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import NamedTuple

_NAMED = 5


class Unreadable(NamedTuple):
    """An image that could not be read.

    Attributes:
      number: the example's number in its source.
      what: its path, or "example" and the number.
      reason: why.
    """

    number: int
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what} ({self.reason})"


class UnreadableImages(OSError):  # noqa: N818 -- it names what was found, like FileNotFound
    """More images of a data set than tolerated cannot be read."""


def too_many(found: Iterable[Unreadable], limit: int, title: str) -> UnreadableImages:
    """The error for more than `limit` of them, or for all that there are."""
    found = list(found)
    tolerated = f"; max_unreadable={limit}" if len(found) > limit else " and no other is left"
    named = "\n".join(f"  {one}" for one in found[:_NAMED])
    more = f"\n  and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return UnreadableImages(
        f"{len(found)} images of {title} cannot be read{tolerated}:\n{named}{more}\n"
        "Restore them or take them away; dataset.replace(max_unreadable=…) tolerates more"
    )


class Register:
    """The unreadable images that were met so far, each counted once however often it is drawn."""

    def __init__(self, limit: int, title: str) -> None:
        self.found: dict[int, Unreadable] = {}
        self._limit, self._title = limit, title

    def add(self, found: Iterable[Unreadable]) -> None:
        """Warns of each that is new.

        Raises:
          UnreadableImages: there are more than the limit now.
        """
        for one in found:
            if one.number in self.found:
                continue
            self.found[one.number] = one
            if len(self.found) > self._limit:
                raise too_many(self.found.values(), self._limit, self._title)
            warnings.warn(
                f"{one} cannot be read: {len(self.found)} of at most {self._limit} in {self._title}",
                stacklevel=3,
            )
