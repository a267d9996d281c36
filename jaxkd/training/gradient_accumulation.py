"""A batch in parts, one after the other, for memory's sake: what is learned from them is that of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.training.state import Tree
from jaxkd.types import Batch


class Lesson(NamedTuple):
    """What is learned from some examples.

    Attributes:
      gradients: of the total loss by the parameters, means over the examples.
      variables: as the examples leave them.
      logs: what the examples say on average.
    """

    gradients: Tree
    variables: Tree
    logs: dict[str, jax.Array]


Learn = Callable[..., Lesson]


def in_parts(parts: int, learn: Learn, params: Tree, variables: Tree, batch: Batch, kept: Any) -> Lesson:
    """Learns from a batch in at most so many parts, all but the last of one size.

    The variables are handed on from part to part; gradients and logs are averaged over the examples. Each of k parts of
    one size takes every k-th example, so that its rows lie evenly over the devices.

    Args:
      parts: how many; 1 is the batch as it is.
      learn: called as `(variables, batch, kept, part)`, with `part` counted from 0 and None for a whole batch.
      params: what the gradients are taken by.
      variables: before the batch.
      batch: arrays `[B, …]`.
      kept: a pytree of such arrays, cut likewise.
    """
    if parts == 1:
        return learn(variables, batch, kept, None)
    examples = len(batch.labels)
    size = -(-examples // parts)
    full, rest = divmod(examples, size)

    def one(carry: tuple[Tree, Tree], x: tuple) -> tuple[tuple[Tree, Tree], dict[str, jax.Array]]:
        gradients, variables = carry
        lesson = learn(variables, *x)
        return (_plus(gradients, lesson.gradients, size / examples), lesson.variables), lesson.logs

    nothing = jax.tree.map(jnp.zeros_like, params)
    shares = jax.tree.map(lambda rows: _shares(rows, full, size), (batch, kept))
    (gradients, variables), logs = jax.lax.scan(one, (nothing, variables), (*shares, jnp.arange(full)))
    logs = {name: jnp.mean(values, axis=0, dtype=jnp.float32) for name, values in logs.items()}
    if rest:
        lesson = learn(variables, *jax.tree.map(lambda rows: rows[-rest:], (batch, kept)), full)
        gradients, variables = _plus(gradients, lesson.gradients, rest / examples), lesson.variables
        logs = {name: mean + rest / examples * (jnp.float32(lesson.logs[name]) - mean) for name, mean in logs.items()}
    return Lesson(gradients, variables, logs)


def _shares(rows: jax.Array, full: int, size: int) -> jax.Array:
    """The full parts of `[B, …]`, as `[full, size, …]`."""
    return rows[: full * size].reshape(size, full, *rows.shape[1:]).swapaxes(0, 1)


def _plus(total: Tree, gradients: Tree, share: float) -> Tree:
    return jax.tree.map(lambda one, other: one + share * other, total, gradients)


def check_parts(batch_size: int, parts: int, apart: int) -> None:
    """Refuses a batch that cannot be cut into the parts asked for.

    Args:
      batch_size: over all devices.
      parts: of a batch, the last of which may be smaller.
      apart: over how many devices, each with statistics of its own, a part has to divide.

    Raises:
      ValueError: it names the nearest size that can.

    Example:
      >>> check_parts(96, parts=5, apart=1)
    """
    if batch_size < parts:
        raise ValueError(
            f"gradient_accumulation_steps={parts}, but a batch has {batch_size} examples: give at most {batch_size}"
        )
    if apart > 1 and batch_size % (parts * apart):
        nearest = max(round(batch_size / (parts * apart)), 1) * parts * apart
        raise ValueError(
            f"batch_size={batch_size} does not divide into {parts} parts over {apart} devices, as "
            f"batch_norm='per_device' needs it; the nearest that does is {nearest}"
        )
