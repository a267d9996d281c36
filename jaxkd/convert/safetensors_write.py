"""Writing safetensors files: see `safetensors_file` for the format."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import numpy as np

from jaxkd.convert.safetensors_file import METADATA, TYPES
from jaxkd.convert.whole_file import little_endian, whole_file

_TYPE_NAMES = {dtype: name for name, dtype in TYPES.items()}


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a state dict as a safetensors file; the file appears complete or not at all.

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
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in placed:
            file.write(little_endian(tensor))
