"""A process that reads damaged files within bounds: `python tests/helpers/read_mutants.py FILE FIRST COUNT`.

It mutates the file COUNT times, with FIRST, FIRST + 1, … as seeds, reads each by `convert.from_torch`, and prints what
became of them as one line of JSON. While it reads it may take a gibibyte more than before, and run nothing.
"""

import contextlib
import json
import os
import resource
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path

from mutations import mutant, packed

from jaxkd import convert
from jaxkd.convert import ConversionError
from jaxkd.convert.weights import weights_sha256

MEMORY = 2**30
SECONDS = 2.0
FORBIDDEN = {
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "ctypes.dlopen"),
    *("socket.connect", "pickle.find_class", "exec", "compile", "import"),
}


class Reader:
    """Reads mutants of a file and keeps count.

    Attributes:
      outcomes: how many were read, and refused.
      problems: seed, mutation and what went wrong, of those that ended in neither.
      slowest: seconds of processor time, and the mutation.
      largest: bytes of memory, and the mutation.
    """

    def __init__(self, file: Path):
        self.content = file.read_bytes()
        self.weights = convert.to_state_dict(convert.from_torch(file))
        self.outcomes: Counter[str] = Counter()
        self.problems: list[tuple[int, str, str]] = []
        self.slowest = self.largest = (0.0, "")
        self._events: list[str] = []

    def watch(self) -> None:
        """From now on, notes what could be the running of code. What is imported at first use is over by now."""
        sys.addaudithook(lambda event, _: self._events.append(event) if event in FORBIDDEN else None)
        limit = status("VmSize") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def read(self, path: Path, seed: int) -> None:
        mutation, mutated, may_differ = mutant(self.content, seed)
        path.write_bytes(mutated)
        del mutated
        before = reset_peak()
        self._events.clear()
        start = time.process_time()
        problem = self._attempt(path, mutation, may_differ)
        seconds = time.process_time() - start
        self.slowest = max(self.slowest, (seconds, mutation))
        self.largest = max(self.largest, (status("VmHWM") - before, mutation))
        canary = Path(os.environ["CANARY"])
        for wrong in (
            problem,
            f"{seconds:.1f} seconds" if seconds > SECONDS else None,
            "code was run" if canary.exists() else None,
            f"it asked for {', '.join(self._events)}" if self._events else None,
        ):
            if wrong:
                self.problems.append((seed, mutation, wrong))
        canary.unlink(missing_ok=True)

    def _attempt(self, path: Path, mutation: str, may_differ: int | None) -> str | None:
        try:
            model = convert.from_torch(path)
        except ConversionError as error:
            self.outcomes["refused"] += 1
            if not str(error).startswith(f"{path}: ") or not error.reason or "\n" in error.reason:
                return f"an error that does not name the file and a reason in one line: {error}"[:2000]
            if "MemoryError" in error.reason or "allocate" in error.reason:
                return f"it ran out of memory: {error.reason}"
            harmless = may_differ == 0 and " bytes " not in mutation
            return f"a harmless change was refused: {error.reason}" if harmless else None
        except BaseException:
            return traceback.format_exc()[-2000:]
        self.outcomes["read"] += 1
        return self._damage(convert.to_state_dict(model), may_differ)

    def _damage(self, found: dict, may_differ: int | None) -> str | None:
        """What is wrong with weights that could be read; `from_torch` has seen to shapes and finite numbers."""
        if may_differ == 0:
            return None if weights_sha256(found) == weights_sha256(self.weights) else "other weights than were written"
        if may_differ is not None:
            if found.keys() != self.weights.keys():
                return "other keys than were written"
            differing = sum(int((found[key] != value).sum()) for key, value in self.weights.items())
            return f"{differing} numbers are not those that were written" if differing > may_differ else None
        return None


def warm_up(file: Path, folder: Path) -> None:
    """What is imported and cached when it is first needed is not the mutations' doing."""
    for suffix in (".pth", ".safetensors"):
        convert.to_torch(convert.from_torch(file), folder / f"x{suffix}")
        convert.from_torch(folder / f"x{suffix}")
    (folder / "x.pth").write_bytes(packed([("a/data.pkl", b"\x80\x02N.")], zipfile.ZIP_DEFLATED))
    with contextlib.suppress(ConversionError):
        convert.from_torch(folder / "x.pth")
    convert.guess({"fc.bias": convert.to_state_dict(convert.from_torch(file))["fc.bias"]})


def status(field: str) -> int:
    """A size in bytes from Linux's record of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def reset_peak() -> int:
    """Starts to measure the largest resident size anew, and returns the present one."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def main(file: Path, first: int, count: int) -> None:
    reader = Reader(file)
    with tempfile.TemporaryDirectory() as folder:
        warm_up(file, Path(folder))
        os.environ["CANARY"] = str(Path(folder) / "canary")
        reader.watch()
        start = time.perf_counter()
        for seed in range(first, first + count):
            reader.read(Path(folder) / f"mutant{file.suffix}", seed)
    report = {
        "file": file.name,
        "mutations": count,
        **reader.outcomes,
        "problems": reader.problems,
        "slowest": reader.slowest,
        "largest": reader.largest,
        "wall_seconds": time.perf_counter() - start,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
