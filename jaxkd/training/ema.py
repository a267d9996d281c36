"""Averaged weights: an exponential moving average of the network that is trained, kept beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxkd.checks import check_number
from jaxkd.training.state import TrainState, Tree, copied

Measured = TypeVar("Measured")

AVERAGE = "average"
"""Its place among a state's variables, as `{"params": …, "variables": …}` of the network."""


@dataclass(frozen=True)
class EMA:
    """After each step, average ← decay · average + (1 − decay) · weights, as timm and PyTorch's `swa_utils` do it.

    The first step sets the average. Running statistics of BatchNorm are averaged like the weights, so that they belong
    to them; whole numbers and random keys are taken as they are. What the losses learn is not averaged.

    Args:
      decay: from 0 to below 1; timm's is 0.9999, DeiT's 0.99996.
      warmup: whether the decay rises to that, as 1 − (1 + n)^(−2/3) after n steps of averaging (timm's `use_warmup`):
        in short trainings, and at first, the average then does not lag behind.

    Raises:
      ValueError: for a decay outside [0, 1).

    Example:
      >>> [round(float(EMA(0.99, warmup=True).decay_at(step)), 2) for step in (1, 2, 10, 10_000)]
      [0.0, 0.37, 0.78, 0.99]
    """

    decay: float = 0.9999
    warmup: bool = False

    def __post_init__(self) -> None:
        check_number("decay", self.decay, below=1.0)

    def decay_at(self, step: Any) -> jax.Array:
        """Return the decay of a step, the number of those taken, itself included."""
        before = jnp.asarray(step - 1, jnp.float32)
        decay = jnp.float32(self.decay)
        if self.warmup:
            decay = jnp.minimum(decay, 1 - (1 + before) ** (-2 / 3))
        return jnp.where(before > 0, decay, jnp.float32(0))


def checked_ema(ema: EMA | None) -> EMA | None:
    """Return the option of `compile`; raise a TypeError for anything else, such as the decay alone."""
    if ema is not None and not isinstance(ema, EMA):
        raise TypeError(f"ema={ema!r}: give jaxkd.EMA(decay=0.9999), or None")
    return ema


def init_average(ema: EMA | None, state: TrainState) -> TrainState:
    """Return a new state with the average that it starts from, where there is to be one: its weights."""
    if ema is None:
        return state
    average = {"params": state.params["model"], "variables": state.variables["model"]}
    return replace(state, variables=state.variables | {AVERAGE: copied(average)})


def update_average(ema: EMA | None, state: TrainState) -> TrainState:
    """Return the state after a step with its average brought up to date."""
    if ema is None:
        return state
    decay = ema.decay_at(state.step)

    def follow(average: jax.Array, now: jax.Array) -> jax.Array:
        if not jnp.issubdtype(now.dtype, jnp.floating):
            return now
        return average + (1 - decay).astype(now.dtype) * (now - average)

    now = {"params": state.params["model"], "variables": state.variables["model"]}
    average = jax.tree.map(follow, state.variables[AVERAGE], now)
    return replace(state, variables=state.variables | {AVERAGE: average})


def own_and_average(measure: Callable[[Tree, Tree], dict[str, Measured]], state: TrainState) -> dict[str, Measured]:
    """Return what is measured of the network, and as `ema_…` of its average where there is one.

    Args:
      measure: called with parameters and other variables.
      state: of a run, or of several that are stacked.
    """
    found, average = measure(state.params["model"], state.variables["model"]), average_of(state)
    return found if average is None else found | {f"ema_{name}": value for name, value in measure(*average).items()}


def average_of(state: TrainState) -> tuple[Tree, Tree] | None:
    """Return parameters and other variables of the averaged network, of a stacked state `[n, …]`; None without one."""
    found = state.variables.get(AVERAGE)
    return None if found is None else (found["params"], found["variables"])
