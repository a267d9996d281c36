"""Pickled dictionaries of NumPy arrays, read without running anything that the file brings along."""

from __future__ import annotations

import math
import re
from typing import IO, Any

import numpy as np

from jaxkd.formats.unpickler import SafeUnpickler, UnsafePickleError


def load_arrays(file: IO[bytes], title: str) -> dict[str, Any]:
    """Reads a pickled dictionary of arrays, lists, numbers and strings, written by Python 2 or 3.

    Args:
      file: binary file.
      title: what errors call it.

    Returns:
      The dictionary with `str` keys; arrays as read-only NumPy arrays of booleans, integers or floats. Strings that
      Python 2 wrote stay `bytes`.

    Raises:
      UnsafePickleError: the file asks for anything but an array; nothing of it was run.
      ValueError: the file is truncated, corrupt, or holds something other than a dictionary.
    """
    try:
        content = SafeUnpickler(file, _numpy_globals(), encoding="bytes").load()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{title}: {error}") from None
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        raise ValueError(
            f"{title} is truncated or corrupt ({type(error).__name__}: {error}): get it again from where it came"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{title} holds a {type(content).__name__}, and a dictionary was expected: is it another file?"
        )
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value.array
        if isinstance(value, _Array)
        else value
        for key, value in content.items()
    }


class _DType:
    """Stands in for `numpy.dtype` while a pickle is read."""

    def __init__(self, code: str | bytes, align: bool = False, copy: bool = False):
        text = _text(code)
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", text):
            raise ValueError(f"arrays of dtype {text!r} are not read, only of booleans, integers and floats")
        self.numpy = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.numpy = self.numpy.newbyteorder(_text(state[1]))  # type: ignore[arg-type]


class _Array:
    """Stands in for `numpy.ndarray` while a pickle is read: what `numpy.core.multiarray._reconstruct` makes."""

    def __init__(self, subtype: None, shape: tuple[int, ...], code: bytes):
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.array = _from_bytes(raw, dtype, shape, "F" if fortran else "C")


def _from_bytes(raw: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(raw, bytes | bytearray):
        raise ValueError("an array is not stored as plain bytes")
    if len(raw) != math.prod(shape) * dtype.numpy.itemsize:
        raise ValueError(f"an array of shape {shape} and dtype {dtype.numpy} comes with {len(raw)} bytes")
    array = np.frombuffer(raw, dtype.numpy).reshape(shape, order="F" if order == "F" else "C")
    array.flags.writeable = False
    return array


def _text(value: str | bytes) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _numpy_globals() -> dict[tuple[str, str], Any]:
    """What an array's pickle may name. Made anew for each file: a pickle can set attributes of a function it names."""

    def wrapped(buffer: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        made = _Array(None, (0,), b"b")
        made.array = _from_bytes(buffer, dtype, shape, order)
        return made

    def scalar(dtype: Any, raw: Any) -> Any:
        return _from_bytes(raw, dtype, (1,), "C")[0]

    def encode(text: str, encoding: str) -> bytes:
        return text.encode("latin1")

    allowed: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _DType,
        ("_codecs", "encode"): encode,  # how Python 3 writes bytes for protocol 2
    }
    for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        allowed[f"{core}.multiarray", "_reconstruct"] = _Array
        allowed[f"{core}.multiarray", "scalar"] = scalar
        allowed[f"{core}.numeric", "_frombuffer"] = wrapped
    return allowed
