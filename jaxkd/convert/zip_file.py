"""The zip format of `torch.save` (PyTorch 1.6 and later): a pickle, and one record per storage."""

from __future__ import annotations

import io
import zipfile
from typing import IO, Any

from jaxkd.convert import pickle_machine
from jaxkd.convert.allowed import ALLOWED
from jaxkd.convert.storage import ByteOrder, Storage, StorageId

MAX_PICKLE_BYTES = 64 * 2**20
_SLACK_BYTES = 64 * 2**20  # how much a small, compressed file may unfold to


def read_zip(file: IO[bytes], file_bytes: int) -> Any:
    """Reads the object a zip checkpoint holds, tensors as read-only NumPy arrays.

    Args:
      file: the checkpoint, `file_bytes` long.

    Raises:
      ValueError, zipfile.BadZipFile, and what a malformed pickle raises.
    """
    if not zipfile.is_zipfile(file):  # no directory at its end
        raise ValueError("it begins like a file of torch.save and has no end: cut short; copy or download it again")
    with zipfile.ZipFile(file) as archive:
        # Weights hardly compress: an archive that claims to is a bomb, or its directory points at the same bytes twice.
        claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > 8 * file_bytes + _SLACK_BYTES:
            raise ValueError(f"a zip bomb: {file_bytes} bytes claim to hold {claimed}")
        records = _Records(archive)
        program = records.read(records.prefix + "data.pkl", at_most=MAX_PICKLE_BYTES)
        stream = io.BytesIO(program)
        tree = pickle_machine.load(stream, ALLOWED, records.storage)
        if rest := stream.read():
            raise ValueError(f"{len(rest)} bytes after the end of the pickle: torch.save writes one pickle and no more")
        return tree


class _Records:
    """The records of an archive, whatever directory they are in."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        self._storages: dict[str, Storage] = {}
        names = archive.namelist()
        if len(set(names)) != len(names):
            raise ValueError("two records of the same name: other readers may see another file")
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"a zip archive with {len(pickles)} data.pkl records instead of one: not from torch.save")
        self.prefix = pickles[0].removesuffix("data.pkl")
        if self.prefix + "constants.pkl" in names:
            raise ValueError("a TorchScript archive, which holds a program; save the model's state_dict() instead")
        self._byteorder = self._read_byteorder()

    def _read_byteorder(self) -> ByteOrder:
        name = self.prefix + "byteorder"
        if name not in self._archive.NameToInfo:
            return "little"
        match self.read(name, at_most=16):
            case b"little":
                return "little"
            case b"big":
                return "big"
        raise ValueError("an unknown byte order")

    def read(self, name: str, at_most: int, at_least: int = 0) -> bytes:
        """One record of a length within bounds, however it is packed."""
        entry = self._archive.NameToInfo.get(name)
        if entry is None:
            raise ValueError(f"the record {name} is missing")
        if not at_least <= entry.file_size <= at_most:
            wanted = at_most if at_least == at_most else f"at most {at_most}"
            raise ValueError(f"the record {name} has {entry.file_size} bytes instead of {wanted}")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"the record {name} is packed in a way torch.save never uses")
        with self._archive.open(entry) as record:
            data = record.read(at_most + 1)  # a bound, so that a record cannot unfold to more than it claims
        if len(data) != entry.file_size:
            raise ValueError(f"the record {name} has {len(data)} bytes and claims {entry.file_size}")
        return data

    def storage(self, pid: Any) -> Storage:
        """The storage of a persistent id, read when it is first named."""
        wanted = StorageId.parse(pid)
        storage = self._storages.get(wanted.key)
        if storage is None:
            name = f"{self.prefix}data/{wanted.key}"
            data = self.read(name, at_most=wanted.nbytes, at_least=wanted.nbytes)
            storage = self._storages[wanted.key] = Storage.empty(wanted.type, wanted.elements)
            storage.fill(data, self._byteorder)
        return wanted.within(storage)
