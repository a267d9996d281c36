"""The benchmark's rows and their sizes, on a CPU, on an accelerator, and in a hurry."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarking import contenders
from benchmarking.work import Work, synthetic

ROWS = {
    "a-step": "a training step, ResNet-56 teaching ResNet-20",
    "a-epoch": "an epoch of the same, data included",
    "b": "a step, WRN-40-2 teaching WRN-16-2",
    "c": "a step, WRN28-8 teaching VGG8",
    "d": "evaluating ResNet-56",
    "e": "starting up",
    "f": "peak memory",
}


class Pair(NamedTuple):
    """Networks and the batch sizes their papers train with."""

    teacher: str
    student: str
    batch_sizes: tuple[int, ...]


PAIRS = {
    "a": Pair("resnet56", "resnet20", (64, 128)),
    "b": Pair("wrn_40_2", "wrn_16_2", (64,)),
    "c": Pair("WRN28-8", "VGG8", (128,)),
}
CPU_STEPS = {"a": 5, "b": 2, "c": 1}


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is measured; made by `settings`.

    Attributes:
      rows: keys of `ROWS`.
      keys: of the contenders.
      repeats: rounds that count.
      warm_ups: rounds before them that do not.
      starts: how often each kind of start is repeated.
      steps: of a training row, by the first letter of the row.
      batch_sizes: of the training rows; None leaves each its own.
      teacher: for all rows; None leaves each its own.
      student: likewise.
      epoch_images: of the epoch row; fewer than 50,000 are a part of CIFAR's epoch.
      evaluation_images: of the evaluation row.
      evaluation_batch: likewise.
      workers: of PyTorch's loader.
      compiles: whether `torch.compile` may be tried.
      deepest: the network whose start is compared with the student's; None compares none.
    """

    rows: tuple[str, ...]
    keys: tuple[str, ...]
    repeats: int
    warm_ups: int
    starts: int
    steps: dict[str, int]
    batch_sizes: tuple[int, ...] | None
    teacher: str | None
    student: str | None
    epoch_images: int
    evaluation_images: int
    evaluation_batch: int
    workers: int
    compiles: bool
    deepest: str | None

    def pair(self, row: str) -> Pair:
        """The networks and batch sizes of a training row, by its first letter."""
        teacher, student, batch_sizes = PAIRS[row[0]]
        return Pair(self.teacher or teacher, self.student or student, self.batch_sizes or batch_sizes)


Images = Callable[[str, int], tuple[np.ndarray, np.ndarray]]
"""Gives so many images and labels of "train" or "test"."""


def works(row: str, settings: Settings, images: Images) -> list[Work]:
    """What there is to do for a row; nothing for those that are measured in processes of their own."""
    if row in ("e", "f"):
        return []
    if row == "d":
        batch_size = min(settings.evaluation_batch, settings.evaluation_images)
        found = images("test", settings.evaluation_images)
        return [Work("evaluation", settings.pair("a").teacher, "", batch_size, *found)]
    pair, made = settings.pair(row), []
    for batch_size in pair.batch_sizes:
        if row == "a-epoch":
            made.append(Work("epoch", *pair[:2], batch_size, *images("train", settings.epoch_images)))
        else:
            count = settings.steps[row[0]] * batch_size
            made.append(Work("step", *pair[:2], batch_size, *images("train", count)))
    return made


def images_from(data_dir: pathlib.Path | None) -> Images:
    """Random images, or CIFAR-100's.

    Raises:
      ValueError: when more are asked for than there are.
    """
    if data_dir is None:
        return lambda split, count: synthetic(count, seed=["train", "test"].index(split))

    def real(split: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        from jaxkd import data

        found = data.load("cifar100", data_dir, split=split)
        if count > len(found):
            raise ValueError(f"{count} images were asked for, and CIFAR-100 has {len(found)} in {split}")
        return found.images[:count], found.labels[:count]

    return real


def settings(options: argparse.Namespace, accelerated: bool) -> Settings:
    """The settings that a command line means on a device.

    Raises:
      ValueError: for rows, contenders or numbers that cannot be right.
    """
    quick = options.quick
    for name in ("repeats", "steps", "batch_size", "epoch_images", "evaluation_images", "starts"):
        given = getattr(options, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if options.workers < 0:
        raise ValueError(f"--workers {options.workers}: must be at least 0")
    steps = {"a": 2, "b": 1, "c": 1} if quick else dict.fromkeys(PAIRS, 100) if accelerated else CPU_STEPS
    standard = contenders.QUICK if quick else tuple(contenders.TITLES) if accelerated else contenders.ON_CPU
    return Settings(
        rows=rows_of(options.rows or ("a,d,e" if quick else ",".join(ROWS))),
        keys=tuple(contenders.resolve(options.contenders or standard)),
        repeats=options.repeats or (3 if quick else 5),
        warm_ups=2 if accelerated else 1,
        starts=options.starts or (1 if quick else 5),
        steps=dict.fromkeys(PAIRS, options.steps) if options.steps else dict(steps),
        batch_sizes=tuple(options.batch_size or ([64] if quick else [])) or None,
        teacher=options.teacher,
        student=options.student,
        epoch_images=options.epoch_images or (192 if quick else 50_000 if accelerated else 1280),
        evaluation_images=options.evaluation_images or (500 if quick else 10_000),
        evaluation_batch=1000 if accelerated else 250,
        workers=options.workers,
        compiles=not (quick or options.no_torch_compile),
        deepest=None if quick else "resnet110",
    )


def rows_of(names: str) -> tuple[str, ...]:
    """Rows from a list with commas; "a" means both of its rows.

    Raises:
      ValueError: for one that does not exist.

    Example:
      >>> rows_of("e,a")
      ('a-step', 'a-epoch', 'e')
    """
    wanted: Sequence[str] = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in ROWS and name != "a"]:
        raise ValueError(f"no row is called {', '.join(unknown)}: choose among a, {', '.join(ROWS)}")
    return tuple(row for row in ROWS if row in wanted or (row.startswith("a") and "a" in wanted))
