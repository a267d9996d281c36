"""Write files that appear complete or not at all, hash and fetch them, and say what is wrong with one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import IO

import numpy as np

from jaxkd.libraries import needed


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
    path = Path(path).expanduser()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8, completely or not at all; names of files in it may be any bytes."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Fail now, before any work, if no file can be written into a folder, which is not made yet.

    Raises:
      OSError: with the system's reason.
    """
    wanted = Path(folder).expanduser().absolute()
    there = next(place for place in (wanted, *wanted.parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file: give the name of a folder")
    with tempfile.TemporaryFile(dir=there):
        pass


def check_file(path: str | os.PathLike[str]) -> None:
    """Fail now, before any work, if a file cannot be written.

    Raises:
      OSError: with the system's reason; for a folder of that name.
    """
    file = Path(path).expanduser()
    check_folder(file.parent)
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder: give the name of a file")


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names, in hexadecimal.

    What systems hide, files and folders that begin with a dot, does not count: file managers and others leave some.

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
    inside = {entry.relative_to(root).parts: entry for entry in root.rglob("*") if entry.is_file()}
    for parts, file in sorted(inside.items()):
        if any(part.startswith(".") for part in parts):  # .DS_Store, .cache/…
            continue
        total.update(file.relative_to(root).as_posix().encode())
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


_EXPORT = (
    "load it with what wrote it, and write its weights by PyTorch's keys and layout with safetensors.numpy.save_file"
)

_MISTAKEN = {
    (0, b"<"): "it begins like a web page: download the file itself",
    (0, b"version https"): "it begins like a pointer of Git LFS: download the file itself",
    (0, b"\x1f\x8b"): "it is compressed: unpack it first",
    (257, b"ustar"): "it is an archive of files: unpack it, and name one of them or their folder",
    (0, b"\x89HDF\r\n\x1a\n"): f"it is an HDF5 file, of Keras perhaps (.h5): {_EXPORT}",
    (0, b"\x93NUMPY"): f"it is a NumPy array (.npy): {_EXPORT}",
    (4, b"TFL3"): f"it is a TensorFlow Lite model: {_EXPORT}",
    (0, b"model_checkpoint_path"): f"it is the index of TensorFlow checkpoints: {_EXPORT}",
}
"""Files that are no weights, by the place and the bytes that give them away. No pickle has these there."""

_ENDS = {b"\x57\xfb\x80\x8b\x24\x75\x47\xdb": f"it is the index of a TensorFlow checkpoint: {_EXPORT}"}
"""The same at the end of a file: the magic number of a table of LevelDB."""

_CALLED = {
    r".*\.onnx": f"it is an ONNX model, by its name: {_EXPORT}",
    r".*\.data-\d{5}-of-\d{5}": f"it is part of a TensorFlow checkpoint, by its name: {_EXPORT}",
    r".*\.pb": f"it is a TensorFlow graph, by its name: {_EXPORT}",
    r".*\.msgpack": f"it is a Flax file, by its name: {_EXPORT}",
}
"""The same by name, where the content begins like anything."""

_ONNX = re.compile(rb"\x08[\x01-\x1f](\x12[\x01-\x7f][ -~]|\x3a)")
"""The beginning of an ONNX model: the version of the format, then who wrote it, or its graph."""

KERAS_OR_NUMPY = {
    r".*\.npy": f"it is a NumPy archive (.npz): {_EXPORT}",
    r"(.*/)?model\.weights\.h5": f"it is a Keras model (.keras): {_EXPORT}",
}
"""Zip archives that are no weights, by the name of a member."""


def other_kind(content: bytes, name: str) -> str | None:
    """Return what a file is that holds no weights, and the cure; None where neither content nor name gives it away.

    Example:
      >>> other_kind(b"<!DOCTYPE html>", "teacher.pth")
      'it begins like a web page: download the file itself'
    """
    for (place, sign), what in _MISTAKEN.items():
        if content.startswith(sign, place):
            return what
    if name.endswith(".safetensors"):
        return None
    for ending, what in _ENDS.items():
        if content.endswith(ending):
            return what
    if content.startswith(b"\x80"):  # which begins a pickle, whatever the file is called
        return None
    called = next((what for pattern, what in _CALLED.items() if re.fullmatch(pattern, name)), None)
    return f"it begins like an ONNX model: {_EXPORT}" if called is None and _ONNX.match(content) else called


HUB = "hf:/"
"""The beginning of a path that means the Hugging Face Hub, also as pathlib writes it: it drops the second slash."""

_ADDRESS = re.compile(r"hf:/{1,2}(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")


def fetched(path: str | PathLike[str]) -> str | PathLike[str]:
    """Return where a file is: an address is fetched into the library's cache, unless it is there; any other path stays.

    Args:
      path: `hf://user/repo/file`, or `hf://user/repo@revision/file` for a branch, a tag or a commit.

    Raises:
      ConversionError: the address names no file, or it cannot be fetched.
      ImportError: the library is not installed.

    Example:
      >>> fetched("student.safetensors")
      'student.safetensors'
      >>> fetched("hf://student.safetensors")
      Traceback (most recent call last):
      jaxkd.formats.files.ConversionError: hf://student.safetensors: give hf://user/repo/file, or ...
    """
    if not os.fspath(path).startswith(HUB):
        return path
    found = _ADDRESS.fullmatch(os.fspath(path))
    if found is None:
        raise ConversionError(path, "give hf://user/repo/file, or hf://user/repo@revision/file")
    library = needed("huggingface_hub", "hub", "hf://")
    try:
        return Path(
            library.hf_hub_download(found["repo"], found["file"], revision=found["revision"], endpoint=endpoint())
        )
    except Exception as error:  # of the hub, the connection, the disk: each fails in ways of its own
        raise ConversionError(path, f"cannot be fetched from the hub ({brief(str(error))})") from error


def endpoint() -> str | None:
    """Return the address of the hub, `$HF_ENDPOINT`; None means the library's own.

    The library reads it once, when it is imported; here it holds from when it is set.
    """
    return os.environ.get("HF_ENDPOINT")
