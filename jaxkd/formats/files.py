"""Writing arrays of numbers into files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write to, which takes its place under `path` when the block ends without an error.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with whole_file(Path(folder) / "a") as file:
      ...         _ = file.write(b"done")
      ...         before = (Path(folder) / "a").exists()
      ...     before, (Path(folder) / "a").read_bytes()
      (False, b'done')
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def little_endian(array: np.ndarray) -> bytes:
    """An array's numbers row by row, each from its lowest byte on, whatever machine this is.

    Example:
      >>> little_endian(np.array([[1, 256]], np.int16))
      b'\\x01\\x00\\x00\\x01'
    """
    itemsize = array.dtype.itemsize
    return np.ascontiguousarray(array).reshape(-1).view(f"=u{itemsize}").astype(f"<u{itemsize}", copy=False).tobytes()
