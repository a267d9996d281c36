"""Read pickled dictionaries of NumPy arrays without running anything that the file brings along."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from jaxkd.formats.unpickler import SafeUnpickler, UnsafePickleError


def load_arrays(file: IO[bytes], title: str) -> dict[str, Any]:
    """Read a pickled dictionary of arrays, lists, numbers and strings, written by Python 2 or 3.

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
        content = SafeUnpickler(file, _allowed_globals(), encoding="bytes").load()
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
    return {_text(key): value.array if isinstance(value, _Array) else value for key, value in content.items()}


class PickledDType:
    r"""Stand in for `numpy.dtype` in a pickle: booleans, integers and floats in either byte order.

    Attributes:
      numpy: the dtype.

    Example:
      >>> read_scalar(PickledDType("f4"), b"\x00\x00\xc0\x3f")
      1.5
      >>> read_scalar(PickledDType("f8"), b"\x00\x00\xc0\x3f")
      Traceback (most recent call last):
      ...
      ValueError: numbers of shape (1,) and dtype float64 come with 4 bytes
    """

    def __init__(self, code: Any, align: Any = False, copy: Any = False):
        text = _text(code) if isinstance(code, str | bytes) else type(code).__name__
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", text):
            raise ValueError(f"arrays of dtype {text[:40]!r} are not read: it is neither float, integer nor bool")
        self.numpy = np.dtype(f"<{text}")

    def set_pickle_state(self, state: Any) -> None:
        """Take the byte order, the one part of a dtype's state that matters for numbers."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "=", b"<", b">", b"|", b"="):
            raise ValueError("a NumPy type without a byte order")
        self.numpy = self.numpy.newbyteorder(">" if order in (">", b">") else "<")

    __setstate__ = set_pickle_state  # by which Python's own unpickler calls it


def read_scalar(dtype: Any, raw: Any) -> int | float | bool:
    """Stand in for `numpy.core.multiarray.scalar`: return the number in `raw`."""
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    return _from_bytes(raw, dtype, (1,), "C")[0].item()


def encode(text: Any, encoding: Any) -> bytes:
    """Stand in for `_codecs.encode`, by which Python 3 writes bytes for protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes that are not spelled as latin-1 text")
    return text.encode("latin-1")


class _Array:
    """Stand in for `numpy.ndarray` in a pickle: what `numpy.core.multiarray._reconstruct` makes."""

    def __init__(self, subtype: None, shape: tuple[int, ...], code: bytes):
        self.array: np.ndarray = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.array = _from_bytes(raw, dtype, shape, "F" if fortran else "C")


def _from_bytes(raw: Any, dtype: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    if not isinstance(dtype, PickledDType) or not isinstance(raw, bytes | bytearray):
        raise ValueError("an array is not stored as plain bytes of a known type")
    if len(raw) != math.prod(shape) * dtype.numpy.itemsize:
        raise ValueError(f"numbers of shape {shape} and dtype {dtype.numpy} come with {len(raw)} bytes")
    array = np.frombuffer(raw, dtype.numpy).reshape(shape, order="F" if order == "F" else "C")
    array.flags.writeable = False
    return array


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _allowed_globals() -> dict[tuple[str, str], Any]:
    """Return what an array's pickle may name. Made anew for each file: a pickle can set attributes of a function."""

    def own(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: function(*arguments)

    def from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        made = _Array(None, (0,), b"b")
        made.array = _from_bytes(buffer, dtype, shape, order)
        return made

    allowed: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): PickledDType,
        ("_codecs", "encode"): own(encode),
    }
    for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        allowed[f"{core}.multiarray", "_reconstruct"] = _Array
        allowed[f"{core}.multiarray", "scalar"] = own(read_scalar)
        allowed[f"{core}.numeric", "_frombuffer"] = from_buffer
    return allowed
