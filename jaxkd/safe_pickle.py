"""Reading pickles from strangers: only the globals on an allow-list exist, everything else is refused by name."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import IO, Any


class UnsafePickleError(ValueError):
    """A pickle asked for a global that is not on the allow-list; nothing of it was run."""


class SafeUnpickler(pickle.Unpickler):
    """An unpickler that resolves `module.name` through `allowed` and nothing else.

    Args:
      file: binary file to read from.
      allowed: what each permitted `(module, name)` stands for. The values are ours: nothing is imported.
      persistent_load: resolves persistent ids; without it they are refused.
      encoding: how Python 2 strings are decoded.

    Raises:
      UnsafePickleError: from `load`, for any other global or persistent id.
    """

    def __init__(
        self,
        file: IO[bytes],
        allowed: Mapping[tuple[str, str], Any],
        persistent_load: Callable[[Any], Any] | None = None,
        encoding: str = "ASCII",
    ):
        super().__init__(file, encoding=encoding)
        self._allowed = allowed
        self._resolve = persistent_load

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise UnsafePickleError(
                f"refused to load {module}.{name}: it is not on the list of harmless globals, and a pickle that asks "
                "for it could run code"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        if self._resolve is None:
            raise UnsafePickleError(f"refused a persistent id ({type(pid).__name__}): this file should contain none")
        return self._resolve(pid)
