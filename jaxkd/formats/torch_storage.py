"""The tensors of files that `torch.save` wrote: their storages, views into them, and all that a pickle may name.

`ALLOWED` is that, with what stands in for it here. Every view of a tensor into its storage is checked before NumPy sees
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from jaxkd.formats.unpickler import PickledDType, PlainDict, encode, read_scalar


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


def storage_resolver(first_named: Callable[[np.dtype[Any], str, int], Storage]) -> Callable[[Any], Storage]:
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
