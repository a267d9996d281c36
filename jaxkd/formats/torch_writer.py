"""Write what `torch.load(weights_only=True)` reads: a zip archive with a small pickle, made opcode by opcode."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import IO

import numpy as np

from jaxkd.formats.files import atomic_write, little_endian
from jaxkd.formats.torch_storage import STORAGE_TYPES

_ALIGNMENT = 64
_FOLDER = "archive"
"""The name that PyTorch gives to what is saved into no file."""

_TYPE_NAMES = {kind.dtype: name for name, kind in STORAGE_TYPES.items() if name != "UntypedStorage"}


def write(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write an ordered state dict as `torch.save` would; the file appears complete or not at all.

    The same tensors give the same bytes, whatever the file is called.

    Args:
      path: the file to write; an existing one is replaced.
      tensors: arrays of a type PyTorch has, in the order the file shall keep.

    Raises:
      TypeError: an array is of a type torch files cannot hold.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write(Path(folder) / "step.pth", {"step": np.array(7)})
      ...     zipfile.ZipFile(Path(folder) / "step.pth").namelist()
      ['archive/data.pkl', 'archive/byteorder', 'archive/data/0', 'archive/version']
    """
    program = _pickle(tensors)
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(file, archive, f"{_FOLDER}/data.pkl", program)
        _add(file, archive, f"{_FOLDER}/byteorder", b"little")
        for key, tensor in enumerate(tensors.values()):
            _add(file, archive, f"{_FOLDER}/data/{key}", little_endian(tensor))
        _add(file, archive, f"{_FOLDER}/version", b"3\n")


def _add(file: IO[bytes], archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add a record whose bytes start at a multiple of 64, so that they can be mapped into memory."""
    entry = zipfile.ZipInfo(name)  # dated 1980: the same weights give the same file
    start = file.tell() + 30 + len(name.encode()) + 4  # the record's header, its name, the padding's own header
    padding = -start % _ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(entry, data)


def _pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    empty_dict = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    items = b"".join(
        _text(name) + _tensor(str(key), tensor, empty_dict) for key, (name, tensor) in enumerate(tensors.items())
    )
    return pickle.PROTO + b"\x02" + empty_dict + pickle.MARK + items + pickle.SETITEMS + pickle.STOP


def _tensor(key: str, tensor: np.ndarray, hooks: bytes) -> bytes:
    try:
        kind = _global("torch", _TYPE_NAMES[tensor.dtype])
    except KeyError:
        raise TypeError(f"a torch file cannot hold an array of type {tensor.dtype}; convert it to float32") from None
    strides: list[int] = []
    step = 1
    for length in reversed(tensor.shape):
        strides.insert(0, step)
        step *= length
    storage = _tuple(_text("storage"), kind, _text(key), _text("cpu"), _integer(tensor.size)) + pickle.BINPERSID
    size, stride = (_tuple(*map(_integer, numbers)) for numbers in (tensor.shape, strides))
    arguments = _tuple(storage, _integer(0), size, stride, pickle.NEWFALSE, hooks)
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    data = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _integer(number: int) -> bytes:
    if number < 2**31:
        return pickle.BININT + struct.pack("<i", number)
    return pickle.LONG1 + b"\x08" + struct.pack("<q", number)
