"""The older format of `torch.save` (before PyTorch 1.6): five pickles, then the storages one after another."""

from __future__ import annotations

import struct
from typing import IO, Any

from jaxkd.convert import pickle_machine
from jaxkd.convert.allowed import ALLOWED
from jaxkd.convert.storage import Storage, StorageId

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001


def read_legacy(file: IO[bytes], file_bytes: int) -> Any:
    """Reads the object a checkpoint in the older format holds, tensors as read-only NumPy arrays.

    Numbers are little-endian in these files, whatever the machine that wrote them.

    Args:
      file: the checkpoint, `file_bytes` long.

    Raises:
      ValueError, and what a malformed pickle raises.
    """
    file = _Bounded(file, file_bytes)  # type: ignore[assignment]  # as much of a file as reading needs
    if pickle_machine.load(file, {}) != MAGIC_NUMBER:
        raise ValueError("neither of torch.save's formats: the magic number is wrong")
    version = pickle_machine.load(file, {})
    if version != PROTOCOL_VERSION:
        raise ValueError("a version of the older torch.save format that is not 1001")
    if not isinstance(pickle_machine.load(file, {}), dict):
        raise ValueError("the description of the machine that wrote the file is missing")
    storages = _Storages(file_bytes)
    tree = pickle_machine.load(file, ALLOWED, storages.storage)
    storages.fill(file, keys=pickle_machine.load(file, {}))
    return tree


class _Bounded:
    """A file that is never asked for more than it has: Python sets memory aside for as much as it is asked for."""

    def __init__(self, file: IO[bytes], file_bytes: int):
        self.tell, self.readline = file.tell, file.readline
        self._read, self._bytes = file.read, file_bytes

    def read(self, size: int) -> bytes:
        return self._read(max(min(size, self._bytes - self.tell()), 0))


class _Storages:
    """Storages that a pickle names before the file delivers them."""

    def __init__(self, file_bytes: int):
        self._left = file_bytes
        self._storages: dict[str, Storage] = {}

    def storage(self, pid: Any) -> Storage:
        """Memory for the storage of a persistent id; all of them together fit into the file."""
        wanted = StorageId.parse(pid)
        storage = self._storages.get(wanted.key)
        if storage is None:
            self._left -= wanted.nbytes
            if self._left < 0:
                raise ValueError("the storages are larger than the file: it is truncated or corrupt")
            storage = self._storages[wanted.key] = Storage.empty(wanted.type, wanted.elements)
        return wanted.within(storage)

    def fill(self, file: IO[bytes], keys: Any) -> None:
        """Reads every storage, in the order of `keys`."""
        if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
            raise ValueError("the list of storages is missing")
        waiting = dict(self._storages)
        for key in map(str, keys):
            storage = waiting.pop(key, None)
            if storage is None:
                raise ValueError(f"storage {key[:40]} is delivered twice, or belongs to no tensor")
            (elements,) = struct.unpack("<q", file.read(8))
            if elements != storage.values.size:
                raise ValueError(f"storage {key[:40]} has {elements} elements where {storage.values.size} belong")
            storage.fill(file.read(storage.values.nbytes), "little")
        if waiting:
            raise ValueError(f"{len(waiting)} storages are missing")
