"""Runs the rows of the benchmark: starts the contenders, lets them take turns, and keeps the record up to date."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from benchmarks import contenders, network_cost, processes, record, rows
from benchmarks.contenders import TITLES, Peers
from benchmarks.processes import ProcessError, Worker
from benchmarks.rows import Images, Settings
from benchmarks.work import UnavailableError, Work, passes_of
from jaxkd import plots
from jaxkd.records import write_json

MEMORY_REPEATS = 1
"""Rounds of row f where a-step did not tell the peaks; the warm-up before them trains as well."""


class Timed(Protocol):
    """A contender that takes turns with others."""

    def run(self) -> float:
        """Measure all rows."""


def check(settings: Settings, images: Images) -> None:
    """Refuse, before any work, networks and images that the rows need and that are not there.

    Raises:
      ValueError, OSError: they are not.
    """
    for row in settings.rows:
        for work in rows.works(row, settings, images):
            network_cost.cost(passes_of(work), work.batch_size, work.num_classes, work.image_shapes)


def run(
    settings: Settings, images: Images, output: pathlib.Path, options: Mapping[str, Any], device: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure all rows.

    Args:
      settings: what to measure.
      images: what to measure it on.
      output: the folder of the record and its picture.
      options: of the command line, for the record.
      device: what JAX computes on.

    Returns:
      The record.
    """
    output.mkdir(parents=True, exist_ok=True)
    reached = processes.ceilings(network_cost.SMALL if device["platform"] == "cpu" else network_cost.LARGE)
    written: dict[str, Any] = {
        "options": {name: value for name, value in options.items() if value is not None},
        "settings": vars(settings),
        **record.where(device),
        "ceilings": reached,
        "explanation": record.EXPLANATION,
        "measures": [],
    }
    print(record.ceilings_in_words(reached), flush=True)
    rounds = Rounds(settings, images, reached)
    for row in settings.rows:
        for measure in rounds.of(row):
            written["measures"].append(measure)
            print(record.table(measure), flush=True)
            write_json(output / "benchmark.json", written)  # each time: a long run may be cut short
    if plots.available():
        record.draw(written["measures"], output / "benchmark.png", device["kind"])
    print(f"everything is in {output}")
    return written


class Rounds:
    """Measure rows, and keep what serves later ones.

    Args:
      settings: what to measure.
      images: what to measure it on.
      reached: the device's ceilings.
    """

    def __init__(self, settings: Settings, images: Images, reached: Mapping[str, Any]):
        self.settings, self.images, self.reached = settings, images, reached
        self.ways: dict[tuple[str, ...], str] = {}
        self.steps: list[dict[str, Any]] = []

    def of(self, row: str) -> Iterator[dict[str, Any]]:
        """Return the records of a row, one for each of its works."""
        if row == "e":
            yield processes.start_up(self.settings)
        if row == "f":
            if not self.steps:
                least = rows.works("a-step", self.settings, self.images)[0]
                self.steps.append(self.measure("a-step", least, MEMORY_REPEATS))
            yield record.peaks(min(self.steps, key=lambda step: step["batch_size"]))
        for work in rows.works(row, self.settings, self.images):
            measure = self.measure(row, work, self.settings.repeats)
            if row == "a-step":
                self.steps.append(measure)
            yield measure

    def measure(self, row: str, work: Work, repeats: int) -> dict[str, Any]:
        """Measure some work, with a process for each contender, which ends with it."""
        with contextlib.ExitStack() as open_ones:
            ready, skipped = self.prepared(work, open_ones)
            seconds = taking_turns(ready, repeats)
            told = {key: worker.tell() for key, worker in ready.items()}
        for key, said in told.items():
            if "way" in said["facts"]:
                self.ways[self.shape(key, work)] = said["facts"]["way"]
        return record.speed(row, work, told, seconds, skipped, self.reached)

    def prepared(self, work: Work, open_ones: contextlib.ExitStack) -> tuple[dict[str, Worker], dict[str, str]]:
        """Return the processes of those who can do the work, warmed up, and why others cannot."""
        ready, skipped = {}, {}
        path = pathlib.Path(open_ones.enter_context(tempfile.TemporaryDirectory())) / "work.npz"
        work.save(path)
        for key in contenders.taking_part(self.settings.keys, work.kind):
            print(f"  {TITLES[key]} …", file=sys.stderr, flush=True)
            worker = open_ones.enter_context(Worker())
            peers = Peers(self.settings.workers, self.settings.compiles, self.ways.get(self.shape(key, work)))
            try:
                worker.build(key, path, peers)
                for _ in range(self.settings.warm_ups):
                    worker.run()
            except (UnavailableError, ProcessError) as error:
                if key.startswith("jaxkd") and isinstance(error, ProcessError):
                    raise  # a peer that fails must not end the others' run, but ours must not fail
                skipped[key] = str(error)
                worker.close()
                continue
            ready[key] = worker
        return ready, skipped

    @staticmethod
    def shape(key: str, work: Work) -> tuple[str, ...]:
        """Return what work has in common that is best done in the same way, at whatever batch size."""
        return key, work.teacher, work.student, "step" if work.kind == "epoch" else work.kind


def taking_turns(ready: Mapping[str, Timed], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of every round; each round begins with another contender, and the others wait.

    Example:
      >>> from benchmarks.work import Contender
      >>> taking_turns({"one": Contender(lambda: 1.5, "float32", {})}, repeats=2)
      {'one': [1.5, 1.5]}
    """
    seconds: dict[str, list[float]] = {key: [] for key in ready}
    keys = list(ready)
    for turn in range(repeats):
        first = turn % max(len(keys), 1)
        for key in (*keys[first:], *keys[:first]):
            seconds[key].append(ready[key].run())
    return seconds
