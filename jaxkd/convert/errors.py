"""The one error the converter raises."""

from __future__ import annotations

from os import PathLike


class ConversionError(ValueError):
    """A file could not be converted; nothing of it was loaded.

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
