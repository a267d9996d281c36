"""Batches of mixed images in a step: how they are made, and what a loss of two labels is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxkd.data.transforms.mixing import Mixing
from jaxkd.training.state import MIX, TrainState, Tree
from jaxkd.types import Batch

Numbers = TypeVar("Numbers")


def mixed(mixing: Mixing | None, state: TrainState, batch: Batch) -> Batch:
    """Return the batch of the step that a state is at, mixed; it is mixed whole, before it is cut into parts."""
    return batch if mixing is None else mixing(state.random(MIX, state.step), batch)


def under_both_labels(function: Callable[[Batch], tuple[Numbers, Tree]], batch: Batch) -> tuple[Numbers, Tree]:
    """Return the numbers of a batch under its labels; of a mixed one the mean of those under both, by their shares.

    What does not depend on the labels is computed once.

    Args:
      function: called with a batch of one label each; returns numbers, and what else is left as the own labels have it.
      batch: `[B, …]`.
    """
    if batch.mixed is None:
        return function(batch)
    own, share = batch._replace(mixed=None), batch.mixed.share[0]
    labels = jnp.stack([batch.labels, batch.mixed.labels])
    numbers, rest = jax.vmap(lambda labels: function(own._replace(labels=labels)))(labels)
    mean = jax.tree.map(lambda value: share * value[0] + (1 - share) * value[1], numbers)
    return mean, jax.tree.map(lambda value: value[0], rest)
