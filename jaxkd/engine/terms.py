"""The loss terms of a run: their names, weights and parts, checked before any work is done."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.base import Outputs, check_epoch_function
from jaxkd.losses import CrossEntropy, Loss, Monitor, Network

Weight = Callable[[jax.Array], jax.Array]
Shape = tuple[int, int, int]
Losses = Loss | Callable | Mapping[str, Loss | Callable]


@dataclass(frozen=True)
class ConstantWeight:
    """A weight that is the same in every epoch; equal to any other of the same value."""

    value: float

    def __call__(self, epoch: jax.Array) -> jax.Array:
        return jnp.float32(self.value)


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
    terms = dict(loss) if isinstance(loss, Mapping) else {_name(loss): loss}
    if not terms:
        raise ValueError("compile() was given no losses: there is nothing to train on")
    for name, term in terms.items():
        if isinstance(term, type) or not callable(term):
            raise TypeError(f"loss {name!r} is {term!r}: give an instance, called as loss(student, teacher, batch, …)")
        if not name.isidentifier() or name == "loss":
            raise ValueError(f"{name!r} cannot name a loss: use an identifier other than 'loss', which is the total")
    return nnx.Dict(terms)


def _name(loss: Loss | Callable) -> str:
    return getattr(loss, "__name__", type(loss).__name__).lower()


def build_losses(
    losses: nnx.Dict, model: nnx.Module, teacher: nnx.Module | None, image_shape: Shape, seed: int
) -> None:
    """Lets every part of the losses that has a `build` make what depends on the shapes of the networks' features.

    Raises:
      ValueError: for images a network cannot take, and for what a loss misses.
    """
    parts = [part for _, part in nnx.iter_modules(losses) if hasattr(part, "build")]
    if parts:
        networks = [None if one is None else Network(one, _output_shapes(one, image_shape)) for one in (model, teacher)]
        rngs = nnx.Rngs(seed)
        for part in parts:
            part.build(*networks, rngs)


def _output_shapes(model: nnx.Module, image_shape: Shape) -> Outputs:
    graph, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    try:
        return jax.eval_shape(lambda images: nnx.merge(graph, state)(images, train=False), images)
    except (TypeError, ValueError) as error:
        name = getattr(model, "name", type(model).__name__)
        raise ValueError(
            f"{name} cannot take images of shape {image_shape} (compile's image_shape): {error}"
        ) from error


def strong_view_of(losses: nnx.Dict) -> Callable | None:
    """The strong augmentation that a loss asks for by an attribute `strong_view`.

    Raises:
      ValueError: for two that differ; there is one strong view of a batch.
    """
    views = {view for _, part in nnx.iter_modules(losses) if (view := getattr(part, "strong_view", None)) is not None}
    if len(views) > 1:
        raise ValueError(f"the losses ask for different strong views: {', '.join(map(str, views))}")
    return views.pop() if views else None


def watched_bounds(losses: nnx.Dict) -> dict[str, tuple[float, float]]:
    """The bounds of the monitored values that have any, by their names in the logs."""
    found = nnx.to_flat_state(nnx.state(losses, Monitor))
    metadata = {log_name(path): variable.get_metadata() for path, variable in found}
    return {name: (given["low"], given["high"]) for name, given in metadata.items() if {"low", "high"} <= given.keys()}


def log_name(path: tuple) -> str:
    """The name of a monitored value in the logs: that of its term and that of its attribute.

    Example:
      >>> log_name(("kd", "temperature", "lambda_"))
      'kd_lambda'
    """
    return f"{path[0]}_{str(path[-1]).rstrip('_')}"


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
        check_epoch_function(f"the weight of {name!r}", weight)
        return weight
    if not isinstance(weight, numbers.Real):
        raise TypeError(f"the weight of {name!r} is {weight!r}: give a number or a function of the epoch")
    if not math.isfinite(weight):
        raise ValueError(f"the weight of {name!r} is {weight}: give a finite number")
    return ConstantWeight(float(weight))
