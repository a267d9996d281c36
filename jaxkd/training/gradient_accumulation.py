"""Gradient accumulation: a batch in microbatches, one after the other, where the whole does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.training.state import Tree
from jaxkd.types import Batch


class StepGrads(NamedTuple):
    """The gradients of some examples, and all else that a step needs of them.

    Attributes:
      gradients: of the total loss by the parameters, means over the examples.
      variables: as the examples leave them.
      logs: means over the examples.
    """

    gradients: Tree
    variables: Tree
    logs: dict[str, jax.Array]


GradFn = Callable[..., StepGrads]
Number = jax.Array | int | None
"""The number of a microbatch, counted from 0; None for a whole batch."""


def accumulated(
    microbatches: int, grad_fn: GradFn, params: Tree, variables: Tree, batch: Batch, cached: Any
) -> StepGrads:
    """Return the gradients of a batch from at most so many microbatches, all but the last of one size.

    The variables are handed on from one to the next; gradients and logs are averaged over the examples. Each of k
    microbatches of one size takes every k-th example, so that its rows lie evenly over the devices.

    Args:
      microbatches: how many; 1 is the batch as it is.
      grad_fn: called as `(variables, batch, cached, number)`, with `number` counted from 0 and None for a whole batch.
      params: what the gradients are taken by.
      variables: before the batch.
      batch: arrays `[B, …]`.
      cached: a pytree of such arrays, cut likewise.
    """
    if microbatches == 1:
        return grad_fn(variables, batch, cached, None)
    examples = len(batch.labels)
    size = -(-examples // microbatches)
    full, rest = divmod(examples, size)

    def one(carry: tuple[Tree, Tree], x: tuple[Any, ...]) -> tuple[tuple[Tree, Tree], dict[str, jax.Array]]:
        gradients, variables = carry
        found = grad_fn(variables, *x)
        return (_plus(gradients, found.gradients, size / examples), found.variables), found.logs

    nothing = jax.tree.map(jnp.zeros_like, params)
    shares = jax.tree.map(lambda rows: _shares(rows, full, size), (batch, cached))
    (gradients, variables), logs = jax.lax.scan(one, (nothing, variables), (*shares, jnp.arange(full)))
    logs = {name: jnp.mean(values, axis=0, dtype=jnp.float32) for name, values in logs.items()}
    if rest:
        found = grad_fn(variables, *jax.tree.map(lambda rows: rows[-rest:], (batch, cached)), full)
        gradients, variables = _plus(gradients, found.gradients, rest / examples), found.variables
        logs = {name: mean + rest / examples * (jnp.float32(found.logs[name]) - mean) for name, mean in logs.items()}
    return StepGrads(gradients, variables, logs)


def _shares(rows: jax.Array, full: int, size: int) -> jax.Array:
    """Return the full microbatches of `[B, …]`, as `[full, size, …]`."""
    return rows[: full * size].reshape(size, full, *rows.shape[1:]).swapaxes(0, 1)


def _plus(total: Tree, gradients: Tree, share: float) -> Tree:
    return jax.tree.map(lambda one, other: one + share * other, total, gradients)


def check_microbatches(batch_size: int, microbatches: int, devices: int) -> None:
    """Refuse a batch that cannot be cut into the microbatches asked for.

    Args:
      batch_size: over all devices.
      microbatches: of a batch, the last of which may be smaller.
      devices: over how many, each with BatchNorm statistics of its own, a microbatch has to divide.

    Raises:
      ValueError: it names the nearest size that can.

    Example:
      >>> check_microbatches(96, microbatches=5, devices=1)
    """
    if batch_size < microbatches:
        raise ValueError(
            f"gradient_accumulation_steps={microbatches}, but a batch has {batch_size} examples: give at most "
            f"{batch_size}"
        )
    if devices > 1 and batch_size % (microbatches * devices):
        nearest = max(round(batch_size / (microbatches * devices)), 1) * microbatches * devices
        raise ValueError(
            f"batch_size={batch_size} does not divide into {microbatches} parts over {devices} devices, as "
            f"batch_norm='per_device' needs it; the nearest that does is {nearest}"
        )
