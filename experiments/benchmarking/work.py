"""What the benchmark measures, told in plain arrays, so that every contender can take it up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

Kind = Literal["step", "epoch", "evaluation"]


class Recipe(NamedTuple):
    """How everyone trains; the work hardly depends on the numbers."""

    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    ce_weight: float = 0.1
    kd_weight: float = 0.9
    temperature: float = 4.0
    pad: int = 4
    num_classes: int = 100
    mean: tuple[float, ...] = (0.5071, 0.4865, 0.4409)
    std: tuple[float, ...] = (0.2673, 0.2564, 0.2762)


RECIPE = Recipe()


class UnavailableError(Exception):
    """A contender cannot take part here; the message says why."""


@dataclass(frozen=True)
class Work:
    """Something that several contenders do.

    Attributes:
      kind: "step" trains on images that are on the device, as they are; "epoch" starts from the host's pixels in a new
        order, and pads, crops and mirrors them; "evaluation" counts the teacher's right answers.
      teacher: its name.
      student: likewise; evaluation has none.
      batch_size: examples per step.
      images: `[N, H, W, C]` uint8.
      labels: `[N]` int32.
    """

    kind: Kind
    teacher: str
    student: str
    batch_size: int
    images: np.ndarray
    labels: np.ndarray


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
    passes: Mapping[str, int]
    facts: dict[str, Any] = field(default_factory=dict)


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """`work` as a function that returns its seconds."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def passes_of(work: Work, teacher: bool = True) -> dict[str, int]:
    """How often an image goes through each network; `teacher=False` where its outputs are known or not needed.

    Example:
      >>> empty = np.empty(0)
      >>> passes_of(Work("step", "resnet56", "resnet20", 64, empty, empty))
      {'resnet20': 3, 'resnet56': 1}
    """
    if work.kind == "evaluation":
        return {work.teacher: 1}
    passes = {work.student: 3}
    if teacher:
        passes[work.teacher] = passes.get(work.teacher, 0) + 1
    return passes


def synthetic(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels of CIFAR-100's shape: `[N, 32, 32, 3]` uint8 and `[N]` int32."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return images, rng.integers(0, RECIPE.num_classes, count).astype(np.int32)
