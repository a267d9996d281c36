"""The static half of a run: structures, weights, metrics and optimizer, checked before any work is done.

A program is hashable, so that runs which differ only in arrays (seeds, temperatures, initial weights) share what was
compiled for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxkd import metrics as metric_functions
from jaxkd.losses import CrossEntropy, Loss
from jaxkd.metrics import Metric

Weight = Callable[[jax.Array], jax.Array]
Losses = Loss | Callable | Mapping[str, Loss | Callable]


@dataclass(frozen=True)
class ConstantWeight:
    """A weight that is the same in every epoch; equal to any other of the same value."""

    value: float

    def __call__(self, epoch: jax.Array) -> jax.Array:
        return jnp.float32(self.value)


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
    """

    model: nnx.GraphDef
    teacher: nnx.GraphDef | None
    losses: nnx.GraphDef
    weights: tuple[tuple[str, Weight], ...]
    metrics: tuple[tuple[str, Metric], ...]
    optimizer: optax.GradientTransformationExtraArgs


def named_losses(loss: Losses | None, has_teacher: bool) -> nnx.Dict:
    """The loss terms by name; a single loss goes by the name of its class in lower case.

    Raises:
      ValueError: for no loss at all with a teacher, or a name that cannot be a key of the logs.
      TypeError: for something that is not a loss, such as the class instead of an instance.
    """
    if loss is None:
        if has_teacher:
            raise ValueError('compile() needs a loss, for example {"ce": CrossEntropy(), "kd": KD(temperature=4.0)}')
        loss = CrossEntropy()
    terms = dict(loss) if isinstance(loss, Mapping) else {type(loss).__name__.lower(): loss}
    if not terms:
        raise ValueError("compile() was given no losses: there is nothing to train on")
    for name, term in terms.items():
        if isinstance(term, type) or not callable(term):
            raise TypeError(f"loss {name!r} is {term!r}: give an instance, called as loss(student, teacher, batch, …)")
        if not name.isidentifier() or name == "loss":
            raise ValueError(f"{name!r} cannot name a loss: use an identifier other than 'loss', which is the total")
    return nnx.Dict(terms)


def weights_of(
    names: Sequence[str], loss_weights: Mapping[str, float | Weight] | None
) -> tuple[tuple[str, Weight], ...]:
    """A weight for each loss: the number or function given, otherwise 1.

    Raises:
      ValueError: for a loss that does not exist, or a number that is not finite.
      TypeError: for anything that is neither a number nor a function.
    """
    given = dict(loss_weights or {})
    if unknown := sorted(set(given) - set(names)):
        raise ValueError(f"loss_weights for {', '.join(unknown)}, but the losses are {', '.join(names)}")
    return tuple((name, _as_weight(name, given.get(name, 1.0))) for name in names)


def _as_weight(name: str, weight: float | Weight) -> Weight:
    if callable(weight):
        _check_traceable(name, weight)
        return weight
    if not isinstance(weight, int | float):
        raise TypeError(f"the weight of {name!r} is {weight!r}: give a number or a function of the epoch")
    if not math.isfinite(weight):
        raise ValueError(f"the weight of {name!r} is {weight}: give a finite number")
    return ConstantWeight(float(weight))


def _check_traceable(name: str, weight: Weight) -> None:
    try:
        jax.eval_shape(weight, jax.ShapeDtypeStruct((), jnp.int32))
    except jax.errors.ConcretizationTypeError as error:
        raise ValueError(
            f"the weight of {name!r} cannot be compiled: write it with jax.numpy, for example "
            "lambda epoch: jnp.minimum(epoch / 20, 1.0) instead of min(epoch / 20, 1.0)"
        ) from error


def metrics_of(metrics: Sequence[str | Metric]) -> tuple[tuple[str, Metric], ...]:
    """Names and functions of the metrics asked for."""
    return tuple(metric_functions.get(metric) for metric in metrics)


def check_classes(model: nnx.Module, teacher: nnx.Module) -> None:
    """Raises a ValueError where student and teacher tell different numbers of classes apart."""
    ours, theirs = getattr(model, "num_classes", None), getattr(teacher, "num_classes", None)
    if ours and theirs and ours != theirs:
        raise ValueError(f"the student has {ours} classes and the teacher {theirs}: their logits cannot be compared")
