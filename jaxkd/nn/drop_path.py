"""Stochastic depth: in training, a block's branch is left out at random, example by example (Huang et al. 2016).

The random keys are variables of the network, with a count that grows with each draw. So the engine carries them along
like running statistics: they are saved, restored and stacked, and a resumed run draws what an uninterrupted one would.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.checks import check_number


class Rate(nnx.Variable[jax.Array]):
    """A probability that a layer was made with: a variable, so that blocks of different rates are stacked as equals."""


class DropPath(nnx.Module):
    """Leave out a branch, `[B, …] -> [B, …]`: zero for an example with a given probability, larger for all others.

    Evaluation takes the branch as it is.

    Args:
      rate: the probability of leaving it out, from 0 to below 1.
      rngs: its stream `dropout` gives the key of the draws.

    Raises:
      ValueError: for another rate.

    Example:
      >>> drop = DropPath(0.5, rngs=nnx.Rngs(0))
      >>> sorted(set(drop(jnp.ones((64, 1)), train=True).ravel().tolist()))
      [0.0, 2.0]
    """

    def __init__(self, rate: float, *, rngs: nnx.Rngs):
        check_number("drop_path", rate, below=1.0)
        self.rate = Rate(jnp.float32(rate))
        self.stream = rngs.dropout.fork()

    def __call__(self, branch: jax.Array, train: bool) -> jax.Array:
        if not train:
            return branch
        keep = 1 - self.rate[...]
        kept = jax.random.bernoulli(self.stream(), keep, (len(branch),) + (1,) * (branch.ndim - 1))
        return branch * (kept.astype(keep.dtype) / keep).astype(branch.dtype)


def drop_paths(rate: float, depth: int, *, rngs: nnx.Rngs) -> list[DropPath | None]:
    """Return one `DropPath` for each block of a network, of rates that grow from 0 to `rate`; None where it is 0.

    Raises:
      ValueError: for a rate that is not from 0 to below 1.

    Example:
      >>> [drop.rate[...].round(2).item() for drop in drop_paths(0.5, 3, rngs=nnx.Rngs(0))]
      [0.0, 0.25, 0.5]
      >>> drop_paths(0.0, 2, rngs=nnx.Rngs(0))
      [None, None]
    """
    check_number("drop_path", rate, below=1.0)
    return [DropPath(float(own), rngs=rngs) if rate else None for own in np.linspace(0, rate, depth)]


def dropout(rate: float, *, rngs: nnx.Rngs) -> nnx.Dropout | None:
    """Return a dropout of single values, called as `layer(values, deterministic=not train)`; None where it is 0.

    Raises:
      ValueError: for a rate that is not from 0 to below 1.
    """
    check_number("dropout", rate, below=1.0)
    return nnx.Dropout(rate, rngs=rngs) if rate else None
