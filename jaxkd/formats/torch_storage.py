"""Storages and the tensors that look into them: every view is checked before NumPy sees it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxkd.formats.unpickler import PlainDict


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


ByteOrder = Literal["little", "big"]


@dataclass(frozen=True)
class StorageType:
    """What stands for a class such as `torch.FloatStorage`: a name and the type of its elements."""

    name: str
    dtype: np.dtype[Any]


STORAGE_TYPES: dict[str, StorageType] = {
    name: StorageType(name, np.dtype(dtype))
    for name, dtype in {
        "FloatStorage": np.float32,
        "DoubleStorage": np.float64,
        "HalfStorage": np.float16,
        "BFloat16Storage": jnp.bfloat16,
        "LongStorage": np.int64,
        "IntStorage": np.int32,
        "ShortStorage": np.int16,
        "CharStorage": np.int8,
        "ByteStorage": np.uint8,
        "BoolStorage": np.bool_,
        "UntypedStorage": np.uint8,
    }.items()
}


@dataclass(frozen=True)
class StorageId:
    """The persistent id of a storage: `('storage', type, key, device, elements[, view])`, checked.

    Attributes:
      view: `(offset, elements)` of the part that is meant, in the oldest files; otherwise None.
    """

    type: StorageType
    key: str
    elements: int
    view: tuple[int, int] | None = None

    @classmethod
    def parse(cls, pid: Any) -> StorageId:
        """Checks a persistent id.

        Raises:
          ValueError: it is no storage, or its fields are not what they should be.
        """
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or not isinstance(pid[0], str) or pid[0] != "storage":
            raise ValueError("a persistent id that is no storage (whole pickled modules are not read, only weights)")
        _, kind, key, _, elements, *rest = pid
        if not isinstance(kind, StorageType) or not isinstance(key, str | int):
            raise ValueError("a storage without a known type or key")
        view = None
        if rest and rest[0] is not None:
            if not isinstance(rest[0], tuple) or len(rest[0]) != 3:
                raise ValueError(f"storage {key}: a malformed view")
            view = (_count(rest[0][1]), _count(rest[0][2]))
        return cls(kind, str(key), _count(elements), view)

    @property
    def nbytes(self) -> int:
        """Size of the whole storage in bytes."""
        return self.elements * self.type.dtype.itemsize

    def within(self, storage: Storage) -> Storage:
        """What is meant of a storage read before under this key: all of it, or the viewed part, sharing memory.

        Raises:
          ValueError: the storage is of another type or length, or the view leaves it.
        """
        values = storage.values
        if storage.type.dtype != self.type.dtype or values.size != self.elements:
            raise ValueError(f"storage {self.key[:40]} is named with two types or lengths")
        if self.view is None:
            return storage
        offset, elements = self.view
        if offset + elements > values.size:
            raise ValueError(f"a view of elements {offset} to {offset + elements} of a storage of {values.size}")
        return Storage(self.type, values[offset : offset + elements])


class Storage:
    """The elements of one storage, allocated when the pickle names it and filled from the file afterwards.

    Args:
      type: what the elements are.
      values: `[elements]`, theirs or memory for them.

    Example:
      >>> storage = Storage.empty(STORAGE_TYPES["ShortStorage"], 3)
      >>> storage.fill(bytes([1, 0, 2, 0, 3, 0]), "little")
      >>> storage.values.tolist()
      [1, 2, 3]
    """

    def __init__(self, type: StorageType, values: np.ndarray):
        self.type = type
        self.values = values

    @classmethod
    def empty(cls, type: StorageType, elements: int) -> Storage:
        """Memory for `elements` elements, not filled yet."""
        return cls(type, np.empty(elements, type.dtype))

    def fill(self, data: bytes, byteorder: ByteOrder) -> None:
        """Copies the file's bytes in; the tensors made before see them.

        Raises:
          ValueError: `data` is not exactly as long as the storage.
        """
        if len(data) != self.values.nbytes:
            raise ValueError(f"a storage of {self.values.nbytes} bytes has {len(data)} in the file")
        itemsize = self.type.dtype.itemsize
        words = self.values.view(f"=u{itemsize}")
        words[:] = np.frombuffer(data, f"{'<' if byteorder == 'little' else '>'}u{itemsize}")
        if self.type.dtype == np.bool_:
            np.minimum(words, 1, out=words)


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """Stands for `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: a read-only view into a storage.

    Args:
      storage: a `Storage`.
      offset: first element.
      size: the shape.
      stride: step per dimension, in elements.

    Raises:
      ValueError: the view leaves the storage, repeats its elements, or is no view at all.

    Example:
      >>> storage = Storage.empty(STORAGE_TYPES["FloatStorage"], 6)
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
    if prod(shape) == 0:
        return np.empty(shape, storage.type.dtype)
    elements, itemsize = storage.values.size, storage.type.dtype.itemsize
    last = offset + sum((length - 1) * step for length, step in zip(shape, steps, strict=True))
    if last >= elements:
        raise ValueError(f"a tensor of shape {shape} reaches element {last} of a storage of {elements}")
    if _repeats(shape, steps):
        raise ValueError(f"a tensor of shape {shape} and strides {steps} repeats elements of its storage")
    # The step of a dimension of length one is never taken, and may be any number.
    strides = [step * itemsize if length > 1 else itemsize for length, step in zip(shape, steps, strict=True)]
    tensor = np.ndarray(shape, storage.type.dtype, storage.values.view(np.uint8), offset * itemsize, strides)
    tensor.flags.writeable = False
    return tensor


def _repeats(shape: tuple[int, ...], steps: tuple[int, ...]) -> bool:
    """Whether a view passes an element twice. Weights never do, so that one that does is damaged, or means harm."""
    reach = 0
    for step, length in sorted((step, length) for length, step in zip(shape, steps, strict=True) if length > 1):
        if step <= reach:
            return True
        reach += (length - 1) * step
    return False


def _count(value: Any) -> int:
    """A non-negative size, offset or stride that NumPy can hold."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**48:
        raise ValueError("a size, offset or stride that is not a sensible whole number")
    return value


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
