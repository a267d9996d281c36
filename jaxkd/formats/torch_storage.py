"""Rebuild torch's tensors from their storages, without torch: every view is checked before NumPy sees it.

`ALLOWED` is all that a file of weights may name, and what stands in for it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import ml_dtypes
import numpy as np

from jaxkd.formats.numpy_pickle import PickledDType, encode, read_scalar
from jaxkd.formats.unpickler import PlainDict

ByteOrder = Literal["little", "big"]


@dataclass(frozen=True)
class StorageType:
    """Stand in for a class such as `torch.FloatStorage`: its name and the type of its elements."""

    name: str
    dtype: np.dtype[Any]


STORAGE_TYPES: dict[str, StorageType] = {
    name: StorageType(name, np.dtype(dtype))
    for name, dtype in {
        "FloatStorage": np.float32,
        "DoubleStorage": np.float64,
        "HalfStorage": np.float16,
        "BFloat16Storage": ml_dtypes.bfloat16,
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
        """Check a persistent id and return it with names.

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
        """The size of the whole storage in bytes."""
        return self.elements * self.type.dtype.itemsize

    def within(self, storage: Storage) -> Storage:
        """Return what is meant of the storage of this key: all of it, or the viewed part, sharing memory.

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
        """Return memory for `elements` elements, not filled yet."""
        return cls(type, np.empty(elements, type.dtype))

    def fill(self, data: bytes, byteorder: ByteOrder) -> None:
        """Copy the file's bytes in; the tensors made before see them.

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
    """Stand in for `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: return a read-only view into a storage.

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
    ("_codecs", "encode"): encode,
    ("numpy", "dtype"): PickledDType,
    ("numpy.core.multiarray", "scalar"): read_scalar,
    ("numpy._core.multiarray", "scalar"): read_scalar,
    ("torch.storage", "UntypedStorage"): STORAGE_TYPES["UntypedStorage"],
    **{("torch", name): kind for name, kind in STORAGE_TYPES.items()},
}
