"""Schedules of the distillation papers, for learning rates and loss weights: functions of the epoch.

A schedule is any jit-able function from the epoch, an int32 scalar counted from 1, to the rate used in that epoch.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from jaxkd.checks import check_number

Given = ParamSpec("Given")
Made = TypeVar("Made")


def remembered(make: Callable[Given, Made]) -> Callable[Given, Made]:
    """Make a function return the same object whenever its arguments are equal, lists counting as tuples.

    What it returns is compared by identity (a closure, say), and so becomes comparable: a program that holds it equals
    another that holds one made alike, and need not be compiled again. Arguments without a hash are simply not
    remembered.

    Example:
      >>> @remembered
      ... def scaling(factors):
      ...     return lambda value: value * factors[0]
      >>> scaling([2, 3]) is scaling((2, 3)), scaling({}) is scaling({})
      (True, False)
    """
    kept = functools.lru_cache(maxsize=128, typed=True)(make)

    @functools.wraps(make)
    def made(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        args = tuple(map(_hashable, args))  # type: ignore[assignment]
        kwargs = {name: _hashable(value) for name, value in kwargs.items()}  # type: ignore[assignment]
        try:
            result = kept(*args, **kwargs)  # type: ignore[arg-type]
        except TypeError:  # no hash, or a mistake in the arguments, which is then reported as usual
            result = make(*args, **kwargs)
        if all(known is not result for known, _ in _CALLS):
            given = [*map(_shown, args), *(f"{name}={_shown(value)}" for name, value in kwargs.items())]
            _CALLS.append((result, f"{make.__name__.lstrip('_')}({', '.join(given)})"))
        return result

    return made


_CALLS: deque[tuple[object, str]] = deque(maxlen=256)
"""The last results, by the call that made them."""


def described(made: object) -> str | None:
    """Return the call that made an optimizer or a schedule; None where it is not known.

    Example:
      >>> described(step_decay(0.05, drops=(18, 26)))
      'step_decay(0.05, drops=(18, 26))'
    """
    return next((call for known, call in _CALLS if known is made), None)


def _shown(value: object) -> str:
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        parts = ", ".join(map(_shown, value))
        return f"({parts},)" if len(value) == 1 else f"({parts})"
    if isinstance(value, str | int | float | None):
        return repr(value)
    return described(value) or str(getattr(value, "__name__", type(value).__name__))


def _hashable(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Schedule: TypeAlias = Callable[[jax.Array], jax.Array]

WARMUP_START = 1e-8  # the rate of the first warm-up epoch; the later ones rise from it linearly


@remembered
def step_decay(base: float, drops: Sequence[int] = (150, 180, 210), factor: float = 0.1, warmup: int = 0) -> Schedule:
    """Return a rate that falls by `factor` each time one of `drops` epochs has been completed.

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
    check_number("factor", factor, positive=True)
    drops = tuple(drops)
    if any(later <= earlier for earlier, later in zip((warmup, *drops), drops, strict=False)):
        raise ValueError(
            f"drops={drops} with warmup={warmup}: give increasing numbers of completed epochs, all above the warm-up, "
            "for example drops=(150, 180, 210)"
        )
    # Rounded once, from double precision: powers taken in float32 drift by several units in the last place.
    rates = [base * factor**passed for passed in range(len(drops) + 1)]

    def decay(elapsed: jax.Array) -> jax.Array:
        passed = jnp.sum(jnp.asarray(drops, jnp.int32) <= jnp.reshape(elapsed, 1), dtype=jnp.int32)
        return jnp.asarray(rates, jnp.float32)[passed]

    return _after_warmup(base, warmup, decay)


@remembered
def cosine_decay(base: float, epochs: int, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Return a rate that falls along half a cosine (Loshchilov & Hutter, ICLR 2017), once per epoch.

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
    check_number("final", final)
    part_left = _part_left(epochs, warmup)

    def decay(elapsed: jax.Array) -> jax.Array:
        # (1 + cos(π·t)) / 2 = sin²(π/2·(1 - t)): the form without the cancellation that costs float32 its last epochs.
        return final + (base - final) * jnp.sin(jnp.pi / 2 * part_left(elapsed)) ** 2

    return _after_warmup(base, warmup, decay)


@remembered
def timm_cosine(base: float, epochs: int, warmup: int = 0, final: float = 0.0, start: float = 0.0) -> Schedule:
    """Return the warm-up and half cosine that transformers are trained with, as timm's `CosineLRScheduler` steps them.

    The rate rises from `start` in equal steps, so that epoch `warmup + 1` would be the first at `base`; there it meets
    the cosine, which counts from the first epoch of all: epoch `e` is trained at
    `final + (base - final) · (1 + cos(π·(e - 1) / epochs)) / 2`. `cosine_decay` begins its cosine after the warm-up.

    Args:
      base: the rate at the top of the cosine, > 0.
      epochs: length of the whole training, warm-up included; past it the rate is `final`.
      warmup: epochs over which the rate rises.
      final: what the rate falls to, ≥ 0.
      start: the rate of the first epoch, where there is a warm-up, ≥ 0.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> rate = timm_cosine(0.1, epochs=4, warmup=1, start=0.01)
      >>> [f"{rate(epoch):.4f}" for epoch in (1, 2, 3, 4)]
      ['0.0100', '0.0854', '0.0500', '0.0146']
    """
    check_number("base", base, positive=True)
    check_number("final", final)
    check_number("start", start)
    check_number("warmup", warmup)
    _part_left(epochs, warmup)  # which checks them
    part_left = _part_left(epochs, 0)

    def schedule(epoch: jax.Array) -> jax.Array:
        elapsed = jnp.asarray(epoch, jnp.int32) - 1
        rate = final + (base - final) * jnp.sin(jnp.pi / 2 * part_left(elapsed)) ** 2
        if warmup == 0:
            return rate
        return jnp.where(elapsed < warmup, start + (base - start) / warmup * elapsed.astype(jnp.float32), rate)

    return schedule


@remembered
def quadratic_decay(base: float, epochs: int, warmup: int = 0) -> Schedule:
    """Return a rate that falls as the square of the part of training that is left, once per epoch.

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
    """Return a schedule of the epoch, made from the warm-up and a function of the number of epochs completed."""
    check_number("base", base, positive=True)
    check_number("warmup", warmup)

    def schedule(epoch: jax.Array) -> jax.Array:
        elapsed = jnp.asarray(epoch, jnp.int32) - 1
        if warmup == 0:
            return decay(elapsed)
        rising = WARMUP_START + base / warmup * elapsed.astype(jnp.float32)
        return jnp.where(elapsed <= warmup, rising, decay(elapsed))

    return schedule


def _part_left(epochs: int, warmup: int) -> Schedule:
    """Return the part of the epochs after the warm-up that is to come, 1 … 0, given the number completed."""
    if epochs <= warmup:
        raise ValueError(f"epochs={epochs} leaves nothing after warmup={warmup}: epochs counts the warm-up as well")
    return lambda elapsed: jnp.maximum(epochs - elapsed, 0).astype(jnp.float32) / (epochs - warmup)


@dataclass(frozen=True)
class Warmup:
    """A weight that rises linearly and then stays constant; see `warmup`."""

    epochs: int
    weight: float

    def __post_init__(self) -> None:
        if isinstance(self.epochs, bool) or not isinstance(self.epochs, int) or self.epochs < 1:
            raise ValueError(f"epochs={self.epochs!r}: a warm-up takes a whole number of epochs, at least one")
        if not math.isfinite(self.weight):
            raise ValueError(f"weight={self.weight!r}: give a finite number")

    def __call__(self, epoch: jax.Array) -> jax.Array:
        return self.weight * jnp.minimum(jnp.asarray(epoch, jnp.float32) / self.epochs, 1.0)


def warmup(epochs: int = 20, weight: float = 1.0) -> Warmup:
    """Return the function weight · min(epoch / epochs, 1) of the epoch, counted from 1.

    With 20 epochs it is how DKD (Zhao et al., CVPR 2022) starts its term. Equal warm-ups compare equal, so runs that
    use them share one compiled program.

    Args:
      epochs: the length of the rise.
      weight: the weight after it.

    Raises:
      ValueError: for fewer than one epoch, or a weight that is not finite.

    Example:
      >>> [float(warmup(20)(epoch)) for epoch in (1, 10, 20, 100)]
      [0.05000000074505806, 0.5, 1.0, 1.0]
    """
    return Warmup(epochs, weight)
