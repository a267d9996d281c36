"""Runs the rows of the benchmark: builds the contenders, lets them take turns, and keeps the record up to date."""

from __future__ import annotations

import gc
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarking import ceilings, contenders, network_cost, processes, record, rows
from benchmarking.contenders import TITLES, Peers
from benchmarking.rows import Images, Settings
from benchmarking.work import Contender, Work, passes_of
from jaxkd import plots
from jaxkd.records import write_json


def check(settings: Settings, images: Images) -> None:
    """Finds out before any work whether the networks and images that the rows need are there.

    Raises:
      ValueError, OSError: they are not.
    """
    for row in settings.rows:
        for work in rows.works(row, settings, images):
            network_cost.cost(passes_of(work), work.batch_size)


def run(settings: Settings, images: Images, output: pathlib.Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """All rows.

    Args:
      settings: what to measure.
      images: what to measure it on.
      output: the folder of the record and its picture.
      options: of the command line, for the record.

    Returns:
      The record.
    """
    output.mkdir(parents=True, exist_ok=True)
    reached, peers = ceilings.measure(), Peers(settings.workers, settings.compiles)
    written: dict[str, Any] = {
        "options": {name: value for name, value in options.items() if value is not None},
        "settings": vars(settings),
        **record.where(),
        "ceilings": reached,
        "explanation": record.EXPLANATION,
        "measures": [],
    }
    print(record.ceilings_in_words(reached))
    for row in settings.rows:
        for measure in measures_of(row, settings, images, peers, reached):
            written["measures"].append(measure)
            print(record.table(measure), flush=True)
            write_json(output / "benchmark.json", written)  # each time: a long run may be cut short
    if plots.available():
        record.draw(written["measures"], output / "benchmark.png")
    print(f"everything is in {output}")
    return written


def measures_of(
    row: str, settings: Settings, images: Images, peers: Peers, reached: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """The records of a row, one for each of its works."""
    if row == "e":
        yield processes.start_up(settings)
    if row == "f":
        yield processes.peak_memory(settings, peers)
    for work in rows.works(row, settings, images):
        ready, skipped = prepared(work, settings, peers)
        seconds = taking_turns(ready, settings.repeats)
        yield record.speed(row, work, ready, seconds, skipped, reached)
        del ready
        gc.collect()  # ends the loaders' processes, and frees the devices for the next work


def prepared(work: Work, settings: Settings, peers: Peers) -> tuple[dict[str, Contender], dict[str, str]]:
    """Those who can do the work, warmed up, and why others cannot."""
    ready, skipped = {}, {}
    for key in contenders.taking_part(settings.keys, work.kind):
        print(f"  {TITLES[key]} …", file=sys.stderr, flush=True)
        try:
            contender = contenders.build(key, work, peers)
            for _ in range(settings.warm_ups):
                contender.run()
        except Exception as error:  # a peer that fails, in whatever way, must not end the others' run
            if key.startswith("jaxkd"):
                raise
            skipped[key] = f"{type(error).__name__}: {error}"
            continue
        ready[key] = contender
    return ready, skipped


def taking_turns(ready: Mapping[str, Contender], repeats: int) -> dict[str, list[float]]:
    """Seconds of every round; each round begins with another contender.

    Example:
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
