"""The processes of the contenders, seen from outside: telling them what to do, and how long they take to start."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import network_cost
from benchmarks.contenders import TITLES, Peers
from benchmarks.rows import Settings
from benchmarks.work import UnavailableError, Work, synthetic

SCRIPTS = pathlib.Path(__file__).parents[1]


class ProcessError(Exception):
    """A process did not do what it was told; the message is the end of what it printed."""


class Worker:
    """A process that waits for orders; see `fresh_process`.

    Args:
      environment: of the process; None takes this one's.
    """

    def __init__(self, environment: Mapping[str, str] | None = None):
        variables = dict(os.environ if environment is None else environment)
        variables["PYTHONPATH"] = os.pathsep.join([str(SCRIPTS), *filter(None, [variables.get("PYTHONPATH")])])
        self.started = time.perf_counter()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fresh_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=variables,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, do: str, **arguments: Any) -> Any:
        """Give an order and wait for its result.

        Args:
          do: the name of a method of `fresh_process.Orders`.
          **arguments: its own, as JSON values.

        Raises:
          UnavailableError: the contender cannot take part here.
          ProcessError: it failed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().strip()
            raise ProcessError(said.splitlines()[-1] if said else f"exit status {status}")
        answer = json.loads(line)
        if "error" in answer:
            raise (UnavailableError if answer["unavailable"] else ProcessError)(answer["error"])
        return answer["result"]

    def build(self, key: str, work: pathlib.Path, peers: Peers) -> None:
        """Prepare a contender for the work in a file."""
        self.ask("build", key=key, work=str(work), peers=vars(peers))

    def run(self) -> float:
        """Return the seconds of one round."""
        seconds: float = self.ask("run")
        return seconds

    def tell(self) -> dict[str, Any]:
        """Return what the contender is, and its memory: see `fresh_process.Orders.tell`."""
        told: dict[str, Any] = self.ask("tell")
        return told

    def close(self) -> None:
        """End the process, which ends by itself when no more orders can come."""
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # it has ended
                self._process.stdin.close()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()


def device() -> dict[str, Any]:
    """Return what JAX computes on, asked in another process, since some devices serve one process at a time."""
    with Worker() as worker:
        found: dict[str, Any] = worker.ask("device")
    return found


def ceilings(size: network_cost.Size) -> dict[str, Any]:
    """Return the device's ceilings, each library's from a process of its own; PyTorch's only where it is installed."""
    found = {}
    for library in ("jax", "torch"):
        try:
            with Worker() as worker:
                found[library] = worker.ask("ceiling", library=library, size=list(size))
        except ProcessError:
            if library == "jax":
                raise
    return network_cost.ceilings_of(found)


def start_up(settings: Settings) -> dict[str, Any]:
    """Return the seconds from the start of a process: of importing, and to the end of the first step.

    A cold start finds no compiled program in the cache, a warm one those of the cold start before it. `first_run` is
    the part that compiles and takes the step.
    """
    pair = settings.pair("a")
    batch_size = min(pair.batch_sizes)
    alone = [name for name in (pair.student, settings.deepest) if name and settings.deepest]
    images, labels = synthetic(batch_size)
    found: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}

    def note(title: str, measure: Callable[[], Mapping[str, Any]]) -> None:
        if title in skipped:
            return
        try:
            for name, value in measure().items():
                found.setdefault(title, {}).setdefault(name, []).append(value)
        except (ProcessError, UnavailableError) as error:
            skipped[title] = str(error)

    def step(key: str, student: str, cache: str | None = None) -> Callable[[], Mapping[str, float]]:
        return lambda: first_step(key, Work("step", pair.teacher, student, batch_size, images, labels), cache)

    def importing(package: str) -> Callable[[], Mapping[str, float]]:
        return lambda: {"seconds": import_seconds(package)}

    for _ in range(settings.starts):
        for package in ("jaxkd", "torch"):
            note(f"import {package}", importing(package))
        runs = {TITLES["jaxkd"]: ("jaxkd", pair.student)}
        runs |= {f"jaxkd, {name} alone": ("jaxkd-alone", name) for name in alone}
        for title, (key, student) in runs.items():
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    note(f"{title}, {state}", step(key, student, cache))
        note(TITLES["torch"], step("torch", pair.student))
    for entry in found.values():
        entry |= {f"median_{name}": float(np.median(values)) for name, values in list(entry.items())}
    return {
        "row": "e",
        "title": f"starting up: {pair.teacher} → {pair.student}, batch {batch_size}",
        "unit": "seconds",
        "starts": found,
        "ratios": start_ratios(found, alone),
        "skipped": skipped,
    }


def start_ratios(found: Mapping[str, Mapping[str, Any]], alone: Sequence[str]) -> dict[str, float]:
    """Return a warm start over a cold one, and what depth costs when everything has to be compiled."""

    def over(left: str, right: str, what: str) -> dict[str, float]:
        if left not in found or right not in found:
            return {}
        return {f"{left} ÷ {right}, {what}": round(found[left][what] / found[right][what], 3)}

    title = TITLES["jaxkd"]
    ratios = over(f"{title}, warm", f"{title}, cold", "median_seconds")
    if len(alone) == 2:
        shallow, deep = (f"jaxkd, {name} alone, cold" for name in alone)
        ratios |= over(deep, shallow, "median_first_run")
    return ratios


def first_step(key: str, work: Work, cache: str | None) -> dict[str, float]:
    """Return seconds until a new process has taken a step.

    Args:
      key: of the contender.
      work: one step.
      cache: the folder for compiled programs; None leaves it as it is.
    """
    environment = dict(os.environ)
    if cache is not None:
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        environment["XDG_CACHE_HOME"] = cache  # where jaxkd keeps compiled programs unless told otherwise
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "work.npz"
        work.save(path)
        with Worker(environment) as worker:
            worker.build(key, path, Peers(compiles=False))
            built = time.perf_counter()
            worker.run()
            ended = time.perf_counter()
    return {"seconds": ended - worker.started, "first_run": ended - built}


def import_seconds(package: str) -> float:
    """Return seconds of importing a package in a new process.

    Raises:
      ProcessError: it is not installed.
    """
    code = f"import time; start = time.perf_counter(); import {package}; print(time.perf_counter() - start)"
    return float(said([sys.executable, "-c", code]))


def said(command: Sequence[str]) -> str:
    """Return the last line that a command prints.

    Raises:
      ProcessError: it failed.
    """
    ended = subprocess.run(command, capture_output=True, text=True)
    lines, complaint = ended.stdout.strip().splitlines(), ended.stderr.strip().splitlines()
    if ended.returncode != 0 or not lines:
        raise ProcessError(complaint[-1] if complaint else f"exit status {ended.returncode}")
    return lines[-1]
