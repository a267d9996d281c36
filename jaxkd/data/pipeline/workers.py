"""Run a reader over a plan in other processes or threads, with Grain: in order, and ahead of what is asked for."""

from __future__ import annotations

import atexit
import gc
import importlib.util
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxkd.data.pipeline.batch_reader import BatchIndices, BatchReader, Plan, Unreadable
from jaxkd.types import Batch

_SMALL = 2**16
"""Arrays of fewer bytes are not worth a segment of shared memory."""

_IN_FLIGHT = 4
"""About how many batches of each process wait in shared memory."""

_FEW, _MOST = 4, 32
"""The default's limits: the fewest processors that are worth processes, and the most processes.

Threads start at once. A process takes 1.2 s of a processor to start and 200 MB of memory, and a tenth longer for an
image; but threads wait for each other where Python itself is at work.
"""

_GRACE = 15
"""Seconds that a process works on after SIGTERM, so that the run it belongs to can end by its own rules."""


_PACKAGES = {"grain": "grain", "PIL": "pillow"}


def check_installed(*modules: str) -> None:
    """Raise an ImportError that names the extra if one of these is missing; by default of Grain and Pillow."""
    missing = [_PACKAGES[module] for module in modules or _PACKAGES if not importlib.util.find_spec(module)]
    if missing:
        raise ImportError(f"images that are read from files need {' and '.join(missing)}: pip install 'jaxkd[stream]'")


def processes(wanted: int | None) -> int:
    """Return how many decoding processes to start; 0 stands for threads.

    Raises:
      ValueError: processes are wanted, and a script without a guard would run anew in each of them.
    """
    if wanted == 0 or _main_can_be_imported():
        return _sensible(_own_cores()) if wanted is None else wanted
    if wanted is None:
        return 0
    raise ValueError(
        f"workers={wanted}: every decoding process imports {sys.modules['__main__'].__file__}, which would then run "
        "anew: put what it does under `if __name__ == '__main__':`, or decode in threads, workers=0"
    )


def _own_cores() -> int:
    """Return the cores for one of the processes that torchrun started on this machine: it lets each have them all."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(_cores() // here, 1) if _cores() == os.cpu_count() else _cores()


def _sensible(cores: int) -> int:
    return min(cores, _MOST) if cores >= _FEW else 0


def read_ahead(
    reader: BatchReader, plan: Plan, start: int, workers: int
) -> Iterator[tuple[Batch, tuple[Unreadable, ...]]]:
    """Yield what `reader` gives for `plan[start]`, `plan[start + 1]`, …, in this order.

    However the iteration ends, no process is left behind.

    Args:
      reader: is sent to the processes, as is the plan.
      plan: the batches.
      start: where to begin.
      workers: processes; 0 reads in threads of this one, as many as there are processors.

    Raises:
      TypeError: the reader cannot be sent.
      RuntimeError: a process died.
      Exception: whatever the reader raises.
    """
    if start >= len(plan):
        return
    import grain

    left = len(plan) - start
    source = grain.MapDataset.source(plan if workers else _OneAtATime(plan))
    batches = source.slice(slice(start, None)).map(reader)
    if workers:
        _check_sendable(reader)
        stream = _in_processes(batches, min(workers, left), _batch_bytes(reader, plan[start]))
    else:
        threads = min(_cores(), left)
        stream = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
    opened = [iter(stream)]

    def end() -> None:
        if opened:
            opened.pop().close()
            if workers:
                gc.collect()  # Grain leaves each process's last batch, and its shared memory, in a cycle of references

    atexit.register(end)  # when Python ends, modules that closing needs go before an iterator that is still held
    try:
        with suppress(StopIteration):
            while opened:
                yield _out_of_shared_memory(*next(opened[0]))  # under no name here, which would keep the memory
    except RuntimeError as error:
        _explain(error)
        raise
    finally:
        atexit.unregister(end)
        end()


class _OneAtATime:
    """A plan for several threads to read, which may remember something from one batch to the next."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._lock = plan, threading.Lock()

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, number: int) -> BatchIndices:
        with self._lock:
            return self._plan[number]


def _check_sendable(reader: BatchReader) -> None:
    import cloudpickle  # Grain's way to send it

    try:
        cloudpickle.dumps(reader)
    except Exception as error:
        raise TypeError(
            f"{reader.title} cannot be sent to decoding processes: {error}. Let its source and its views hold paths or "
            "numbers, and open files when they read; or decode in threads, workers=0"
        ) from error


def _in_processes(batches: Any, workers: int, batch_bytes: int) -> Any:
    import grain
    from absl import flags

    # Grain asks for this flag whether or not the program parses flags.
    if "grain_enable_multiprocess_worker_profiling" in flags.FLAGS:
        flags.FLAGS["grain_enable_multiprocess_worker_profiling"].present = True
    shared = _SMALL if _shared_memory() > _IN_FLIGHT * workers * batch_bytes else sys.maxsize
    stream = grain.experimental.WithOptionsIterDataset(
        batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)),
        grain.experimental.DatasetOptions(min_shm_size=shared),
    )
    return stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_begin)


def _out_of_shared_memory(batch: Batch, unreadable: tuple[Unreadable, ...]) -> tuple[Batch, tuple[Unreadable, ...]]:
    """Copy what lies in shared memory, which is returned at once, whatever becomes of the batch."""
    return jax.tree.map(lambda array: array if type(array) is np.ndarray else np.array(array), batch), unreadable


def _begin(worker: int, workers: int) -> None:
    """Prepare a decoding process for being interrupted, and for the end of its parent."""
    jax.config.update("jax_platforms", "cpu")  # Grain imports JAX; should a source use it, then not on the accelerator
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent ends this one
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _explain(error: RuntimeError) -> None:
    """Raise an error with a cure in place of Grain's for a process that died."""
    if "Worker process was terminated unexpectedly" not in str(error):
        return
    code = str(error).partition("exit code ")[2].split(".")[0]
    cure = {
        str(-signal.SIGKILL): "the system may have run out of memory: choose fewer workers or smaller batches",
        str(-signal.SIGBUS): "/dev/shm may be full: enlarge it, or decode in threads, workers=0",
    }.get(code, "what it wrote above says why; workers=0 decodes in threads of this process")
    raise RuntimeError(f"a decoding process ended with exit code {code}: {cure}") from error


def _main_can_be_imported() -> bool:
    """Tell whether other processes may import the script that Python was started with."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None:
        return True
    try:
        return "__main__" in Path(script).read_text(errors="replace")
    except OSError:
        return True


def _cores() -> int:
    if hasattr(os, "process_cpu_count"):  # since Python 3.13
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _batch_bytes(reader: BatchReader, indices: BatchIndices) -> int:
    return len(indices.index) * math.prod(reader.shape or ())


def _shared_memory() -> float:
    """Return the free bytes of shared memory; unlimited where the system does not say."""
    try:
        found = os.statvfs("/dev/shm")
    except (AttributeError, OSError):
        return math.inf
    return found.f_bavail * found.f_frsize
