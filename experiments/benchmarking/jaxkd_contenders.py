"""jaxkd's side of the benchmark: `fit` and `evaluate`, as a user calls them."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax

import jaxkd
from benchmarking.work import RECIPE, Contender, Work, passes_of, timed
from jaxkd import callbacks, data, losses, models, optimizers


class Variant(NamedTuple):
    """A way to train.

    Attributes:
      precision: of the networks.
      teacher: "runs" in every step, is "cached" so that all it would say is known, or there is "none".
    """

    precision: str
    teacher: str


VARIANTS = {
    "jaxkd": Variant("float32", "runs"),
    "jaxkd-cache": Variant("float32", "cached"),
    "jaxkd-alone": Variant("float32", "none"),
    "jaxkd-bf16": Variant("bfloat16", "runs"),
    "jaxkd-bf16-cache": Variant("bfloat16", "cached"),
    "jaxkd-bf16-alone": Variant("bfloat16", "none"),
}


class EpochSeconds(callbacks.Callback):
    """The seconds of an epoch, without what a run pays once: moving the data to the device, copying the result back.

    Attributes:
      seconds: of the last epoch.
      logs: likewise.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.logs: dict[str, Any] = {}

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds, self.logs = time.perf_counter() - self._start, dict(logs or {})


def contender(work: Work, variant: Variant) -> Contender:
    """Training or evaluation."""
    return evaluation(work, variant) if work.kind == "evaluation" else training(work, variant)


def training(work: Work, variant: Variant) -> Contender:
    """One epoch of `fit`; the teacher's cache is warm from the second run on.

    Runs with a cache start from the same seed every time, so that they ask for the views which the first one has put
    there; the other runs go on training, as `fit` does.
    """
    student: Any = models.create(work.student, num_classes=RECIPE.num_classes, seed=0)
    teacher: Any = models.create(work.teacher, num_classes=RECIPE.num_classes, seed=1)
    augmentation = data.Augmentation(pad=RECIPE.pad) if work.kind == "epoch" else None
    images = dataset(work, augmentation)
    student.normalization = teacher.normalization = images.normalization
    alone, cached = variant.teacher == "none", variant.teacher == "cached"
    trainer = jaxkd.Trainer(student) if alone else jaxkd.Distiller(student=student, teacher=teacher)
    cache: Any = jaxkd.TeacherCache() if cached else False

    def compile_() -> None:
        trainer.compile(
            optimizers.sgd(RECIPE.learning_rate, momentum=RECIPE.momentum, weight_decay=RECIPE.weight_decay),
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
    return Contender(run, variant.precision, passes_of(work, teacher=variant.teacher == "runs"), facts)


def evaluation(work: Work, variant: Variant) -> Contender:
    """`evaluate`, which takes its images from the host."""
    trainer = jaxkd.Trainer(models.create(work.teacher, num_classes=RECIPE.num_classes, seed=1))
    trainer.compile(optimizers.sgd(RECIPE.learning_rate), precision=variant.precision)
    images = dataset(work, None)
    run = timed(lambda: trainer.evaluate(images, batch_size=work.batch_size))
    return Contender(run, variant.precision, passes_of(work))


def dataset(work: Work, augmentation: data.Augmentation | None) -> data.Dataset:
    """The work's images in jaxkd's form."""
    return data.from_arrays(
        work.images,
        work.labels,
        mean=RECIPE.mean,
        std=RECIPE.std,
        num_classes=RECIPE.num_classes,
        augmentation=augmentation,
    )


def device_peak() -> int | None:
    """The most bytes that were in use on the device so far, where it counts them."""
    statistics = jax.devices()[0].memory_stats()
    return statistics.get("peak_bytes_in_use") if statistics else None
