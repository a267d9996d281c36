"""The static half of a run: everything a step closes over, checked before any work is done.

A program is hashable, so that runs which differ only in arrays (seeds, temperatures, initial weights) share what was
compiled for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import optax
from flax import nnx
from jax.sharding import Mesh

from jaxkd import metrics as metric_functions
from jaxkd.engine.forward import checked_precision
from jaxkd.engine.terms import (
    Losses,
    Shape,
    Weight,
    build_losses,
    named_losses,
    strong_view_of,
    watched_bounds,
    weights_of,
)
from jaxkd.metrics import Metric


@dataclass(frozen=True)
class Program:
    """Everything a step closes over.

    Attributes:
      model: structure of the network that is trained.
      teacher: structure of the teacher, or None.
      losses: structure of the loss terms, an `nnx.Dict` by name.
      weights: `(name, weight)` of each term; a weight is a function of the epoch counted from 1.
      metrics: `(name, metric)`.
      optimizer: whose `update` is told the epoch.
      strong_view: the strong augmentation a loss asks for, called as `(key, images)`.
      bounds: `(name, (low, high))` of monitored values that are watched.
      precision: the floating-point type the networks compute in.
      parts: how many a batch is computed in, one after the other.
      apart: the devices on each of which BatchNorm sees its own part of the batch; None where it sees all of it.
    """

    model: nnx.GraphDef
    teacher: nnx.GraphDef | None
    losses: nnx.GraphDef
    weights: tuple[tuple[str, Weight], ...]
    metrics: tuple[tuple[str, Metric], ...]
    optimizer: optax.GradientTransformationExtraArgs
    strong_view: Callable | None
    bounds: tuple[tuple[str, tuple[float, float]], ...]
    precision: str
    parts: int
    apart: Mesh | None

    @property
    def averaged(self) -> list[str]:
        """The logs that an epoch averages over its examples: the total, every term and every metric."""
        return ["loss", *(name for name, _ in (*self.weights, *self.metrics))]

    def __post_init__(self) -> None:
        if clash := {name for name, _ in self.weights} & {name for name, _ in self.metrics}:
            raise ValueError(f"a loss and a metric are both called {', '.join(sorted(clash))}: rename the loss")


def assemble(
    model: nnx.Module,
    teacher: nnx.Module | None,
    optimizer: optax.GradientTransformation,
    loss: Losses | None,
    loss_weights: Mapping[str, float | Weight] | None,
    metrics: Sequence[str | Metric],
    seed: int,
    image_shape: Shape | None,
    precision: str,
    parts: int,
    apart: Mesh | None,
) -> tuple[Program, nnx.Dict]:
    """The program of a run and its loss terms, which are built for the networks; see `Trainer.compile`."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(f"optimizer={optimizer!r}: give one from jaxkd.optimizers or optax, as in optimizers.sgd(0.05)")
    losses = named_losses(loss, has_teacher=teacher is not None)
    if teacher is not None:
        check_classes(model, teacher)
    shape = image_shape if image_shape is not None else getattr(model, "image_shape", (32, 32, 3))
    build_losses(losses, model, teacher, shape, seed)
    program = Program(
        model=nnx.graphdef(model),
        teacher=None if teacher is None else nnx.graphdef(teacher),
        losses=nnx.graphdef(losses),
        weights=weights_of(list(losses), loss_weights),
        metrics=metrics_of(metrics),
        optimizer=optax.with_extra_args_support(optimizer),
        strong_view=strong_view_of(losses),
        bounds=tuple(watched_bounds(losses).items()),
        precision=checked_precision(precision),
        parts=parts,
        apart=apart,
    )
    return program, losses


def metrics_of(metrics: Sequence[str | Metric]) -> tuple[tuple[str, Metric], ...]:
    """Names and functions of the metrics asked for."""
    return tuple(metric_functions.get(metric) for metric in metrics)


def check_classes(model: nnx.Module, teacher: nnx.Module) -> None:
    """Raises a ValueError where student and teacher tell different numbers of classes apart."""
    ours, theirs = getattr(model, "num_classes", None), getattr(teacher, "num_classes", None)
    if ours and theirs and ours != theirs:
        raise ValueError(f"the student has {ours} classes and the teacher {theirs}: their logits cannot be compared")
