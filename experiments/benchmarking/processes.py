"""Rows that need processes of their own: start-up and peak memory."""

from __future__ import annotations

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

from benchmarking.contenders import TITLES, Peers
from benchmarking.rows import Settings

SCRIPTS = pathlib.Path(__file__).parents[1]
MEMORY_STEPS, MEMORY_RUNS = 3, 2
BATCH_SIZE = 64


class ProcessError(Exception):
    """A process of its own did not end well; the message is the end of what it said."""


def start_up(settings: Settings) -> dict[str, Any]:
    """Seconds from the start of a process: of importing, and to the end of the first step.

    A cold start finds no compiled program in the cache, a warm one those of the cold start before it. `first_run` is
    the part that compiles and takes the step.
    """
    teacher, student, batch_sizes = settings.pair("a")
    alone = [name for name in (student, settings.deepest) if name and settings.deepest]
    pair = ["--teacher", teacher, "--batch-size", str(min(batch_sizes))]
    found: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}

    def note(title: str, measure: Callable[[], Mapping[str, Any]]) -> None:
        if title in skipped:
            return
        try:
            for name, value in measure().items():
                found.setdefault(title, {}).setdefault(name, []).append(value)
        except ProcessError as error:
            skipped[title] = str(error)

    for _ in range(settings.starts):
        for package in ("jaxkd", "torch"):
            note(f"import {package}", lambda package=package: {"seconds": import_seconds(package)})
        runs = {TITLES["jaxkd"]: ["jaxkd", *pair, "--student", student]}
        runs |= {f"jaxkd, {name} alone": ["jaxkd-alone", *pair, "--student", name] for name in alone}
        for title, arguments in runs.items():
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    note(f"{title}, {state}", lambda given=arguments, cache=cache: first_step(given, cache))
        note(TITLES["torch"], lambda: first_step(["torch", *pair, "--student", student], None))
    for entry in found.values():
        entry |= {f"median_{name}": float(np.median(values)) for name, values in list(entry.items())}
    return {
        "row": "e",
        "title": f"starting up: {teacher} → {student}, batch {min(batch_sizes)}",
        "unit": "seconds",
        "starts": found,
        "ratios": start_ratios(found, alone),
        "skipped": skipped,
    }


def start_ratios(found: Mapping[str, Mapping[str, Any]], alone: Sequence[str]) -> dict[str, float]:
    """A warm start over a cold one, and what depth costs when everything has to be compiled."""

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


def peak_memory(settings: Settings, peers: Peers) -> dict[str, Any]:
    """The most bytes that training held, on the host and on the device."""
    teacher, student, batch_sizes = settings.pair("a")
    batch_size = min(batch_sizes)
    common = ["--teacher", teacher, "--student", student, "--batch-size", str(batch_size)]
    common += ["--steps", str(MEMORY_STEPS), "--runs", str(MEMORY_RUNS)]
    found, skipped = {}, {}
    for key in [key for key in settings.keys if key != "keras"]:
        given = [key, *common]
        if key.startswith("torch-tuned"):
            best = peers.chosen.get((teacher, student, batch_size, False, key.endswith("bf16")))
            given += ["--way", str(best[0])] if best else ["--torch-compile"] * settings.compiles
        try:
            taken, _ = ended(["--contender", *given], os.environ)
            found[key] = {"title": TITLES[key], "host": taken["host_peak"], "device": taken["device_peak"]}
        except ProcessError as error:
            skipped[key] = str(error)
    return {
        "row": "f",
        "title": f"peak memory: {teacher} → {student}, batch {batch_size}",
        "unit": "bytes",
        "peaks": found,
        "skipped": skipped,
    }


def first_step(arguments: Sequence[str], cache: str | None) -> dict[str, float]:
    """Seconds until a new process has taken a step.

    Args:
      arguments: the contender and what follows it on the command line of `fresh_process`.
      cache: the folder for compiled programs; None leaves it as it is.
    """
    environment = dict(os.environ)
    if cache is not None:
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        environment["XDG_CACHE_HOME"] = cache  # where jaxkd keeps compiled programs unless told otherwise
    taken, seconds = ended(["--contender", *arguments], environment)
    return {"seconds": seconds, "first_run": taken["first_run"]}


def import_seconds(package: str) -> float:
    """Seconds of importing a package in a new process.

    Raises:
      ProcessError: it is not installed.
    """
    code = f"import time; start = time.perf_counter(); import {package}; print(time.perf_counter() - start)"
    return float(said([sys.executable, "-c", code], os.environ)[0])


def ended(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[dict[str, Any], float]:
    """What `fresh_process` prints, and after how many seconds it does."""
    path = os.pathsep.join([str(SCRIPTS), *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "benchmarking.fresh_process", *arguments]
    line, seconds = said(command, {**environment, "PYTHONPATH": path})
    return json.loads(line), seconds


def said(command: Sequence[str], environment: Mapping[str, str]) -> tuple[str, float]:
    """The last line that a command prints, and after how many seconds it does.

    Raises:
      ProcessError: it failed.
    """
    line, start = "", time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=dict(environment), text=True
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:  # noqa: B007  # the last one counts
                seconds = time.perf_counter() - start
        errors.seek(0)
        complaint = errors.read().strip()
    if child.returncode != 0 or not line.strip():
        raise ProcessError(complaint.splitlines()[-1] if complaint else f"exit status {child.returncode}")
    return line, seconds
