"""Optimizers whose learning rate is a function of the epoch, and the rate schedules of the distillation papers.

An optimizer is an optax transformation that is told the epoch: `optimizer.update(grads, state, params, epoch=epoch)`.
A schedule is any jit-able function from the epoch, an int32 scalar counted from 1, to the rate used in that epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxkd.base import check_epoch_function

Schedule: TypeAlias = Callable[[jax.Array], jax.Array]

WARMUP_START = 1e-8  # the rate of the first warm-up epoch; the later ones rise from it linearly


class LearningRateState(NamedTuple):
    """State of the learning-rate transformation.

    Attributes:
      learning_rate: float32 scalar, the rate of the last update; before the first one, the rate of epoch 1.
    """

    learning_rate: jax.Array


def sgd(
    learning_rate: float | Schedule, momentum: float = 0.9, weight_decay: float = 0.0, nesterov: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Stochastic gradient descent as `torch.optim.SGD` does it, which every CIFAR recipe assumes.

    The decay is added to the gradient of every parameter (normalisation and learned losses included), then the momentum
    buffer is updated, `v ← momentum·v + g`, and only then the rate applied: a drop of the rate acts on the whole
    buffer at once.

    Args:
      learning_rate: a number ≥ 0, or a function of the epoch.
      momentum: in [0, 1); 0 keeps no buffer.
      weight_decay: ≥ 0, the factor of the parameter in `g + weight_decay·parameter`.
      nesterov: steps along `g + momentum·v` instead of `v`; needs a momentum.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> optimizer = sgd(0.1, momentum=0.0, weight_decay=0.5)
      >>> weight = jnp.array(2.0)
      >>> update, _ = optimizer.update(jnp.array(3.0), optimizer.init(weight), weight, epoch=1)
      >>> print(f"{update:.2f}")                                               # -0.1 · (3 + 0.5 · 2)
      -0.40
    """
    _check("momentum", momentum, below=1.0)
    if nesterov and momentum == 0:
        raise ValueError("nesterov=True needs a momentum above 0, for example momentum=0.9")
    return optax.chain(
        *_weight_decay(weight_decay),
        *([optax.trace(decay=momentum, nesterov=nesterov)] if momentum else []),
        scale_by_learning_rate(learning_rate),
    )


def adam(
    learning_rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformationExtraArgs:
    """Adam (Kingma & Ba, ICLR 2015), as `torch.optim.Adam` computes it.

    Args:
      learning_rate: a number ≥ 0, or a function of the epoch.
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


def adamw(
    learning_rate: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> optax.GradientTransformationExtraArgs:
    """Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019), as `torch.optim.AdamW` computes it.

    Args:
      learning_rate: a number ≥ 0, or a function of the epoch; it scales the decay as well.
      b1: decay of the mean of the gradients, in [0, 1).
      b2: decay of the mean of their squares, in [0, 1).
      eps: added to the root of the mean square.
      weight_decay: ≥ 0; every parameter shrinks by `rate · weight_decay` of itself at each step.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> state = adamw(0.5, weight_decay=0.1).init(jnp.zeros(3))
      >>> print(optax.tree_utils.tree_get(state, "learning_rate"))
      0.5
    """
    _check("b1", b1, below=1.0)
    _check("b2", b2, below=1.0)
    _check("eps", eps)
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        *_weight_decay(weight_decay),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_learning_rate(learning_rate: float | Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by minus the rate of the epoch: the last link of an `optax.chain`.

    The rate stays readable in the state: `optax.tree_utils.tree_get(state, "learning_rate")`.

    Args:
      learning_rate: a number ≥ 0, or a function of the epoch.

    Raises:
      ValueError: for a negative or non-finite number; from `update`, when a schedule is not told the epoch.
      TypeError: for anything that is neither a number nor a function.

    Example:
      >>> optimizer = optax.chain(optax.clip(1.0), scale_by_learning_rate(step_decay(0.1, drops=(2,))))
      >>> state = optimizer.init(jnp.zeros(()))
      >>> for epoch in (1, 2, 3):
      ...     update, state = optimizer.update(jnp.array(7.0), state, epoch=epoch)
      ...     print(f"{update:.2f}")
      -0.10
      -0.10
      -0.01
    """
    schedule = learning_rate if callable(learning_rate) else _constant(learning_rate)
    check_epoch_function("the learning rate", schedule)

    def rate_in(epoch: Any) -> jax.Array:
        return jnp.asarray(schedule(jnp.asarray(epoch, jnp.int32))).astype(jnp.float32)

    def init(params: optax.Params) -> LearningRateState:
        return LearningRateState(rate_in(1))

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
        rate = rate_in(epoch)
        return jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates), LearningRateState(rate)

    return optax.GradientTransformationExtraArgs(init, update)


def step_decay(base: float, drops: Sequence[int] = (150, 180, 210), factor: float = 0.1, warmup: int = 0) -> Schedule:
    """The rate falls by `factor` each time one of `drops` epochs has been completed.

    The default is the 240-epoch CIFAR recipe: epochs 1–150 are trained at `base`, 151–180 at a tenth of it, and so on.
    `drops` count from the start of training, warm-up included.

    Args:
      base: the first rate (after the warm-up), > 0.
      drops: increasing numbers of completed epochs, each above `warmup`.
      factor: > 0, what each drop multiplies the rate with.
      warmup: epochs over which the rate rises linearly from 1e-8; epoch `warmup + 1` is the first at `base`.

    Raises:
      ValueError: for a number outside its range, or drops that do not increase.

    Example:
      >>> rate = step_decay(0.05)
      >>> [f"{rate(epoch):g}" for epoch in (1, 150, 151, 211)]
      ['0.05', '0.05', '0.005', '5e-05']
      >>> [f"{step_decay(0.05, warmup=5)(epoch):g}" for epoch in (1, 2, 6, 7)]
      ['1e-08', '0.01', '0.05', '0.05']
    """
    _check("factor", factor, positive=True)
    drops = tuple(drops)
    if any(later <= earlier for earlier, later in zip((warmup, *drops), drops, strict=False)):
        raise ValueError(
            f"drops={drops} with warmup={warmup}: give increasing numbers of completed epochs, all above the warm-up, "
            "for example drops=(150, 180, 210)"
        )
    # Rounded once, from double precision: powers taken in float32 drift by several units in the last place.
    rates = [base * factor**passed for passed in range(len(drops) + 1)]

    def decay(elapsed: jax.Array) -> jax.Array:
        return jnp.asarray(rates, jnp.float32)[jnp.searchsorted(jnp.asarray(drops, jnp.int32), elapsed, side="right")]

    return _after_warmup(base, warmup, decay)


def cosine_decay(base: float, epochs: int, warmup: int = 0, final: float = 0.0) -> Schedule:
    """The rate falls along half a cosine (Loshchilov & Hutter, ICLR 2017), once per epoch.

    Epoch `e` is trained at `final + (base - final) · (1 + cos(π·t)) / 2`, `t = (e - 1 - warmup) / (epochs - warmup)`:
    `final` would be reached after the last epoch.

    Args:
      base: the first rate (after the warm-up), > 0.
      epochs: length of the whole training, warm-up included; past it the rate is `final`.
      warmup: epochs over which the rate rises linearly from 1e-8; epoch `warmup + 1` is the first at `base`.
      final: what the rate falls to, ≥ 0.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> rate = cosine_decay(0.1, epochs=4)
      >>> [f"{rate(epoch):.4f}" for epoch in (1, 2, 3, 4)]
      ['0.1000', '0.0854', '0.0500', '0.0146']
    """
    _check("final", final)
    part_left = _part_left(epochs, warmup)

    def decay(elapsed: jax.Array) -> jax.Array:
        # (1 + cos(π·t)) / 2 = sin²(π/2·(1 - t)): the form without the cancellation that costs float32 its last epochs.
        return final + (base - final) * jnp.sin(jnp.pi / 2 * part_left(elapsed)) ** 2

    return _after_warmup(base, warmup, decay)


def quadratic_decay(base: float, epochs: int, warmup: int = 0) -> Schedule:
    """The rate falls as the square of the part of training that is left, once per epoch.

    Epoch `e` is trained at `base · (1 - t)²` with `t = (e - 1 - warmup) / (epochs - warmup)`.

    Args:
      base: the first rate (after the warm-up), > 0.
      epochs: length of the whole training, warm-up included; past it the rate is 0.
      warmup: epochs over which the rate rises linearly from 1e-8; epoch `warmup + 1` is the first at `base`.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> rate = quadratic_decay(0.1, epochs=4)
      >>> [f"{rate(epoch):.4f}" for epoch in (1, 2, 3, 4)]
      ['0.1000', '0.0563', '0.0250', '0.0063']
    """
    part_left = _part_left(epochs, warmup)
    return _after_warmup(base, warmup, lambda elapsed: base * part_left(elapsed) ** 2)


def _after_warmup(base: float, warmup: int, decay: Schedule) -> Schedule:
    """A schedule of the epoch, made from the warm-up and a function of the number of epochs completed."""
    _check("base", base, positive=True)
    _check("warmup", warmup)

    def schedule(epoch: jax.Array) -> jax.Array:
        elapsed = jnp.asarray(epoch, jnp.int32) - 1
        if warmup == 0:
            return decay(elapsed)
        rising = WARMUP_START + base / warmup * elapsed.astype(jnp.float32)
        return jnp.where(elapsed <= warmup, rising, decay(elapsed))

    return schedule


def _part_left(epochs: int, warmup: int) -> Schedule:
    """What part of the epochs after the warm-up is still to come, 1 … 0, given the number completed."""
    if epochs <= warmup:
        raise ValueError(f"epochs={epochs} leaves nothing after warmup={warmup}: epochs counts the warm-up as well")
    return lambda elapsed: jnp.maximum(epochs - elapsed, 0).astype(jnp.float32) / (epochs - warmup)


def _weight_decay(weight_decay: float) -> list[optax.GradientTransformation]:
    _check("weight_decay", weight_decay)
    return [optax.add_decayed_weights(weight_decay)] if weight_decay else []


def _constant(learning_rate: float) -> Schedule:
    _check("learning_rate", learning_rate)
    return lambda epoch: jnp.asarray(learning_rate, jnp.float32)


def _check(name: str, value: float, below: float = math.inf, positive: bool = False) -> None:
    """Refuses numbers outside [0, below), and 0 itself where a positive number is needed."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; a number is needed") from None
    if not 0 <= value < below or (positive and value == 0):
        wanted = "a finite number above 0" if positive else "a finite number ≥ 0"
        raise ValueError(f"{name} is {value}; it must be {wanted if below == math.inf else f'in [0, {below:g})'}")
