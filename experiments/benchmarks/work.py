"""The work that the benchmark measures, in plain arrays, so that every contender can do it; and the processor."""

from __future__ import annotations

import itertools
import os
import pathlib
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

Kind = Literal["step", "epoch", "evaluation", "grid"]


class Recipe(NamedTuple):
    """The training of every contender; the work hardly depends on the numbers."""

    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    ce_weight: float = 0.1
    kd_weight: float = 0.9
    ats_weight: float = 0.5
    temperature: float = 4.0
    pad: int = 4
    mean: tuple[float, ...] = (0.5071, 0.4865, 0.4409)
    std: tuple[float, ...] = (0.2673, 0.2564, 0.2762)


class Seeds(NamedTuple):
    """Seeds of every contender's random numbers."""

    student: int = 0
    teacher: int = 1
    train_images: int = 0
    test_images: int = 1


RECIPE, SEEDS = Recipe(), Seeds()

CELLS = tuple(itertools.product((1.0, 2.0, 3.0, 4.0, 5.0, 6.0), (1.0, 2.0, 3.0, 4.0, 5.0)))
"""τ₁ and τ₂ of the students of ATS's grid (Li et al. 2022)."""


class UnavailableError(Exception):
    """A contender cannot take part here; the message says why."""


@dataclass(frozen=True)
class Work:
    """Something that several contenders do.

    Attributes:
      kind: "step" trains on images that are on the device, as they are; "epoch" starts from the host's pixels in a new
        order, and pads, crops and mirrors them; "evaluation" counts the teacher's right answers; "grid" trains
        several students, one for each of the first of `CELLS`, as in "step".
      teacher: its name.
      student: likewise; evaluation has none.
      batch_size: examples per step.
      images: `[N, H, W, C]` uint8.
      labels: `[N]` int32.
      num_classes: what the networks tell apart.
      epochs: how often training goes over the images.
      students: how many are trained.
      student_size: height and width at which students see the images, which the teacher sees as they are; 0 where they
        see them so as well.
    """

    kind: Kind
    teacher: str
    student: str
    batch_size: int
    images: np.ndarray
    labels: np.ndarray
    num_classes: int = 100
    epochs: int = 1
    students: int = 1
    student_size: int = 0

    @property
    def image_shapes(self) -> dict[str, tuple[int, int, int]]:
        """`(H, W, C)` of the images that each network sees."""
        own = height, width, channels = self.images.shape[1:]
        seen = (self.student_size or height, self.student_size or width, channels)
        return {self.student: seen, self.teacher: own}

    @property
    def examples(self) -> int:
        """Images that are learned from, or evaluated, in one round; again for each epoch and student."""
        return len(self.images) * self.epochs * self.students

    def save(self, path: pathlib.Path) -> None:
        """Write all of it to a file, for the processes of the contenders."""
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: str) -> Work:
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(**{name: file[name] if file[name].ndim else file[name].item() for name in file})


@dataclass(frozen=True)
class Contender:
    """One way to do some work.

    Attributes:
      run: does all of it once, and returns the seconds it took.
      precision: what the networks compute in, "float32" or "bfloat16".
      passes: how often an image goes through which network: 1 is a forward pass, 3 a training step.
      facts: what is worth telling afterwards, as JSON values.
    """

    run: Callable[[], float]
    precision: str
    passes: Mapping[str, float]
    facts: dict[str, Any] = field(default_factory=dict)


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Return `work` as a function that returns its seconds."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def passes_of(work: Work, teacher: float = 1.0) -> dict[str, float]:
    """Return how often an image goes through each network.

    Args:
      work: what is done.
      teacher: forward passes of the teacher for each of the student: 0 where its outputs are known or not needed, and
        less than 1 where students share them.

    Example:
      >>> empty = np.empty(0)
      >>> passes_of(Work("step", "resnet56", "resnet20", 64, empty, empty))
      {'resnet20': 3.0, 'resnet56': 1.0}
    """
    if work.kind == "evaluation":
        return {work.teacher: 1.0}
    passes = {work.student: 3.0}
    if teacher:
        passes[work.teacher] = passes.get(work.teacher, 0.0) + teacher
    return passes


def synthetic(count: int, seed: int = 0, size: int = 32, num_classes: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Return random images `[N, size, size, 3]` uint8 and labels `[N]` int32, by default of CIFAR-100's shape."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return images, rng.integers(0, num_classes, count).astype(np.int32)


def processor() -> str:
    """Return the CPU's name, where the system tells it."""
    return _about_the_processor("model name") or platform.processor()


def features() -> dict[str, bool]:
    """Return which of the instructions that decide about speed the CPU has."""
    flags = _about_the_processor("flags").split()
    found = {name: name in flags for name in ("avx512f", "avx512_bf16")}
    return {**found, "amx": "amx_bf16" in flags}


def check_bfloat16() -> None:
    """Refuse bfloat16 on a CPU that would only imitate it.

    Raises:
      UnavailableError: it has no instructions for it.
    """
    if not (features()["avx512_bf16"] or features()["amx"]):
        raise UnavailableError("this CPU has no arithmetic for bfloat16")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _about_the_processor(field: str) -> str:
    about = pathlib.Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")
