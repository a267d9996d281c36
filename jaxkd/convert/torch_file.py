"""Reading files of weights, without torch, and without running anything the file asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from jaxkd.convert.errors import ConversionError, brief
from jaxkd.convert.legacy_file import read_legacy
from jaxkd.convert.safetensors_file import read_safetensors
from jaxkd.convert.zip_file import read_zip
from jaxkd.safe_pickle import UnsafePickleError

SUFFIXES = (".pth", ".pt", ".th", ".tar", ".safetensors")
"""What files of weights are called. The content decides how a file is read."""


_MISTAKEN = {
    (0, b"<"): "it begins like a web page: download the file itself",
    (0, b"version https"): "it begins like a pointer of Git LFS: download the file itself",
    (0, b"\x1f\x8b"): "it is compressed: unpack it first",
    (257, b"ustar"): "it is an archive of files: unpack it, and name one of them or their folder",
}
"""What people have in place of weights, by the place and the bytes that give it away. No pickle has them there."""


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
      tree: what was saved.
      metadata: strings that a safetensors file carries besides; torch files have none.
    """

    tree: Any
    metadata: Mapping[str, str]


def read(path: str | os.PathLike[str]) -> Any:
    """Reads a `.pth`, `.pt`, `.th` or `.tar` file in either of PyTorch's formats, or a `.safetensors` file.

    Args:
      path: the file.

    Returns:
      What was saved: dictionaries, lists, tuples and plain values, with a read-only NumPy array for each tensor
      (bfloat16 ones in JAX's bfloat16). Tensors that shared memory still do. What carries no weights (options, devices)
      is an inert object.

    Raises:
      ConversionError: the file is missing, truncated, corrupt, of another kind, or names a global that is not on the
        list of harmless ones.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from jaxkd.convert import torch_write
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     torch_write.write(Path(folder) / "ones.pth", {"weight": np.ones((2, 3), np.float32)})
      ...     read(Path(folder) / "ones.pth")["weight"].tolist()
      [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    return read_contents(path).tree


def read_contents(path: str | os.PathLike[str]) -> Contents:
    """Reads a file like `read`, with the metadata that it carries."""
    try:
        with Path(path).open("rb") as file:
            return _contents(file, Path(path).suffix == ".safetensors")
    except UnsafePickleError as error:
        raise ConversionError(path, _reason(error)) from error
    except OSError as error:
        raise ConversionError(path, f"cannot be read ({error.strerror or error})") from error
    # A file from a stranger can make any part of the reading fail in any way (struct, zlib, zipfile, NumPy, memory …);
    # whatever it was, the answer to the caller is the same, and the cause stays attached.
    except Exception as error:
        raise ConversionError(path, f"not a readable file of weights: {_reason(error)}") from error


def _contents(file: IO[bytes], called_safetensors: bool) -> Contents:
    file_bytes = os.fstat(file.fileno()).st_size
    start = file.read(512)
    file.seek(0)
    if not start:
        raise ValueError("the file is empty: copy or download it again")
    if start.startswith(b"PK\x03\x04"):
        return Contents(read_zip(file, file_bytes), {})
    has_header = start[8:9] == b"{"  # where the JSON header of a safetensors file begins
    for (place, sign), what in _MISTAKEN.items():
        if start.startswith(sign, place) and not has_header:
            raise ValueError(what)
    if called_safetensors or has_header:
        return Contents(*read_safetensors(file, file_bytes))
    return Contents(read_legacy(file, file_bytes), {})


def _reason(error: Exception) -> str:
    """One line of a message that may quote the file at any length."""
    return brief(str(error), letters=300) or type(error).__name__
