"""Write files that appear complete or not at all, and hash what is on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file to write bytes to, which takes its place under `path` when the block ends without an error.

    Until then, and for good if the block raises, whatever was at `path` stays as it was.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with atomic_write(Path(folder) / "a") as file:
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


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names, in hexadecimal.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = (Path(folder) / "a").write_bytes(b"done")
      ...     sha256(Path(folder) / "a")[:8], sha256(folder)[:8]
      ('a4c3ed04', '27d57205')
    """
    root = Path(path)
    if not root.is_dir():
        return _sha256(root).hex()
    total = hashlib.sha256()
    for file in sorted(entry for entry in root.rglob("*") if entry.is_file()):
        total.update(str(file.relative_to(root)).encode())
        total.update(_sha256(file))
    return total.hexdigest()


def _sha256(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def little_endian(array: np.ndarray) -> bytes:
    """Return an array's numbers row by row, each from its lowest byte on, whatever machine this is.

    Example:
      >>> little_endian(np.array([[1, 256]], np.int16))
      b'\\x01\\x00\\x00\\x01'
    """
    itemsize = array.dtype.itemsize
    return np.ascontiguousarray(array).reshape(-1).view(f"=u{itemsize}").astype(f"<u{itemsize}", copy=False).tobytes()
