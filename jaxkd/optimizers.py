"""Optimizers whose learning rate is a number or a function of the epoch, and the schedules for it.

Optax's schedules, which count steps, are taken as such.

An optimizer is an optax transformation that takes the epoch: `optimizer.update(grads, state, params, epoch=epoch)`.
Training also tells it `stacked`, the paths among the parameters where an array holds those of several equal blocks.
Equal arguments return the same object, so that runs with equal optimizers share one compiled program.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxkd.checks import check_epoch_function, check_number
from jaxkd.nn.outputs import is_under
from jaxkd.nn.stack import several_blocks
from jaxkd.schedules import Schedule, cosine_decay, quadratic_decay, remembered, step_decay, timm_cosine

__all__ = [
    "adam",
    "adamw",
    "by_layer",
    "clipped",
    "cosine_decay",
    "kernels",
    "lamb",
    "quadratic_decay",
    "scale_by_epoch_rate",
    "sgd",
    "step_decay",
    "timm_cosine",
]

Mask = Callable[[optax.Params], Any]
"""From parameters to booleans of the same structure; a named function, since equal ones make equal programs."""


class LearningRateState(NamedTuple):
    """The state of `scale_by_epoch_rate`.

    Attributes:
      learning_rate: float32 scalar, the rate of the last update; before the first one, the rate of epoch 1.
      rate_factor: float32 scalar, by which the schedule's rate is multiplied: 1, unless a callback changes it.
    """

    learning_rate: jax.Array
    rate_factor: jax.Array


class StepRateState(NamedTuple):
    """State of the learning-rate transformation, for a schedule that counts steps.

    Attributes:
      learning_rate: float32 scalar, the rate of the last update; before the first one, that of step 0.
      rate_factor: as in `LearningRateState`.
      steps: int32 scalar, the updates so far.
    """

    learning_rate: jax.Array
    rate_factor: jax.Array
    steps: jax.Array


@remembered
def sgd(
    learning_rate: float | Schedule,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return stochastic gradient descent as `torch.optim.SGD` computes it, which every CIFAR recipe assumes.

    The decay is added to the gradient of every parameter (normalisation and learned losses included), then the momentum
    buffer is updated, `v ← momentum·v + g`, and then the rate is applied: a drop of the rate acts on the whole buffer
    at once.

    Args:
      learning_rate: a number ≥ 0, a function of the epoch (counted from 1), or one of optax's schedules, which count
        steps.
      momentum: in [0, 1); 0 keeps no buffer. The default is that of all recipes, where PyTorch's and Keras's is 0.
      weight_decay: ≥ 0, the factor of the parameter in `g + weight_decay·parameter`.
      nesterov: whether to step along `g + momentum·v` instead of `v`; needs a momentum.
      mask: says which parameters decay, such as `kernels`; all by default.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> optimizer = sgd(0.1, momentum=0.0, weight_decay=0.5)
      >>> weight = jnp.array(2.0)
      >>> update, _ = optimizer.update(jnp.array(3.0), optimizer.init(weight), weight, epoch=1)
      >>> print(f"{update:.2f}")                                               # -0.1 · (3 + 0.5 · 2)
      -0.40
    """
    check_number("momentum", momentum, below=1.0)
    if nesterov and momentum == 0:
        raise ValueError("nesterov=True needs a momentum above 0, for example momentum=0.9")
    return optax.chain(
        *_weight_decay(weight_decay, mask),
        *([optax.trace(decay=momentum, nesterov=nesterov)] if momentum else []),
        scale_by_epoch_rate(learning_rate),
    )


@remembered
def adam(
    learning_rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformationExtraArgs:
    """Return Adam (Kingma & Ba, ICLR 2015), as `torch.optim.Adam` computes it.

    Args:
      learning_rate: a number ≥ 0, a function of the epoch (counted from 1), or one of optax's schedules, which count
        steps.
      b1: decay of the mean of the gradients, in [0, 1).
      b2: decay of the mean of their squares, in [0, 1).
      eps: added to the root of the mean square.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> optimizer = adam(cosine_decay(0.001, epochs=100))
      >>> adam(0.001, b1=1.0)
      Traceback (most recent call last):
      ValueError: b1 is 1.0; it must be in [0, 1)
    """
    return adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=0.0)


@remembered
def adamw(
    learning_rate: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019), as `torch.optim.AdamW` computes it.

    Args:
      learning_rate: a number ≥ 0, a function of the epoch (counted from 1), or one of optax's schedules, which count
        steps; it scales the decay as well.
      b1: decay of the mean of the gradients, in [0, 1).
      b2: decay of the mean of their squares, in [0, 1).
      eps: added to the root of the mean square.
      weight_decay: ≥ 0; every parameter shrinks by `rate · weight_decay` of itself at each step.
      mask: says which parameters decay, such as `kernels`; all by default.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> state = adamw(0.5, weight_decay=0.1).init(jnp.zeros(3))
      >>> print(optax.tree_utils.tree_get(state, "learning_rate"))
      0.5
    """
    return optax.chain(
        _adam_direction(b1, b2, eps), *_weight_decay(weight_decay, mask), scale_by_epoch_rate(learning_rate)
    )


@remembered
def lamb(
    learning_rate: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return LAMB (You et al., ICLR 2020), for large batches: AdamW whose steps are as long as the weights, by layers.

    The update of each parameter that the mask names is scaled to `rate` times the parameter's own length, without any
    decay too (where timm takes Adam's step); those of others are Adam's, as in timm. Equal blocks that training keeps
    in one array are scaled one by one, as if each had its own.
    With `clipped(…, 1.0)` it is what timm's `lamb` does by default.

    Args:
      learning_rate: a number ≥ 0, a function of the epoch (counted from 1), or one of optax's schedules, which count
        steps.
      b1: decay of the mean of the gradients, in [0, 1).
      b2: decay of the mean of their squares, in [0, 1).
      eps: added to the root of the mean square.
      weight_decay: ≥ 0, the factor of the parameter in the update before it is scaled.
      mask: says which parameters decay, such as `kernels`; all by default.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> optimizer = clipped(lamb(timm_cosine(0.008, epochs=300, warmup=5), weight_decay=0.02, mask=kernels), norm=1.0)
    """
    trust = _scale_by_trust_ratio()
    return optax.chain(
        _adam_direction(b1, b2, eps),
        *_weight_decay(weight_decay, mask),
        trust if mask is None else optax.masked(trust, mask),
        scale_by_epoch_rate(learning_rate),
    )


@remembered
def clipped(optimizer: optax.GradientTransformation, norm: float) -> optax.GradientTransformationExtraArgs:
    """Return an optimizer whose gradients, taken together, are at most so long: `torch.nn.utils.clip_grad_norm_`.

    The length is that over everything that is trained, what the losses learn included.

    Args:
      optimizer: gets the gradients, shortened where they are longer.
      norm: the largest length, > 0.

    Raises:
      ValueError: for a norm that is not above 0.

    Example:
      >>> optimizer = clipped(sgd(1.0, momentum=0.0), norm=1.0)
      >>> gradients = jnp.array([3.0, 4.0])
      >>> print(optimizer.update(gradients, optimizer.init(gradients), gradients, epoch=1)[0])
      [-0.6 -0.8]
    """
    check_number("norm", norm, positive=True)
    return optax.with_extra_args_support(optax.chain(optax.clip_by_global_norm(norm), optimizer))


def kernels(params: optax.Params) -> Any:
    """Return which parameters weight decay is usually meant for: kernels of layers, and no biases, norms or tokens.

    Left out are biases, scales, position embeddings, tokens and single vectors, as timm does it. Blocks that are
    stacked are seen as single ones.

    Example:
      >>> kernels({"fc": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}, "cls_token": jnp.zeros((1, 1, 2))})
      {'cls_token': False, 'fc': {'bias': False, 'kernel': True}}
    """
    return jax.tree_util.tree_map_with_path(_is_kernel, params)


def _is_kernel(path: tuple[Any, ...], value: Any) -> bool:
    names = [key for key in path_keys(path) if isinstance(key, str)]  # blocks that are apart have a number behind it
    name = names[-1] if names else ""
    if name == "kernel":
        return True
    return jnp.ndim(value) >= 2 and not any(mark in name for mark in _UNDECAYED)


_UNDECAYED = ("bias", "scale", "gamma", "token", "position", "pos_embed")
"""Parts of the names of parameters that do not decay, however many axes they have."""


def _adam_direction(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    check_number("b1", b1, below=1.0)
    check_number("b2", b2, below=1.0)
    check_number("eps", eps)
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of a count
            return adam.update(updates, state, params)

    return optax.GradientTransformation(adam.init, update)


def _scale_by_trust_ratio() -> optax.GradientTransformationExtraArgs:
    """Scale the update of each parameter to the parameter's own length, of stacked blocks each by itself."""

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        stacked: tuple[tuple[Any, ...], ...] = (),
        **unused: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        def scaled(path: tuple[Any, ...], change: jax.Array, param: jax.Array) -> jax.Array:
            keys = path_keys(path)
            stacks = sum(keys[: len(one)] == one for one in stacked)
            ours, theirs = (
                jnp.sqrt(jnp.sum(jnp.square(value), tuple(range(stacks, value.ndim)), keepdims=True))
                for value in (param, change)
            )
            defined = (ours > 0) & (theirs > 0)
            return change * jnp.where(defined, ours / jnp.where(defined, theirs, 1), 1)

        return jax.tree_util.tree_map_with_path(scaled, updates, params), state

    return optax.GradientTransformationExtraArgs(optax.identity().init, update)


def path_keys(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a path in a tree as plain names and numbers."""
    return tuple(getattr(key, "key", getattr(key, "idx", key)) for key in path)


def by_layer(
    otherwise: optax.GradientTransformation, layers: Mapping[str, optax.GradientTransformation]
) -> optax.GradientTransformationExtraArgs:
    """Return an optimizer that updates some layers of the network by another one: PyTorch's parameter groups.

    Fine-tuning gives a fresh classifier a higher rate than what was trained before. The logs show the learning rate of
    `otherwise`. To freeze layers, name the others in `compile(trainable=…)`.

    Args:
      otherwise: for all that is not named, and for what the losses learn.
      layers: an optimizer for each name, as in "fc" and "layer4.0"; see `models.head`.

    Raises:
      ValueError: from `init`, and so from `compile`, for a layer without parameters that are trained, or a name that
        stands for several blocks.

    Example:
      >>> optimizer = by_layer(sgd(0.01, momentum=0.0), {"fc": sgd(0.1, momentum=0.0)})
      >>> params = {"model": {"conv": jnp.array(1.0), "fc": {"bias": jnp.array(1.0)}}}
      >>> updates, _ = optimizer.update(params, optimizer.init(params), params, epoch=1)
      >>> print(f"{updates['model']['conv']:.2f} {updates['model']['fc']['bias']:.2f}")
      -0.01 -0.10
    """
    return _by_layer(otherwise, tuple(layers.items()))


@remembered
def _by_layer(
    otherwise: optax.GradientTransformation, layers: tuple[tuple[str, optax.GradientTransformation], ...]
) -> optax.GradientTransformationExtraArgs:
    names = [name for name, _ in layers]
    for one, other in itertools.permutations(names, 2):
        if is_under(one, other.split(".")):
            raise ValueError(f"{other!r} is a part of {one!r}: name one of them")

    def group(path: tuple[Any, ...]) -> str:
        return next((name for name in names if is_under(f"model.{name}", path_keys(path))), "")

    def groups(params: optax.Params) -> Any:
        found = jax.tree_util.tree_map_with_path(lambda path, _: group(path), params)
        if missing := set(names) - set(jax.tree.leaves(found)):
            known = ", ".join(params["model"]) if isinstance(params, dict) and "model" in params else "none"
            raise ValueError(f"no layer {sorted(missing)[0]!r} is trained; at the network's top are {known}")
        for name in names:
            if _is_a_row(name, params):
                raise ValueError(f"by_layer: {name!r}: {several_blocks(name)}")
        return found

    # The empty name sorts first: its rate is the one that the logs show.
    return optax.with_extra_args_support(optax.partition({"": otherwise, **dict(layers)}, groups))


def _is_a_row(name: str, params: Any) -> bool:
    """Return whether a name is that of equal blocks, all of whose parameters have the same first axis."""
    leaves = [(path_keys(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    own = [(keys, leaf) for keys, leaf in leaves if is_under(f"model.{name}", keys)]
    inside, numbered = 1 + len(name.split(".")), any(map(str.isdigit, name.rpartition(".")[2]))
    blocks = numbered and all(keys[inside : inside + 1] == ("block",) for keys, _ in own)
    return blocks and len({jnp.shape(leaf)[:1] for _, leaf in own}) == 1


def scale_by_epoch_rate(learning_rate: float | Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiply updates by minus the rate of the epoch: the last link of an `optax.chain`.

    The state holds the rate, `optax.tree_utils.tree_get(state, "learning_rate")`, and a factor of it, which a callback
    may change: `optax.tree_utils.tree_set(state, rate_factor=jnp.float32(0.1))`.

    Args:
      learning_rate: a number ≥ 0, a function of the epoch (counted from 1), or one of optax's schedules, which count
        steps.

    Raises:
      ValueError: for a negative or non-finite number; from `update`, where a schedule is not given the epoch.
      TypeError: for anything that is neither a number nor a function.

    Example:
      >>> optimizer = optax.chain(optax.clip(1.0), scale_by_epoch_rate(step_decay(0.1, drops=(2,))))
      >>> state = optimizer.init(jnp.zeros(()))
      >>> for epoch in (1, 2, 3):
      ...     update, state = optimizer.update(jnp.array(7.0), state, epoch=epoch)
      ...     print(f"{update:.2f}")
      -0.10
      -0.10
      -0.01
    """
    if counts_steps(learning_rate):
        return _scale_by_step_rate(learning_rate)
    schedule = learning_rate if callable(learning_rate) else _constant(learning_rate)
    check_epoch_function("the learning rate", schedule)

    def rate_in(epoch: Any) -> jax.Array:
        return jnp.asarray(schedule(jnp.asarray(epoch, jnp.int32))).astype(jnp.float32)

    def init(params: optax.Params) -> LearningRateState:
        return LearningRateState(rate_in(1), jnp.float32(1.0))

    def update(
        updates: optax.Updates,
        state: LearningRateState,
        params: optax.Params | None = None,
        *,
        epoch: jax.Array | int | None = None,
        **unused: Any,
    ) -> tuple[optax.Updates, LearningRateState]:
        if epoch is None:
            if callable(learning_rate):
                raise ValueError(
                    "the learning rate is a function of the epoch, but update() was not told it: call "
                    "optimizer.update(gradients, state, params, epoch=epoch), epochs counted from 1"
                )
            epoch = 1
        rate = rate_in(epoch) * state.rate_factor
        after = LearningRateState(rate, state.rate_factor)
        return jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates), after

    return optax.GradientTransformationExtraArgs(init, update)


def counts_steps(schedule: Any) -> bool:
    """Return whether a schedule is one of optax's, which are functions of the steps taken.

    Example:
      >>> counts_steps(optax.cosine_decay_schedule(0.1, 39_000)), counts_steps(cosine_decay(0.1, epochs=100))
      (True, False)
    """
    return callable(schedule) and str(getattr(schedule, "__module__", "")).partition(".")[0] == "optax"


def _scale_by_step_rate(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiply updates by minus the rate at the number of steps taken."""

    def rate_at(count: jax.Array) -> jax.Array:
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules multiply counts by fractions
            return jnp.asarray(schedule(count)).astype(jnp.float32)

    def init(params: optax.Params) -> StepRateState:
        return StepRateState(rate_at(jnp.int32(0)), jnp.float32(1.0), jnp.int32(0))

    def update(
        updates: optax.Updates, state: StepRateState, params: optax.Params | None = None, **unused: Any
    ) -> tuple[optax.Updates, StepRateState]:
        rate = rate_at(state.steps) * state.rate_factor
        after = StepRateState(rate, state.rate_factor, optax.safe_increment(state.steps))
        return jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates), after

    return optax.GradientTransformationExtraArgs(init, update)


def _weight_decay(weight_decay: float, mask: Mask | None) -> list[optax.GradientTransformation]:
    check_number("weight_decay", weight_decay)
    return [optax.add_decayed_weights(weight_decay, mask)] if weight_decay else []


def _constant(learning_rate: float) -> Schedule:
    check_number("learning_rate", learning_rate)
    return lambda epoch: jnp.asarray(learning_rate, jnp.float32)
