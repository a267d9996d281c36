"""The static half of a run: everything a step closes over, checked before any work is done.

A program is hashable, so that runs which differ only in arrays (seeds, temperatures, initial weights) share what was
compiled for it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from jaxkd import metrics as metric_functions
from jaxkd.checks import check_epoch_function
from jaxkd.data.transforms.mixing import Mixing
from jaxkd.data.transforms.pad_crop_flip import Augmentation
from jaxkd.data.transforms.policies import RandAugment
from jaxkd.losses import CrossEntropy, Loss, Monitor, Network
from jaxkd.losses.base import HyperParameter, buildable
from jaxkd.metrics import Metric
from jaxkd.nn.modes import Trainable, checked_trainable
from jaxkd.nn.stack import stacked_paths
from jaxkd.training.ema import EMA, checked_ema
from jaxkd.training.forward import checked_precision, output_shapes
from jaxkd.training.optimizer_calls import with_named_arguments
from jaxkd.training.state import TrainState
from jaxkd.types import Outputs

Weight = Callable[[jax.Array], jax.Array]
Shape = tuple[int, int, int]
Augment = Callable[[jax.Array, jax.Array], jax.Array]
Term = Loss | Callable[..., jax.Array]
Losses = Term | Mapping[str, Term]

STRONG_VIEWS = {"rand_augment": RandAugment()}
"""Strong views by the name that a loss may ask for in its attribute `strong_view`."""


RESERVED = ("epoch", "learning_rate", "images_per_second", "teacher_cache_hits")
"""Names that training itself gives to what it logs; `val_…` is for what is measured on validation data."""


@dataclass(frozen=True)
class ConstantWeight:
    """A weight that is the same in every epoch; equal to any other of the same value."""

    value: float

    def __call__(self, epoch: jax.Array) -> jax.Array:
        return jnp.float32(self.value)


def named_losses(loss: Losses | None, has_teacher: bool) -> nnx.Dict[Term]:
    """Return the loss terms by name; a single loss goes by the name of its class in lower case.

    Raises:
      ValueError: for no loss at all with a teacher, or a name that cannot be a key of the logs.
      TypeError: for something that is not a loss, such as the class instead of an instance.
    """
    if loss is None:
        if has_teacher:
            raise ValueError('compile() needs a loss, for example {"ce": CrossEntropy(), "kd": KD(temperature=4.0)}')
        loss = CrossEntropy()
    terms = dict(loss) if isinstance(loss, Mapping) else {loss if isinstance(loss, str) else _name(loss): loss}
    if not terms:
        raise ValueError("compile() was given no losses: there is nothing to train on")
    for name, term in terms.items():
        if isinstance(term, type) or not callable(term):
            raise TypeError(
                f"loss {name!r} is {term!r}: give an instance, called as loss(student, teacher, batch, …), such as "
                "losses.KD(temperature=4.0); recipes.get_method(name) makes those of a published method"
            )
        if not name.isidentifier() or name == "loss":
            raise ValueError(f"{name!r} cannot name a loss: use an identifier other than 'loss', which is the total")
    return nnx.Dict(terms)


def _name(loss: Term) -> str:
    return getattr(loss, "__name__", type(loss).__name__).lower()


def build_losses(
    losses: nnx.Dict[Term], model: nnx.Module, teacher: nnx.Module | None, image_shape: Shape, seed: int
) -> None:
    """Build every part of the losses that depends on the shapes of the networks' features.

    Raises:
      ValueError: for images a network cannot take, and for what a loss misses.
    """
    if parts := buildable(losses):
        student, other = (
            None if one is None else Network(one, _measured(one, image_shape)) for one in (model, teacher)
        )
        rngs = nnx.Rngs(seed)
        for part in parts:
            part.build(student, other, rngs)


def _measured(model: nnx.Module, image_shape: Shape) -> Outputs:
    try:
        return output_shapes(model, image_shape)
    except (TypeError, ValueError) as error:
        name = name_of(model)
        raise ValueError(
            f"{name} cannot take images of shape {image_shape} (compile's image_shape): {error}"
        ) from error


def name_of(network: nnx.Module) -> str:
    """Return a network's name, or that of its class."""
    return getattr(network, "name", None) or type(network).__name__


def strong_view_of(losses: nnx.Dict[Term]) -> Augment | None:
    """Return the strong augmentation that a loss asks for by an attribute `strong_view`, a function or a name.

    Raises:
      ValueError: for two that differ, since a batch has one strong view; for an unknown name.
    """
    wanted = {view for _, part in nnx.iter_modules(losses) if (view := getattr(part, "strong_view", None)) is not None}
    if unknown := {view for view in wanted if isinstance(view, str)} - STRONG_VIEWS.keys():
        raise ValueError(f"no strong view is called {unknown.pop()!r}; there is {', '.join(STRONG_VIEWS)}")
    views = {STRONG_VIEWS[view] if isinstance(view, str) else view for view in wanted}
    if len(views) > 1:
        raise ValueError(f"the losses ask for different strong views: {', '.join(map(str, views))}")
    return views.pop() if views else None


def index_readers_of(losses: nnx.Dict[Term]) -> tuple[str, ...]:
    """Return the names of the losses, or parts of them, that declare `needs_index`."""
    found = [type(part).__name__ for _, part in nnx.iter_modules(losses) if getattr(part, "needs_index", False)]
    return tuple(dict.fromkeys(found))


def checked_mixing(mixing: Mixing | None, losses: nnx.Dict[Term]) -> Mixing | None:
    """Return how batches are mixed, if the losses can be computed of mixed images.

    Raises:
      TypeError: for anything but a `data.Mixing`.
      ValueError: for losses that remember single examples.
    """
    if mixing is not None and not isinstance(mixing, Mixing):
        raise TypeError(f"mixing={mixing!r}: give data.Mixing(mixup_alpha=0.8, cutmix_alpha=1.0), or None")
    if mixing is not None and (readers := index_readers_of(losses)):
        raise ValueError(
            f"{', '.join(readers)} remembers each example by its place in the data, and a mixed image is none of them: "
            "leave out the mixing, or the loss"
        )
    return mixing


def checked_augment(augment: Augment | Sequence[Augment] | None) -> tuple[Augment, ...]:
    """Return the augmentations of a batch, in their order.

    Raises:
      TypeError: for what is none, or cannot be told from others by its hash.
    """
    given = () if augment is None else augment if isinstance(augment, Sequence) else (augment,)
    example = "data.TrivialAugment(), or several, as in [data.TrivialAugment(), data.RandomErasing(0.25)]"
    if isinstance(given, str):
        raise TypeError(f"augment={given!r}: give data.policy({given!r}), {example}")
    for one in given:
        if isinstance(one, type) or not callable(one) or isinstance(one, Augmentation):
            cure = "set dataset.replace(augmentation=…)" if isinstance(one, Augmentation) else f"give {example}"
            raise TypeError(f"augment={one!r}: {cure}")
        try:
            hash(one)
        except TypeError as error:
            raise TypeError(f"augment={one!r} has no hash: make it a function or a frozen dataclass") from error
    return tuple(given)


def watched_bounds(losses: nnx.Dict[Term]) -> dict[str, tuple[float, float]]:
    """Return the bounds of the monitored values that have any, by their names in the logs."""
    found = nnx.to_flat_state(nnx.state(losses, Monitor))
    metadata = {log_name(path): variable.get_metadata() for path, variable in found}
    return {name: (given["low"], given["high"]) for name, given in metadata.items() if {"low", "high"} <= given.keys()}


def log_name(path: tuple[Any, ...]) -> str:
    """Return the name of a monitored value in the logs: that of its term and that of its attribute.

    Example:
      >>> log_name(("kd", "temperature", "lambda_"))
      'kd_lambda'
    """
    return f"{path[0]}_{str(path[-1]).rstrip('_')}"


def weights_of(
    names: Sequence[str], loss_weights: Mapping[str, float | Weight] | None
) -> tuple[tuple[str, Weight], ...]:
    """Return a weight for each loss: the number or function given, otherwise 1.

    Raises:
      ValueError: for a loss that does not exist, or a number that is not finite.
      TypeError: for anything that is neither a number nor a function, and for weights that do not say of which loss.
    """
    if not isinstance(loss_weights, Mapping | None):
        example = ", ".join(f'"{name}": 1.0' for name in names)
        raise TypeError(f"loss_weights={loss_weights!r}: give them by the names of the losses, as in {{{example}}}")
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


@dataclass(frozen=True)
class Program:
    """Everything a step closes over.

    Attributes:
      model: structure of the network that is trained.
      teacher: structure of the teacher, or None.
      losses: structure of the loss terms, an `nnx.Dict` by name.
      weights: `(name, weight)` of each term; a weight is a function of the epoch counted from 1.
      metrics: `(name, metric)`.
      optimizer: whose `update` is told the epoch, and what is stacked.
      strong_view: the strong augmentation a loss asks for, called as `(key, images)`.
      bounds: `(name, (low, high))` of monitored values that are watched.
      precision: what the networks compute in, one of `PRECISIONS`.
      microbatches: how many a batch is computed in, one after the other.
      bn_mesh: the devices on each of which BatchNorm sees its own part of the batch; None where it sees all of it.
      index_readers: names of the losses that need the true index of each example.
      trainable: the layers that are trained; None where all are.
      augment: what is applied to the images of a batch, one after the other, called as `(key, images)`.
      mixing: how the images of a batch are mixed; None where they are not.
      ema: how the weights are averaged; None where they are not.
      stacked: where among the parameters each array holds those of several blocks.
    """

    model: nnx.GraphDef[Any]
    teacher: nnx.GraphDef[Any] | None
    losses: nnx.GraphDef[Any]
    weights: tuple[tuple[str, Weight], ...]
    metrics: tuple[tuple[str, Metric], ...]
    optimizer: optax.GradientTransformationExtraArgs
    strong_view: Augment | None
    bounds: tuple[tuple[str, tuple[float, float]], ...]
    precision: str
    microbatches: int
    bn_mesh: Mesh | None
    index_readers: tuple[str, ...] = ()
    trainable: Trainable | None = None
    augment: tuple[Augment, ...] = ()
    mixing: Mixing | None = None
    ema: EMA | None = None
    stacked: tuple[tuple[Any, ...], ...] = ()

    @property
    def averaged(self) -> list[str]:
        """The logs that an epoch averages over its examples: the total, every term and every metric."""
        return ["loss", *(name for name, _ in (*self.weights, *self.metrics))]

    def constants(self, state: TrainState) -> dict[str, np.ndarray]:
        """Return the hyper-parameters of the losses in a state, by their names, such as `kd.temperature`."""
        losses = nnx.merge(self.losses, state.params["losses"], state.variables["losses"])
        found = nnx.to_flat_state(nnx.state(losses, HyperParameter))
        return {".".join(map(str, path)).removesuffix(".value"): np.asarray(variable[...]) for path, variable in found}

    def __post_init__(self) -> None:
        if clash := {name for name, _ in self.weights} & {name for name, _ in self.metrics}:
            raise ValueError(f"a loss and a metric are both called {', '.join(sorted(clash))}: rename the loss")
        for name in self.averaged:
            if name in RESERVED or name.startswith("val_"):
                raise ValueError(f"a loss or a metric is called {name!r}, as training calls something else: rename it")
        for name, metric in self.metrics:
            if name == "loss":
                raise ValueError("a metric is called 'loss', which is the total: rename the function")
            if any(other is not metric for known, other in self.metrics if known == name):
                raise ValueError(f"two metrics are called {name!r}: give the functions names of their own")


def build_program(
    model: nnx.Module,
    teacher: nnx.Module | None,
    *,
    optimizer: optax.GradientTransformation,
    loss: Losses | None,
    loss_weights: Mapping[str, float | Weight] | None,
    metrics: Sequence[str | Metric],
    seed: int,
    image_shape: Shape | None,
    precision: str,
    microbatches: int,
    bn_mesh: Mesh | None,
    trainable: str | Iterable[str] | None = None,
    augment: Augment | Sequence[Augment] | None = None,
    mixing: Mixing | None = None,
    ema: EMA | None = None,
) -> tuple[Program, nnx.Dict[Term]]:
    """Return the program of a run and its loss terms, built for the networks; see `Trainer.compile`."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(
            f"optimizer={optimizer!r}: give one from jaxkd.optimizers or optax with its learning rate, as in "
            "optimizers.sgd(0.05, momentum=0.9)"
        )
    losses = named_losses(loss, has_teacher=teacher is not None)
    if teacher is not None:
        check_classes(model, teacher)
    shape = image_shape or getattr(model, "image_shape", None) or (32, 32, 3)
    build_losses(losses, model, teacher, shape, seed)
    for part in (losses, model, *([] if teacher is None else [teacher])):
        check_attributes(part)
    stacked = tuple(("model", *path) for path in stacked_paths(model))
    program = Program(
        model=_structure(model),
        teacher=None if teacher is None else _structure(teacher),
        losses=nnx.graphdef(losses),
        weights=weights_of(list(losses), loss_weights),
        metrics=metrics_of(metrics),
        optimizer=with_named_arguments(optimizer, stacked),
        strong_view=strong_view_of(losses),
        bounds=tuple(watched_bounds(losses).items()),
        precision=checked_precision(precision),
        microbatches=microbatches,
        bn_mesh=bn_mesh,
        index_readers=index_readers_of(losses),
        augment=checked_augment(augment),
        mixing=checked_mixing(mixing, losses),
        ema=checked_ema(ema),
        trainable=checked_trainable(model, trainable),
        stacked=stacked,
    )
    return program, losses


def _structure(network: nnx.Module) -> nnx.GraphDef[Any]:
    """Return the structure of a network without where its weights are from: networks of one kind share a program."""
    if not hasattr(network, "source"):
        return nnx.graphdef(network)
    plain: Any = nnx.merge(*nnx.split(network))
    del plain.source
    return nnx.graphdef(plain)


def check_attributes(module: nnx.Module) -> None:
    """Refuse a network or losses with attributes that have no hash, such as lists, since programs are told apart by it.

    Also variables that hold more than an array.

    Raises:
      TypeError: with the attribute, and the cure.
    """
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        if isinstance(variable, nnx.Variable) and isinstance(variable.get_value(), Mapping | list | tuple):
            value = variable.get_value()
            raise TypeError(
                f"{'.'.join(map(str, path))} is one {type(variable).__name__} of a {type(value).__name__}: make each "
                "array one, as in self.params = nnx.data(jax.tree.map(nnx.Param, params))"
            )
    try:
        hash(nnx.graphdef(module))
    except TypeError as error:
        for path, part in nnx.iter_modules(module):
            for name, value in vars(part).items():
                if isinstance(value, list | dict | set):
                    owner = ".".join(map(str, path)) or type(part).__name__
                    raise TypeError(
                        f"{owner}.{name} is a {type(value).__name__}, by which programs cannot be told apart: make it "
                        "a tuple, or nnx.List or nnx.Dict of modules"
                    ) from error
        raise


def metrics_of(metrics: Sequence[str | Metric]) -> tuple[tuple[str, Metric], ...]:
    """Return names and functions of the metrics asked for; raise a TypeError for one that is not in a list."""
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        raise TypeError(f"metrics={metrics!r}: give a list, such as ['accuracy', 'top5'] or []")
    return tuple(metric_functions.get(metric) for metric in metrics)


def per_example(name: str, metric: Metric, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return what a metric says of each example, `[B]`.

    Raises:
      ValueError: for another shape, of which no mean over the examples can be taken.

    Example:
      >>> per_example("mean", lambda logits, labels: jnp.mean(logits), jnp.zeros((2, 3)), jnp.array([0, 1]))
      Traceback (most recent call last):
      ValueError: metric 'mean' returned shape () for 2 examples: return a number for each, [B]; their mean over the ...
    """
    values = metric(logits, labels)
    if jnp.shape(values) != labels.shape:
        raise ValueError(
            f"metric {name!r} returned shape {jnp.shape(values)} for {len(labels)} examples: return a number for each, "
            "[B]; their mean over the whole data is taken for you"
        )
    return values


def check_classes(model: nnx.Module, teacher: nnx.Module) -> None:
    """Refuse a student and a teacher with different numbers of classes."""
    ours, theirs = getattr(model, "num_classes", None), getattr(teacher, "num_classes", None)
    if ours and theirs and ours != theirs:
        raise ValueError(f"the student has {ours} classes and the teacher {theirs}: their logits cannot be compared")
