"""The globals a checkpoint may name. Each stands for an object of ours: nothing is imported, nothing foreign is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxkd.convert.pickle_machine import PlainDict
from jaxkd.convert.storage import STORAGE_TYPES, rebuild_tensor


class Ignored:
    """Stands for an object without weights (command-line options, a device): it takes anything and keeps nothing."""

    def __init__(self, *_: Any):
        pass

    def set_pickle_state(self, state: Any) -> None:
        """Drops the state."""


@dataclass
class ScalarType:
    r"""Stands for `numpy.dtype`, for the numbers (a best accuracy, say) that some checkpoints hold.

    Example:
      >>> ScalarType("f4").item(b"\x00\x00\xc0\x3f")
      1.5
      >>> ScalarType("f8").item(b"\x00\x00\xc0\x3f")
      Traceback (most recent call last):
      ...
      ValueError: a NumPy number of type f8 in 4 bytes
    """

    code: Any
    align: Any = False
    copy: Any = False
    order: str = "<"

    def __post_init__(self) -> None:
        if self.code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            raise ValueError("a NumPy number of a type that is neither float, integer nor bool")

    def set_pickle_state(self, state: Any) -> None:
        """Takes the byte order, the one part of a dtype's state that matters for a number."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a NumPy type without a byte order")
        self.order = state[1]

    def item(self, data: Any) -> int | float | bool:
        """The number in `data`."""
        data = data.encode("latin-1") if isinstance(data, str) else data
        if not isinstance(data, bytes) or len(data) != int(self.code[1]):
            raise ValueError(f"a NumPy number of type {self.code} in {len(data)} bytes")
        if self.order == ">":
            data = data[::-1]
        return np.frombuffer(data, f"<{self.code}")[0].item()


def _scalar(kind: Any, data: Any) -> int | float | bool:
    if not isinstance(kind, ScalarType):
        raise ValueError("a NumPy number without a type")
    return kind.item(data)


def _encode(text: Any, encoding: Any) -> bytes:
    """How pickles of protocol 2 spell bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes that are not spelled as latin-1 text")
    return text.encode("latin-1")


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _size(lengths: Any = ()) -> tuple[Any, ...]:
    if not isinstance(lengths, tuple | list):
        raise ValueError("a torch.Size that is no sequence")
    return tuple(lengths)


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): PlainDict,
    ("collections", "Counter"): PlainDict,
    ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _size,
    ("torch", "device"): Ignored,
    ("argparse", "Namespace"): Ignored,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): ScalarType,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("torch.storage", "UntypedStorage"): STORAGE_TYPES["UntypedStorage"],
    **{("torch", name): kind for name, kind in STORAGE_TYPES.items()},
}
