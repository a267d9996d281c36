"""Read and write the safetensors format.

A file is the length of a header, the header in JSON, and the numbers of all tensors without a gap. The header maps each
name to `{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}`, and `__metadata__` to a map of strings. Nothing in
it is trusted: tensors exist only if they tile the numbers exactly.

The `safetensors` package (0.8.0, for NumPy) would not do in its place. It cannot read bfloat16. It writes an array that
is not contiguous, such as a kernel turned into PyTorch's layout, in the order of its memory, which scrambles it without
an error. It orders metadata by chance, so that equal weights give unequal files, and loses a state dict's order. It
takes keys that come twice, fields that the format lacks, and headers of a hundred megabytes. Refusing those means to
parse and check the header here; what is left after that is one `np.frombuffer`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from jaxkd.formats.files import atomic_write, little_endian

MAX_HEADER_BYTES = 2**20
"""Room for 7,500 tensors. A header is parsed before it can be checked, so that its size bounds the time."""

METADATA = "__metadata__"

TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_TYPE_NAMES = {dtype: name for name, dtype in TYPES.items()}


def read_safetensors(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return all tensors, as read-only views into a file's content in the header's order, and the metadata.

    Raises:
      ValueError, RecursionError: the header is malformed, or does not describe the numbers that follow.
    """
    header_bytes = int.from_bytes(content[:8], "little")
    if len(content) < 8 or header_bytes > min(len(content) - 8, MAX_HEADER_BYTES):
        raise ValueError(
            f"a header of {header_bytes} bytes in a safetensors file of {len(content)}: it is truncated, corrupt, or "
            f"has more than the {MAX_HEADER_BYTES} bytes that are read"
        )
    header = _parse(content[8 : 8 + header_bytes])
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{METADATA} is no map of strings")
    places = {name: _place(name, entry) for name, entry in header.items()}
    numbers = np.frombuffer(content, np.uint8)[8 + header_bytes :]
    _check_tiling(places, numbers.size)
    return {name: _tensor(numbers, *place) for name, place in places.items()}, metadata


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a state dict as a safetensors file; the file appears complete or not at all.

    The same tensors give the same bytes. The header keeps their order, while their numbers are sorted by the size of
    an element, so that each tensor can be mapped into memory where it lies.

    Args:
      path: the file to write; an existing one is replaced.
      tensors: arrays of a type the format has.
      metadata: strings by name, kept in the header.

    Raises:
      TypeError: an array is of a type the format lacks.
      ValueError: a tensor has the name that the format keeps for the metadata.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = pathlib.Path(folder) / "step.safetensors"
      ...     write(file, {"step": np.array(7)})
      ...     file.read_bytes()[8:]
      b'{"step":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}\\x07\\x00\\x00\\x00\\x00\\x00\\x00\\x00'
    """
    if METADATA in tensors:
        raise ValueError(f"a tensor cannot be called {METADATA} in a safetensors file")
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPE_NAMES:
            raise TypeError(f"a safetensors file cannot hold {name} of type {tensor.dtype}; convert it to float32")
    placed = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    offsets, end = {}, 0
    for name, tensor in placed:
        offsets[name], end = [end, end + tensor.nbytes], end + tensor.nbytes
    header: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    for name, tensor in tensors.items():
        kind = _TYPE_NAMES[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": offsets[name]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in placed:
            file.write(little_endian(tensor))


def _parse(header: bytes) -> dict[str, Any]:
    if not header.startswith(b"{"):
        raise ValueError("a safetensors header that does not begin with {: not a safetensors file, or a corrupt one")
    return json.loads(header.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a safetensors header with the same key twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} in a safetensors header")


def _place(name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """Return type, shape, first and last byte of a tensor, which agree with each other."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} has no dtype, shape and data_offsets, or more than those")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in TYPES:
        raise ValueError(f"tensor {name!r} is of type {entry['dtype']!r}; known are {', '.join(TYPES)}")
    dtype = TYPES[entry["dtype"]]
    shape, offsets = _whole_numbers(entry["shape"], name), _whole_numbers(entry["data_offsets"], name)
    if len(offsets) != 2:
        raise ValueError(f"tensor {name!r} has {len(offsets)} data_offsets")
    start, stop = offsets
    if stop - start != prod(shape) * dtype.itemsize:
        raise ValueError(
            f"tensor {name!r} of shape {list(shape)} and type {entry['dtype']} has {stop - start} bytes in the file"
        )
    return dtype, shape, start, stop


def _whole_numbers(values: Any, name: str) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) > 32:
        raise ValueError(f"tensor {name!r} has a shape or data_offsets that are no list of up to 32 numbers")
    if not all(type(value) is int and 0 <= value < 2**48 for value in values):
        raise ValueError(f"tensor {name!r} has sizes or offsets that are no sensible whole numbers")
    return tuple(values)


def _check_tiling(places: Mapping[str, tuple[Any, Any, int, int]], buffer_bytes: int) -> None:
    """Refuse gaps and overlaps: without them no byte is hidden and none is used twice."""
    end = 0
    for name, (_, _, start, stop) in sorted(places.items(), key=lambda item: item[1][2:]):
        if start != end:
            raise ValueError(f"tensor {name!r} starts at byte {start} where {end} was due: an overlap or a gap")
        end = stop
    if end != buffer_bytes:
        raise ValueError(f"{buffer_bytes} bytes of numbers where the header describes {end}")


def _tensor(numbers: np.ndarray, dtype: np.dtype[Any], shape: tuple[int, ...], start: int, stop: int) -> np.ndarray:
    raw = numbers[start:stop]
    if dtype == np.bool_:
        words = np.minimum(raw, 1)
    else:
        words = raw.view(np.dtype(f"<u{dtype.itemsize}")).astype(f"=u{dtype.itemsize}", copy=False)
    tensor: np.ndarray = words.view(dtype).reshape(shape)
    tensor.flags.writeable = False
    return tensor
