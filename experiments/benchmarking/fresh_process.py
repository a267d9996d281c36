"""One contender in a process of its own, for what a process has once: its start and its peak memory."""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import sys
import time
from collections.abc import Sequence

from benchmarking import contenders
from benchmarking.work import Work, synthetic


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the work and prints what it took as one line of JSON."""
    options = command_line().parse_args(arguments)
    images, labels = synthetic(options.steps * options.batch_size)
    work = Work("step", options.teacher, options.student, options.batch_size, images, labels)
    start = time.perf_counter()
    peers = contenders.Peers(compiles=options.torch_compile)
    if options.way:
        from benchmarking import torch_tuned

        torch_tuned.remember(peers.chosen, work, torch_tuned.way_of(options.way))
    contender = contenders.build(options.contender, work, peers)
    built = time.perf_counter()
    seconds = [contender.run() for _ in range(options.runs)]
    print(
        json.dumps(
            {
                "built": built - start,
                "first_run": seconds[0],
                "seconds": seconds,
                "host_peak": host_peak(),
                "device_peak": device_peak(options.contender),
            }
        ),
        flush=True,
    )
    return 0


def host_peak() -> int:
    """The most bytes of memory that this process held so far.

    Linux counts from the start of the program in its status file; the usual call includes what the parent held.
    """
    status = pathlib.Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def device_peak(contender: str) -> int | None:
    """The most bytes that were in use on the accelerator; None without one."""
    if contender.startswith("torch"):
        from benchmarking import torch_peer

        return torch_peer.device_peak()
    from benchmarking import jaxkd_contenders

    return jaxkd_contenders.device_peak()


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contender", required=True, choices=list(contenders.TITLES))
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1, help="of a run")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--way", help="how the tuned PyTorch is to run, as in 'default, bfloat16'")
    parser.add_argument("--torch-compile", action="store_true", help="try it, where --way does not say")
    return parser


if __name__ == "__main__":
    sys.exit(main())
