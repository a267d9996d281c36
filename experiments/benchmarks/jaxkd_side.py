"""jaxkd's side of the benchmark: `fit`, `sweep` and `evaluate`, as a user calls them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

import jaxkd
from benchmarks.work import CELLS, RECIPE, SEEDS, Contender, Work, check_bfloat16, cores, passes_of, timed
from jaxkd import callbacks, data, losses, models, optimizers
from jaxkd.nn import cpu_kernels


class Variant(NamedTuple):
    """A way to train.

    Attributes:
      precision: of the networks.
      teacher: "runs" in every step, is "cached" so that all it would say is known, is "shared" by all students of a
        sweep, or there is "none".
    """

    precision: str
    teacher: str


VARIANTS = {
    "jaxkd": Variant("float32", "runs"),
    "jaxkd-cache": Variant("float32", "cached"),
    "jaxkd-alone": Variant("float32", "none"),
    "jaxkd-sweep": Variant("float32", "shared"),
    "jaxkd-bf16": Variant("bfloat16", "runs"),
    "jaxkd-bf16-cache": Variant("bfloat16", "cached"),
    "jaxkd-bf16-alone": Variant("bfloat16", "none"),
}


class EpochSeconds(callbacks.Callback):
    """Collect the seconds of an epoch, without moving the data to the device or copying the result back.

    Attributes:
      seconds: of the last epoch.
      logs: likewise.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.logs: dict[str, Any] = {}

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.seconds, self.logs = time.perf_counter() - self._start, dict(logs or {})


def contender(work: Work, variant: Variant) -> Contender:
    """Return what trains, trains a grid of students, or evaluates.

    Raises:
      UnavailableError: in bfloat16, on a CPU that has no instructions for it.
    """
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and variant.precision == "bfloat16":
        check_bfloat16()
    made = {"evaluation": evaluation, "grid": grid}.get(work.kind, training)(work, variant)
    made.facts.update(device=device()["kind"], threads=cores() if on_cpu else None, convolutions=cpu_kernels.describe())
    return made


def networks(work: Work) -> tuple[Any, Any]:
    """Return a new student and a teacher."""
    student = models.create(work.student, num_classes=work.num_classes, seed=SEEDS.student)
    student.resize_to = work.student_size or None
    return student, models.create(work.teacher, num_classes=work.num_classes, seed=SEEDS.teacher)


def sgd() -> Any:
    """Return the papers' optimizer."""
    return optimizers.sgd(RECIPE.learning_rate, momentum=RECIPE.momentum, weight_decay=RECIPE.weight_decay)


def training(work: Work, variant: Variant) -> Contender:
    """Return some epochs of `fit`; the teacher's cache is warm from the second run on.

    Runs with a cache start from the same seed every time, so that they ask for the views which the first one has put
    there; the other runs go on training, as `fit` does.
    """
    student, teacher = networks(work)
    images = dataset(work, data.Augmentation(pad=RECIPE.pad) if work.kind == "epoch" else None)
    student.normalization = teacher.normalization = images.normalization
    alone, cached = variant.teacher == "none", variant.teacher == "cached"
    trainer = jaxkd.Trainer(student) if alone else jaxkd.Distiller(student=student, teacher=teacher)
    cache: Any = jaxkd.TeacherCache() if cached else False

    def compile_() -> None:
        trainer.compile(
            sgd(),
            loss=None if alone else {"ce": losses.CrossEntropy(), "kd": losses.KD(temperature=RECIPE.temperature)},
            loss_weights=None if alone else {"ce": RECIPE.ce_weight, "kd": RECIPE.kd_weight},
            precision=variant.precision,
            cache_teacher=cache,
        )

    facts: dict[str, Any] = {}

    def run() -> float:
        if cached:
            compile_()
        clock = EpochSeconds()
        trainer.fit(images, epochs=1, batch_size=work.batch_size, callbacks=[clock], verbose=0)
        if cached:
            facts.update(teacher_cache_hits=clock.logs["teacher_cache_hits"], teacher_cache_bytes=cache.bytes)
        return clock.seconds

    compile_()
    return Contender(run, variant.precision, passes_of(work, teacher=float(variant.teacher == "runs")), facts)


def grid(work: Work, variant: Variant) -> Contender:
    """Return what trains a student for each cell, as one `sweep` or each in a `fit`; all waiting counts."""
    _, teacher = networks(work)
    images, shared = dataset(work, None), variant.teacher == "shared"
    teacher.normalization = images.normalization

    def make(correct: float, wrong: float) -> jaxkd.Distiller:
        distiller = jaxkd.Distiller(student=networks(work)[0], teacher=teacher)
        distiller.compile(
            sgd(),
            loss={"ce": losses.CrossEntropy(), "ats": losses.ATS(correct, wrong)},
            loss_weights={"ce": 1 - RECIPE.ats_weight, "ats": RECIPE.ats_weight},
            precision=variant.precision,
        )
        return distiller

    def sweep() -> None:
        cells = [{"correct": correct, "wrong": wrong} for correct, wrong in CELLS[: work.students]]
        jaxkd.sweep(make, cells, images, epochs=work.epochs, batch_size=work.batch_size, verbose=0)

    def one_after_another() -> None:
        for cell in CELLS[: work.students]:
            make(*cell).fit(images, epochs=work.epochs, batch_size=work.batch_size, verbose=0)

    passes = passes_of(work, teacher=1 / work.students if shared else 1.0)
    return Contender(timed(sweep if shared else one_after_another), variant.precision, passes)


def evaluation(work: Work, variant: Variant) -> Contender:
    """Return an `evaluate` that takes its images from the host."""
    trainer = jaxkd.Trainer(models.create(work.teacher, num_classes=work.num_classes, seed=SEEDS.teacher))
    trainer.compile(optimizers.sgd(RECIPE.learning_rate), precision=variant.precision)
    images = dataset(work, None)
    run = timed(lambda: trainer.evaluate(images, batch_size=work.batch_size))
    return Contender(run, variant.precision, passes_of(work))


def dataset(work: Work, augmentation: data.Augmentation | None) -> data.Dataset:
    """Return the work's images in jaxkd's form."""
    return data.from_arrays(
        work.images,
        work.labels,
        mean=RECIPE.mean,
        std=RECIPE.std,
        num_classes=work.num_classes,
        augmentation=augmentation,
    )


def device() -> dict[str, Any]:
    """Return what JAX computes on."""
    devices = jax.devices()
    return {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)}


def device_peak() -> int | None:
    """Return the most bytes that were in use on the device so far, where it counts them."""
    statistics = jax.devices()[0].memory_stats()
    return statistics.get("peak_bytes_in_use") if statistics else None
