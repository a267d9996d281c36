"""A cache of a teacher's outputs, by image and view, so that each is computed once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

DTYPES = ("float32", "float16")


class TeacherCache:
    """Cache a teacher's logits, and its pooled embedding where a loss reads it, by image and view.

    Padding, cropping and mirroring make few different views of an image (162 for CIFAR's recipe), which are numbered by
    the augmentation; in 240 epochs three quarters of them are seen. What is kept lies on the host, and grows as views
    are seen. One cache can serve several runs with the same teacher and data: students, seeds, hyper-parameters.

    Args:
      directory: keeps everything in files there, to be shared between processes and for later runs; in memory if None.
      dtype: what is stored. Reading float32 back is exact; float16 halves the room and rounds logits to three digits.

    Raises:
      ValueError: for a dtype other than float32 and float16.

    Example:
      >>> cache = TeacherCache()
      >>> cache.open({"teacher": "a"}, slots=4, width=3)
      >>> cache.write(np.array([2]), np.ones((1, 3), np.float32))
      >>> cache.has(np.array([1, 2])).tolist(), cache.read(np.array([2])).tolist(), cache.bytes
      ([False, True], [[1.0, 1.0, 1.0]], 48)
    """

    def __init__(self, directory: str | PathLike[str] | None = None, dtype: str = "float32"):
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r}: a teacher cache stores {' or '.join(DTYPES)}")
        self.directory = None if directory is None else Path(directory).expanduser()
        self.dtype = np.dtype(dtype)
        self._contents: dict[str, Any] | None = None
        self._outputs = np.empty((0, 0), self.dtype)
        self._filled = np.empty(0, bool)

    def __repr__(self) -> str:
        place = "in memory" if self.directory is None else f"in {self.directory}"
        return f"TeacherCache({place}, {self.dtype}): {self.filled:.1%} of at most {in_words(self.bytes)}"

    @property
    def bytes(self) -> int:
        """The bytes that the cache takes when every view of every image has been seen."""
        return self._outputs.nbytes

    @property
    def filled(self) -> float:
        """The share of all views that are there."""
        return float(self._filled.mean()) if self._filled.size else 0.0

    def open(self, contents: Mapping[str, Any], slots: int, width: int) -> None:
        """Make room, or open what is there already.

        Args:
          contents: identifies the teacher, the data and what is kept of them; see `fingerprint`.
          slots: how many views of images there are.
          width: numbers kept for each.

        Raises:
          ValueError: the cache holds something else.
          MemoryError: it would not fit into memory.
        """
        wanted = {**contents, "slots": slots, "width": width, "dtype": self.dtype.name}
        if self._contents is not None:
            self._check(self._contents, wanted)
        elif self.directory is not None:
            self._open_files(self.directory, wanted)
        else:
            self._reserve(wanted)

    def has(self, slots: np.ndarray) -> np.ndarray:
        """Return which of the slots are filled."""
        return self._filled[slots]

    def read(self, slots: np.ndarray) -> np.ndarray:
        """Return what was written there, float32 `[…, width]`."""
        return self._outputs[slots].astype(np.float32, copy=False)

    def write(self, slots: np.ndarray, outputs: np.ndarray) -> None:
        """Fill slots with `[M, width]` numbers."""
        self._outputs[slots] = outputs
        self._filled[slots] = True  # last, so that a run killed in between leaves no slot that is half written

    def _check(self, contents: Mapping[str, Any], wanted: dict[str, Any]) -> None:
        if differing := [key for key in {**wanted, **contents} if contents.get(key) != wanted.get(key)]:
            where = "in memory" if self.directory is None else f"in {self.directory}"
            raise ValueError(
                f"the teacher cache {where} was filled with another {', '.join(differing)}: use a new one, or another "
                "directory"
            )

    def _reserve(self, wanted: dict[str, Any]) -> None:
        slots, width = wanted["slots"], wanted["width"]
        needed, free = slots * width * self.dtype.itemsize, free_memory()
        if needed > free:
            raise MemoryError(
                f"the teacher cache may grow to {in_words(needed)}, and {in_words(free)} of memory are free: use "
                "TeacherCache(directory=…), which keeps it on disk, dtype='float16', or no cache"
            )
        self._outputs = np.zeros((slots, width), self.dtype)  # the system gives the memory when it is written to
        self._filled = np.zeros(slots, bool)
        self._contents = wanted

    def _check_disk(self, directory: Path, wanted: dict[str, Any]) -> None:
        """Refuse what would not fit: the files grow as they are filled, and a full disk then kills the process."""
        needed, free = wanted["slots"] * (wanted["width"] * self.dtype.itemsize + 1), shutil.disk_usage(directory).free
        if needed > free:
            raise MemoryError(
                f"the teacher cache may grow to {in_words(needed)}, and {in_words(free)} of disk are free for "
                f"{directory}: use another directory, dtype='float16', or no cache"
            )

    def _open_files(self, directory: Path, wanted: dict[str, Any]) -> None:
        manifest = directory / "contents.json"
        begun = manifest.exists()
        if begun:
            self._check(json.loads(manifest.read_text()), wanted)
        else:
            directory.mkdir(parents=True, exist_ok=True)
            self._check_disk(directory, wanted)
        slots, width, open_array = wanted["slots"], wanted["width"], np.lib.format.open_memmap
        mode: Literal["r+", "w+"] = "r+" if begun else "w+"
        self._outputs = open_array(directory / "outputs.npy", mode, self.dtype, (slots, width))
        self._filled = open_array(directory / "filled.npy", mode, np.dtype(bool), (slots,))
        if not begun:
            manifest.write_text(json.dumps(wanted, indent=1) + "\n")  # last: a folder without it is begun anew
        self._contents = wanted  # likewise: what was refused is not open


class OwnCache(TeacherCache):
    """A cache that nobody else has: for other data, or another teacher, it begins anew."""

    def _check(self, contents: Mapping[str, Any], wanted: dict[str, Any]) -> None:
        if contents != wanted:
            self._contents, self._outputs, self._filled = None, np.empty((0, 0), self.dtype), np.empty(0, bool)
            self._reserve(wanted)


def free_memory(container: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of memory that programs can get on this machine, or in this container, without swapping."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit, used, kinds = ((container / f"memory.{name}").read_text() for name in ("max", "current", "stat"))
        of_files = next((int(line.split()[1]) for line in kinds.splitlines() if line.startswith("inactive_file ")), 0)
        return min(free, max(int(limit) - int(used) + of_files, 0))
    except (OSError, ValueError):  # no container, or none with a limit
        return free


def in_words(count: int) -> str:
    """Return a number of bytes in words.

    Example:
      >>> in_words(3_240_000_000), in_words(48)
      ('3.2 GB', '48 bytes')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
