"""A contender's own process: does what it is told over a pipe, and sleeps in between.

An order is a line of JSON that names one of the methods of `Orders` and its arguments; each is answered by a line.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import sys
import time
from typing import IO, Any

from benchmarks import contenders
from benchmarks.work import Contender, UnavailableError, Work, cores


class Orders:
    """The orders that a process takes."""

    contender: Contender

    def __init__(self) -> None:
        self.key = ""
        self.waited = {"seconds": 0.0, "cpu_seconds": 0.0}

    def build(self, key: str, work: str, peers: dict[str, Any]) -> None:
        """Prepare a contender for the work in a file."""
        self.key = key
        self.contender = contenders.build(key, Work.load(work), contenders.Peers(**peers))

    def run(self) -> float:
        """Do the work once, and return its seconds."""
        return self.contender.run()

    def tell(self) -> dict[str, Any]:
        """Describe the contender, and its memory so far."""
        facts = dict(self.contender.facts)
        return {
            "precision": self.contender.precision,
            "passes": dict(self.contender.passes),
            "cores": cores(),
            "threads": facts.pop("threads", None),
            "peak": {"host": host_peak(), "device": contenders.device_peak(self.key)},
            "waited": self.waited,
            "facts": facts,
        }

    def device(self) -> dict[str, Any]:
        """Return what JAX computes on."""
        from benchmarks import jaxkd_side

        return jaxkd_side.device()

    def ceiling(self, library: str, size: list[int]) -> dict[str, Any]:
        """Measure how fast the device is, with that library."""
        from benchmarks import network_cost

        return network_cost.measured(library, network_cost.Size(*size))


def main() -> None:
    """Answer orders until their pipe is closed; what libraries print goes to stderr, and they read nothing."""
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    serve(orders, answers)


def serve(orders: IO[str], answers: IO[str]) -> None:
    """Answer each order with its result, or with why there is none."""
    doing, rest = Orders(), (time.perf_counter(), time.process_time())
    for line in orders:
        now = time.perf_counter(), time.process_time()
        doing.waited["seconds"] += now[0] - rest[0]
        doing.waited["cpu_seconds"] += now[1] - rest[1]
        order = json.loads(line)
        try:
            answer = {"result": getattr(doing, order.pop("do"))(**order)}
        except Exception as error:  # contenders fail in many ways; the benchmark goes on without them
            text = f"{type(error).__name__}: {str(error).strip()}"
            answer = {"error": text, "unavailable": isinstance(error, UnavailableError)}
        rest = time.perf_counter(), time.process_time()
        print(json.dumps(answer, default=str), file=answers, flush=True)


def host_peak() -> int:
    """Return the most bytes of memory that this process held so far.

    Linux counts from the start of the program in its status file; the usual call includes what the parent held.
    """
    status = pathlib.Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
