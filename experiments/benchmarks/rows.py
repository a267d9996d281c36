"""The benchmark's rows and their sizes, on a CPU, on an accelerator, and in a hurry."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarks import contenders
from benchmarks.work import CELLS, SEEDS, Work, synthetic
from jaxkd import data

ROWS = {
    "a-step": "a training step, ResNet-56 teaching ResNet-20",
    "a-epoch": "an epoch of the same, data included",
    "b": "a step, WRN-40-2 teaching WRN-16-2",
    "c": "a step, WRN28-8 teaching VGG8",
    "d": "evaluating ResNet-56",
    "e": "starting up",
    "f": "peak memory",
    "g": "a step, vgg13 teaching MobileNetV2",
    "h": "a step, vgg13 teaching ShuffleNetV2",
    "i": "a step at 224 pixels, ResNet-34 teaching ResNet-18",
    "j": "the grid of ATS on digits, ResNet-14 teaching 30 ResNet-8s",
    "k": "a step, ResNet-56 at 32 pixels teaching DeiT-Ti at 224",
}


class Pair(NamedTuple):
    """Networks, the batch sizes that are measured, and their images; `student_size` as `Work` has it."""

    teacher: str
    student: str
    batch_sizes: tuple[int, ...]
    image_size: int = 32
    num_classes: int = 100
    student_size: int = 0


PAIRS = {
    "a": Pair("resnet56", "resnet20", (64, 128)),
    "b": Pair("wrn_40_2", "wrn_16_2", (64,)),
    "c": Pair("WRN28-8", "VGG8", (128,)),
    "g": Pair("vgg13", "MobileNetV2", (64,)),
    "h": Pair("vgg13", "ShuffleV2", (64,)),
    "i": Pair("resnet34", "resnet18", (16,), image_size=224, num_classes=1000),
    "j": Pair("resnet14", "resnet8", (40,), image_size=8, num_classes=10),
    "k": Pair("resnet56", "deit_tiny_patch16_224", (32, 128), student_size=224),
}
CPU_STEPS = {"a": 5, "b": 2, "c": 1, "g": 5, "h": 5, "i": 1, "k": 1}


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
      smallest: whether each then takes only the smallest of its own.
      teacher: for all rows; None leaves each its own.
      student: likewise.
      epoch_images: of the epoch row; fewer than 50,000 are a part of CIFAR's epoch.
      evaluation_images: of the evaluation row.
      evaluation_batch: likewise.
      grid_images: of the grid.
      grid_epochs: of each of its students.
      students: in the grid.
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
    smallest: bool
    teacher: str | None
    student: str | None
    epoch_images: int
    evaluation_images: int
    evaluation_batch: int
    grid_images: int
    grid_epochs: int
    students: int
    workers: int
    compiles: bool
    deepest: str | None

    def pair(self, row: str) -> Pair:
        """Return the networks, batch sizes and images of a training row, by its first letter."""
        own = PAIRS[row[0]]
        sizes = self.batch_sizes or (own.batch_sizes[:1] if self.smallest else own.batch_sizes)
        return own._replace(teacher=self.teacher or own.teacher, student=self.student or own.student, batch_sizes=sizes)


Images = Callable[[str, int], tuple[np.ndarray, np.ndarray]]
"""Gives so many images and labels of "train" or "test"."""


def works(row: str, settings: Settings, images: Images) -> list[Work]:
    """Return the works of a row; none for rows that do not compare speeds."""
    if row in ("e", "f"):
        return []
    pair = settings.pair("a" if row == "d" else row)
    if row == "d":
        batch_size = min(settings.evaluation_batch, settings.evaluation_images)
        found = images("test", settings.evaluation_images)
        return [Work("evaluation", pair.teacher, "", batch_size, *found)]
    made, classes = [], pair.num_classes
    for size in pair.batch_sizes:
        networks = pair.teacher, pair.student, size
        if row == "j":
            found, epochs = digits(settings.grid_images), settings.grid_epochs
            made.append(Work("grid", *networks, *found, classes, epochs, settings.students))
        elif row == "a-epoch":
            made.append(Work("epoch", *networks, *images("train", settings.epoch_images)))
        elif row == "i":
            count = settings.steps[row[0]] * size
            found = synthetic(count, SEEDS.train_images, pair.image_size, classes)
            made.append(Work("step", *networks, *found, classes))
        else:
            found = images("train", settings.steps[row[0]] * size)
            made.append(Work("step", *networks, *found, classes, student_size=pair.student_size))
    return made


def digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first training digits and their labels."""
    train, _ = data.load("digits")
    return train.images[:count], train.labels[:count]


def images_from(data_dir: pathlib.Path | None) -> Images:
    """Return random images, or CIFAR-100's.

    Raises:
      ValueError: when more are asked for than there are.
    """
    if data_dir is None:
        seeds = {"train": SEEDS.train_images, "test": SEEDS.test_images}
        return lambda split, count: synthetic(count, seeds[split])

    def real(split: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        found = data.load("cifar100", data_dir, split=split)
        if count > len(found):
            raise ValueError(f"{count} images were asked for, and CIFAR-100 has {len(found)} in {split}")
        return found.images[:count], found.labels[:count]

    return real


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be right on any device.

    Raises:
      ValueError: for rows, contenders or numbers.
    """
    rows_of(options.rows or "a")
    contenders.resolve(options.contenders or ())
    for name in ("repeats", "steps", "batch_size", "epoch_images", "evaluation_images", "starts", "students"):
        given = getattr(options, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if options.workers < 0:
        raise ValueError(f"--workers {options.workers}: must be at least 0")
    if options.students and options.students > len(CELLS):
        raise ValueError(f"--students {options.students}: the grid has {len(CELLS)}")


def settings(options: argparse.Namespace, accelerated: bool) -> Settings:
    """Return the settings that a checked command line means on a device."""
    quick = options.quick
    steps = dict.fromkeys(PAIRS, 1) | {"a": 2} if quick else dict.fromkeys(PAIRS, 100) if accelerated else CPU_STEPS
    standard = contenders.QUICK if quick else tuple(contenders.TITLES) if accelerated else contenders.ON_CPU
    return Settings(
        rows=rows_of(options.rows or ("a,d,e" if quick else ",".join(ROWS))),
        keys=tuple(contenders.resolve(options.contenders or standard)),
        repeats=options.repeats or (3 if quick else 7),
        warm_ups=2 if accelerated else 1,
        starts=options.starts or (1 if quick else 5),
        steps=dict.fromkeys(PAIRS, options.steps) if options.steps else dict(steps),
        batch_sizes=tuple(options.batch_size or ()) or None,
        smallest=quick,
        teacher=options.teacher,
        student=options.student,
        epoch_images=options.epoch_images or (192 if quick else 50_000 if accelerated else 1280),
        evaluation_images=options.evaluation_images or (500 if quick else 10_000),
        evaluation_batch=1000 if accelerated else 250,
        grid_images=200 if quick else 1437,
        grid_epochs=1 if quick else 3,
        students=options.students or (4 if quick else len(CELLS)),
        workers=options.workers,
        compiles=not (quick or options.no_torch_compile),
        deepest=None if quick else "resnet110",
    )


def rows_of(names: str) -> tuple[str, ...]:
    """Return rows from a list with commas; "a" means both of its rows.

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
