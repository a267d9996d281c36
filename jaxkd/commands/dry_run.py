"""A run's settings, memory and duration, estimated from a few of its steps; nothing is written."""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil
import yaml

from jaxkd.commands import run
from jaxkd.commands.beginning import Beginning

STEPS, EVALUATED = 4, 512


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for it to a command line."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what the run would be, with its sizes, memory and time as a few steps tell them, and write nothing",
    )


class Measured(NamedTuple):
    """Measurements of a few steps.

    Attributes:
      compiling: seconds until the first steps were done, which later runs find in the cache.
      training: images a second.
      evaluation: images a second.
      memory: bytes in use, of a device where it tells, else of the process.
      on_device: whether a device tells.
    """

    compiling: float
    training: float
    evaluation: float
    memory: int
    on_device: bool


def described(experiment: run.Experiment, teacher: Any = None) -> str:
    """Return the resolved run, its sizes, and the time and memory that it will take."""
    config, found = experiment.config, measured(experiment, teacher)
    training, examples, held_out = config.training, len(experiment.train), len(experiment.test)
    steps = -(-examples // training.batch_size)
    epoch = examples / found.training + held_out / found.evaluation
    network = experiment.facts[config.role]
    sizes = {config.role: f"{config.network}, {network['parameters']:,} parameters"}
    if teacher is not None:
        sizes["teacher"] = f"{run.name_of(teacher)}, {run.parameters(teacher):,} parameters"
    lines = {
        **sizes,
        "steps": f"{steps:,} an epoch, {steps * training.epochs:,} in {training.epochs} epochs; {examples:,} images",
        "speed": f"{found.training:,.0f} images a second in training, {found.evaluation:,.0f} in evaluation",
        "time": f"about {duration(training.epochs * epoch)}, {duration(epoch)} an epoch; compiling takes "
        f"{duration(found.compiling)} where it is new",
        "memory": f"{found.memory / 2**30:.2f} GiB {'of a device' if found.on_device else 'of this process'} so far",
        "directory": f"{config.folder} (nothing was written)",
    }
    settings = yaml.safe_dump(config.settings(), sort_keys=False, allow_unicode=True)
    return "\n".join([settings, *(f"{name:10s} {value}" for name, value in lines.items())])


def measured(experiment: run.Experiment, teacher: Any = None) -> Measured:
    """Train a network of its own for some steps, and measure the second epoch of them.

    Raises:
      RefusedError: for what cannot be trained.
    """
    config = experiment.config
    if config.teacher is not None:  # a cache would be written, and be empty here in any case
        config = dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, cache=None))
    train, chosen = experiment.train, run.spread_over(len(experiment.train), STEPS * config.training.batch_size)
    few = train.take(chosen)
    if config.method is not None and config.method.needs_labels:  # it remembers all, and finds the few by their numbers
        train = train.take(np.concatenate([chosen, np.setdiff1d(np.arange(len(train)), chosen)]))
    trainer = run.compiled(config, train, teacher)
    start = time.perf_counter()
    with Beginning() as beginning:
        trainer.fit(few, epochs=1, batch_size=config.training.batch_size, callbacks=beginning, verbose=0)
    compiling = time.perf_counter() - start
    start = time.perf_counter()
    trainer.fit(few, epochs=1, batch_size=config.training.batch_size, verbose=0)
    training = len(few) / (time.perf_counter() - start)
    return Measured(compiling, training, _evaluated(trainer, experiment.test), *memory())


def _evaluated(trainer: Any, test: run.Images) -> float:
    few = run.some_of(test, EVALUATED)
    trainer.evaluate(few)
    start = time.perf_counter()
    trainer.evaluate(few)
    return len(few) / (time.perf_counter() - start)


def memory() -> tuple[int, bool]:
    """Return the bytes in use at most, and whether a device tells them."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"]), True
    return int(psutil.Process().memory_info().rss), False


def duration(seconds: float) -> str:
    """Return a duration in words.

    Example:
      >>> duration(0.4), duration(75), duration(5400), duration(200000)
      ('0.4 s', '75 s', '1.5 h', '2.3 days')
    """
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
