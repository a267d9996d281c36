"""Read files of weights: safetensors and both of `torch.save`'s formats, without torch and without running anything.

`ALLOWED` is all that a file of `torch.save` may name, and what stands in for it here. Every view of a tensor into its
storage is checked before NumPy sees it.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxkd.formats import unpickler
from jaxkd.formats.files import HUB, KERAS_OR_NUMPY, ConversionError, brief, fetched, other_kind
from jaxkd.formats.safetensors import read_safetensors
from jaxkd.formats.unpickler import PickledDType, PlainDict, UnsafePickleError, encode, read_scalar

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
        tree = unpickler.load(stream, ALLOWED, _resolver(records.storage))
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
    tree = unpickler.load(file, ALLOWED, _resolver(announced.storage))
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


@dataclass(frozen=True)
class StorageType:
    """Stand in for a class such as `torch.FloatStorage`: the type of its elements."""

    dtype: np.dtype[Any]


STORAGE_TYPES: dict[str, StorageType] = {
    f"{name}Storage": StorageType(np.dtype(dtype))
    for name, dtype in (
        *(("Float", np.float32), ("Double", np.float64), ("Half", np.float16), ("BFloat16", ml_dtypes.bfloat16)),
        *(("Long", np.int64), ("Int", np.int32), ("Short", np.int16), ("Char", np.int8)),
        *(("Byte", np.uint8), ("Bool", np.bool_), ("Untyped", np.uint8)),
    )
}


@dataclass(frozen=True)
class Storage:
    """The elements of one storage.

    Attributes:
      values: `[elements]`, theirs or memory for them, which is filled from the file when tensors have views of it.

    Example:
      >>> storage = Storage(np.empty(3, np.int16))
      >>> storage.fill(bytes([1, 0, 2, 0, 3, 0]), "<")
      >>> storage.values.tolist()
      [1, 2, 3]
    """

    values: np.ndarray

    def fill(self, data: bytes, byte_order: str) -> None:
        """Copy bytes in, whose numbers begin with their lowest byte (`<`) or highest (`>`); tensors made before see it.

        Raises:
          ValueError: `data` is not exactly as long as the storage.
        """
        if len(data) != self.values.nbytes:
            raise ValueError(f"a storage of {self.values.nbytes} bytes has {len(data)} in the file")
        itemsize = self.values.dtype.itemsize
        words = self.values.view(f"=u{itemsize}")
        words[:] = np.frombuffer(data, f"{byte_order}u{itemsize}")
        if self.values.dtype == np.bool_:
            np.minimum(words, 1, out=words)


def _resolver(first_named: Callable[[np.dtype[Any], str, int], Storage]) -> Callable[[Any], Storage]:
    """Return what resolves the persistent ids of a pickle, `('storage', type, key, device, elements)`.

    A storage is made by `first_named`, of its type, key and length. The oldest files add to the id which part of the
    storage is meant, `(key, offset, elements)`, or None.
    """
    known: dict[str, Storage] = {}

    def storage(pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or not isinstance(pid[0], str) or pid[0] != "storage":
            raise ValueError("a persistent id that is no storage (whole pickled modules are not read, only weights)")
        _, kind, key, _, elements, part, *_ = (*pid, None)
        if not isinstance(kind, StorageType) or not isinstance(key, str | int):
            raise ValueError("a storage without a known type or key")
        if part is not None and (not isinstance(part, tuple) or len(part) != 3):
            raise ValueError(f"storage {key}: a malformed view")
        view = None if part is None else (_count(part[1]), _count(part[2]))
        key, elements = str(key), _count(elements)
        if key not in known:
            known[key] = first_named(kind.dtype, key, elements)
        values = known[key].values
        if values.dtype != kind.dtype or values.size != elements:
            raise ValueError(f"storage {key[:40]} is named with two types or lengths")
        if view is None:
            return known[key]
        start, length = view
        if start + length > values.size:
            raise ValueError(f"a view of elements {start} to {start + length} of a storage of {values.size}")
        return Storage(values[start : start + length])

    return storage


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """Stand in for `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: return a read-only view into a storage.

    Offset and steps are in elements, as PyTorch counts them.

    Raises:
      ValueError: the view leaves the storage, repeats its elements, or is no view at all.

    Example:
      >>> storage = Storage(np.empty(6, np.float32))
      >>> rebuild_tensor(storage, 0, (3, 2), (1, 3)).shape
      (3, 2)
      >>> rebuild_tensor(storage, 1, (3, 2), (1, 3))
      Traceback (most recent call last):
      ...
      ValueError: a tensor of shape (3, 2) reaches element 6 of a storage of 6
    """
    if not isinstance(storage, Storage):
        raise ValueError(f"a tensor on a {type(storage).__name__} instead of a storage")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride) or len(size) > 32:
        raise ValueError("a tensor whose size and stride are not two tuples of the same, small length")
    offset, shape, steps = _count(offset), tuple(map(_count, size)), tuple(map(_count, stride))
    values, itemsize = storage.values, storage.values.dtype.itemsize
    if prod(shape) == 0:
        return np.empty(shape, values.dtype)
    last = offset + sum((length - 1) * step for length, step in zip(shape, steps, strict=True))
    if last >= values.size:
        raise ValueError(f"a tensor of shape {shape} reaches element {last} of a storage of {values.size}")
    if _repeats(shape, steps):
        raise ValueError(f"a tensor of shape {shape} and strides {steps} repeats elements of its storage")
    # The step of a dimension of length one is never taken, and may be any number.
    strides = [step * itemsize if length > 1 else itemsize for length, step in zip(shape, steps, strict=True)]
    tensor = np.ndarray(shape, values.dtype, values.view(np.uint8), offset * itemsize, strides)
    tensor.flags.writeable = False
    return tensor


def _repeats(shape: tuple[int, ...], steps: tuple[int, ...]) -> bool:
    """Return whether a view passes an element twice. Weights never do: one that does is damaged, or means harm."""
    reach = 0
    for step, length in sorted((step, length) for length, step in zip(shape, steps, strict=True) if length > 1):
        if step <= reach:
            return True
        reach += (length - 1) * step
    return False


def _count(value: Any) -> int:
    """Return a size, offset or stride that NumPy can hold; refuse anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**48:
        raise ValueError("a size, offset or stride that is not a sensible whole number")
    return value


class _Ignored:
    """Stand in for an object without weights (command-line options, a device): take anything and keep nothing."""

    def __init__(self, *_: Any):
        pass

    def set_pickle_state(self, state: Any) -> None:
        """Drop the state."""


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _size(lengths: Any = ()) -> tuple[Any, ...]:
    if not isinstance(lengths, tuple | list):
        raise ValueError("a torch.Size that is no sequence")
    return tuple(lengths)


_LIGHTNING = (
    "pytorch_lightning.utilities.parsing",
    "lightning.pytorch.utilities.parsing",
    "lightning_fabric.utilities.data",
    "lightning.fabric.utilities.data",
)
"""The modules that define Lightning's dictionary of hyper-parameters, from version to version."""

ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): PlainDict,
    ("collections", "Counter"): PlainDict,
    **{(module, "AttributeDict"): PlainDict for module in _LIGHTNING},
    ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _size,
    ("torch", "device"): _Ignored,
    ("argparse", "Namespace"): _Ignored,
    **{
        (module, name): _Ignored
        for module in ("pathlib", "pathlib._local")  # the second one since Python 3.13
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    },
    ("_codecs", "encode"): encode,
    ("numpy", "dtype"): PickledDType,
    ("numpy.core.multiarray", "scalar"): read_scalar,
    ("numpy._core.multiarray", "scalar"): read_scalar,
    ("torch.storage", "UntypedStorage"): STORAGE_TYPES["UntypedStorage"],
    **{("torch", name): kind for name, kind in STORAGE_TYPES.items()},
}
