"""Read files of weights: safetensors and both of `torch.save`'s formats, without torch and without running anything.

What such a file may name, and how its tensors are checked, is in `torch_storage`.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from jaxkd.formats import unpickler
from jaxkd.formats.files import HUB, KERAS_OR_NUMPY, ConversionError, brief, fetched, other_kind
from jaxkd.formats.safetensors import read_safetensors
from jaxkd.formats.torch_storage import ALLOWED, Storage, storage_resolver
from jaxkd.formats.unpickler import UnsafePickleError

SUFFIXES = (".pth", ".pt", ".th", ".tar", ".ckpt", ".safetensors")
"""The suffixes of files of weights. The content decides how a file is read."""

MAX_FILE_BYTES = 8 * 2**30
"""Longest file that is read, into memory: five times what the largest network takes with its optimizer's state."""

MAX_PICKLE_BYTES = 64 * 2**20
_SLACK_BYTES = 64 * 2**20  # how much a small, compressed file may unfold to

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C

_CURE = (
    "if you trust the file, load it in PyTorch with the code it needs and keep its weights alone: "
    "torch.save(model.state_dict(), 'weights.pth')"
)


class Contents(NamedTuple):
    """The contents of a file.

    Attributes:
      tree: what was saved.
      metadata: strings that a safetensors file carries besides; torch files have none.
      sha256: of the file, in hexadecimal.
    """

    tree: Any
    metadata: Mapping[str, str]
    sha256: str


def read(path: str | os.PathLike[str]) -> Any:
    """Read a `.pth`, `.pt`, `.th` or `.tar` file in either of PyTorch's formats, or a `.safetensors` file, or `hf://…`.

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
      >>> from jaxkd.formats import torch_writer
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     torch_writer.write(Path(folder) / "ones.pth", {"weight": np.ones((2, 3), np.float32)})
      ...     read(Path(folder) / "ones.pth")["weight"].tolist()
      [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    return read_contents(path).tree


def read_contents(path: str | os.PathLike[str]) -> Contents:
    """Read a file like `read`, with its metadata and its hash: all from the bytes of one reading."""
    if os.fspath(path).startswith(HUB):
        path = fetched(path)
    try:
        content = _bytes_of(path)
        tree, metadata = _parse(content, Path(path).name)
        return Contents(tree, metadata, hashlib.sha256(content).hexdigest())
    except UnsafePickleError as error:
        raise ConversionError(path, f"{_reason(error)}; {_CURE}") from error
    except OSError as error:
        raise ConversionError(path, f"cannot be read ({error.strerror or error})") from error
    # An untrusted file can make any part of the reading fail in any way (struct, zlib, zipfile, NumPy, memory …);
    # whatever it was, the answer to the caller is the same, and the cause stays attached.
    except Exception as error:
        raise ConversionError(path, f"not a readable file of weights: {_reason(error)}") from error


def _bytes_of(path: str | os.PathLike[str]) -> bytes:
    with Path(path).expanduser().open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        if file_bytes > MAX_FILE_BYTES:
            raise ValueError(f"{file_bytes} bytes are more than the {MAX_FILE_BYTES} that are read: no file of weights")
        return file.read(file_bytes)


def _parse(content: bytes, name: str) -> tuple[Any, Mapping[str, str]]:
    """Return what a file holds and its metadata."""
    if not content:
        raise ValueError("the file is empty: copy or download it again")
    if content.startswith(b"PK\x03\x04"):
        return _read_zip(content), {}
    has_header = content[8:9] == b"{"  # where the JSON header of a safetensors file begins
    if not has_header and (what := other_kind(content, name)):
        raise ValueError(what)
    if has_header or name.endswith(".safetensors"):
        return read_safetensors(content)
    return _read_legacy(content), {}


def _reason(error: Exception) -> str:
    """Shorten a message, which may quote the file at any length, to one line."""
    return brief(str(error), letters=300) or type(error).__name__


def _read_zip(content: bytes) -> Any:
    """Return what a zip archive of `torch.save` holds."""
    file = io.BytesIO(content)
    if not zipfile.is_zipfile(file):  # no directory at its end
        raise ValueError("it begins like a file of torch.save and has no end: cut short; copy or download it again")
    with zipfile.ZipFile(file) as archive:
        # Weights hardly compress: an archive that claims to is a bomb, or its directory points at the same bytes twice.
        claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > 8 * len(content) + _SLACK_BYTES:
            raise ValueError(f"a zip bomb: {len(content)} bytes claim to hold {claimed}")
        records = _Records(archive)
        stream = io.BytesIO(records.read(records.prefix + "data.pkl", at_most=MAX_PICKLE_BYTES))
        tree = unpickler.load(stream, ALLOWED, storage_resolver(records.storage))
        if rest := stream.read():
            raise ValueError(f"{len(rest)} bytes after the end of the pickle: torch.save writes one pickle and no more")
        return tree


class _Records:
    """The records of a zip archive, whatever directory they are in."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        names = archive.namelist()
        if len(set(names)) != len(names):
            raise ValueError("two records of the same name: other readers may see another file")
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        for pattern, what in KERAS_OR_NUMPY.items():
            if not pickles and any(re.fullmatch(pattern, name) for name in names):
                raise ValueError(what)
        if len(pickles) != 1:
            raise ValueError(f"a zip archive with {len(pickles)} data.pkl records instead of one: not from torch.save")
        self.prefix = pickles[0].removesuffix("data.pkl")
        if self.prefix + "constants.pkl" in names:
            raise ValueError("a TorchScript archive, which holds a program; save the model's state_dict() instead")
        order = self.prefix + "byteorder"
        self._byte_order = self.read(order, at_most=16) if order in names else b"little"
        if self._byte_order not in (b"little", b"big"):
            raise ValueError("an unknown byte order")

    def read(self, name: str, at_most: int, at_least: int = 0) -> bytes:
        """Return a record of a length within bounds, however it is packed."""
        entry = self._archive.NameToInfo.get(name)
        if entry is None:
            raise ValueError(f"the record {name} is missing")
        if not at_least <= entry.file_size <= at_most:
            wanted = at_most if at_least == at_most else f"at most {at_most}"
            raise ValueError(f"the record {name} has {entry.file_size} bytes instead of {wanted}")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"the record {name} is packed in a way torch.save never uses")
        with self._archive.open(entry) as record:
            data = record.read(at_most + 1)  # a bound, so that a record cannot unfold to more than it claims
        if len(data) != entry.file_size:
            raise ValueError(f"the record {name} has {len(data)} bytes and claims {entry.file_size}")
        return data

    def storage(self, dtype: np.dtype[Any], key: str, elements: int) -> Storage:
        """Return the storage of a key with what the archive holds for it."""
        storage_bytes = elements * dtype.itemsize
        data = self.read(f"{self.prefix}data/{key}", at_most=storage_bytes, at_least=storage_bytes)
        storage = Storage(np.empty(elements, dtype))
        storage.fill(data, "<" if self._byte_order == b"little" else ">")
        return storage


def _read_legacy(content: bytes) -> Any:
    """Return what a file of `torch.save`'s older format holds: little-endian numbers, whatever machine wrote them."""
    file = io.BytesIO(content)
    if unpickler.load(file, {}) != MAGIC_NUMBER:
        raise ValueError("neither of torch.save's formats: the magic number is wrong")
    if unpickler.load(file, {}) != 1001:
        raise ValueError("a version of the older torch.save format that is not 1001")
    if not isinstance(unpickler.load(file, {}), dict):
        raise ValueError("the description of the machine that wrote the file is missing")
    announced = _Announced(len(content))
    tree = unpickler.load(file, ALLOWED, storage_resolver(announced.storage))
    announced.fill(file, keys=unpickler.load(file, {}))
    return tree


class _Announced:
    """The storages of the older format, which the pickle names before the file delivers them."""

    def __init__(self, file_bytes: int):
        self._left = file_bytes
        self._waiting: dict[str, Storage] = {}

    def storage(self, dtype: np.dtype[Any], key: str, elements: int) -> Storage:
        """Return memory for the storage of a key; all of them together fit into the file."""
        self._left -= elements * dtype.itemsize
        if self._left < 0:
            raise ValueError("the storages are larger than the file: it is truncated or corrupt")
        storage = self._waiting[key] = Storage(np.empty(elements, dtype))
        return storage

    def fill(self, file: IO[bytes], keys: Any) -> None:
        """Read every storage, in the order of `keys`."""
        if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
            raise ValueError("the list of storages is missing")
        for key in map(str, keys):
            storage = self._waiting.pop(key, None)
            if storage is None:
                raise ValueError(f"storage {key[:40]} is delivered twice, or belongs to no tensor")
            (elements,) = struct.unpack("<q", file.read(8))
            if elements != storage.values.size:
                raise ValueError(f"storage {key[:40]} has {elements} elements where {storage.values.size} belong")
            storage.fill(file.read(storage.values.nbytes), "<")
        if self._waiting:
            raise ValueError(f"{len(self._waiting)} storages are missing")
