"""Drawing the examples that another is contrasted with: others of its class, and many of other classes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.base import Batch

_ROUNDS = 6
"""Of the Feistel network. Four make a long order hard to tell from a random one (Luby & Rackoff 1988); with six, all
pairs of entries are equally likely to a hundredth at size 100 already."""


class Classes(nnx.Module):
    """The training examples, grouped by class.

    It keeps two numbers per example and two per class, not a list of all others for each class.

    Args:
      labels: `[N]` class indices of the training set, in its order.

    Raises:
      ValueError: for anything but one whole number ≥ 0 per example, or a single class.

    Example:
      >>> classes = Classes(np.array([0, 1, 0, 1, 2]))
      >>> sorted(classes.others(jnp.array([1]), 3, jax.random.key(0))[0].tolist())
      [0, 2, 4]
    """

    def __init__(self, labels: np.ndarray):
        labels = np.asarray(labels)
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
            raise ValueError(
                f"labels of shape {labels.shape} and type {labels.dtype}: give the training set's class indices [N], "
                "for example train.labels"
            )
        counts = np.bincount(labels)
        if np.count_nonzero(counts) < 2:
            raise ValueError(
                f"{len(labels)} labels of {np.count_nonzero(counts)} class(es): contrast needs two or more"
            )
        self.labels = nnx.Variable(jnp.asarray(labels, jnp.int32))
        self.grouped = nnx.Variable(jnp.asarray(np.argsort(labels, kind="stable"), jnp.int32))
        self.ends = nnx.Variable(jnp.asarray(np.cumsum(counts), jnp.int32))
        self.counts = nnx.Variable(jnp.asarray(counts, jnp.int32))

    def __len__(self) -> int:
        """N."""
        return self.labels.shape[0]

    def knows(self, batch: Batch) -> jax.Array:
        """Whether the batch's examples have the labels given here for their indices."""
        return jnp.all(self.labels[...].at[batch.index].get(mode="fill", fill_value=-1) == batch.labels)

    def others(self, labels: jax.Array, count: int, key: jax.Array) -> jax.Array:
        """`count` examples of other classes for each label, `[B] -> [B, count]`; none twice before each was once."""
        rest = len(self) - self.counts[...][labels]
        chosen = permuted(key, jnp.broadcast_to(jnp.arange(count), (len(labels), count)), rest, most=len(self))
        # In the grouped order, read as a ring, those of other classes follow the end of one's own.
        return self.grouped[...][(self.ends[...][labels][:, None] + chosen) % len(self)]

    def fellows(self, labels: jax.Array, key: jax.Array) -> jax.Array:
        """A random example of each label, `[B] -> [B]`."""
        count = self.counts[...][labels]
        return self.grouped[...][self.ends[...][labels] - 1 - jax.random.randint(key, labels.shape, 0, count)]


def permuted(key: jax.Array, positions: jax.Array, sizes: jax.Array, most: int) -> jax.Array:
    """Where a random permutation of 0…size−1, another for every row, sends these positions.

    Drawing K of N without replacement by sorting N random numbers would take most of a training step at N = 50,000.
    Instead a Feistel network computes only the K wanted entries of a permutation: a position is written as two digits
    in a base just above √size, and in each round one digit is shifted by a random function of the other. Results beyond
    `size` are sent through again, which leads back into the range (Black & Rogaway, "Ciphers with arbitrary finite
    domains", 2002).

    Args:
      key: a random key.
      positions: `[B, K]`; counted modulo the size.
      sizes: `[B]`, each at least 1.
      most: an upper bound of the sizes.

    Returns:
      `[B, K]` int32.

    Example:
      >>> sorted(permuted(jax.random.key(0), jnp.arange(5)[None], jnp.array([5]), most=5)[0].tolist())
      [0, 1, 2, 3, 4]
    """
    sizes = sizes[:, None]
    # One more than the root, whose rounding then does no harm.
    base = jnp.sqrt(sizes.astype(jnp.float32)).astype(jnp.int32) + 1
    shape = _ROUNDS, len(sizes), math.isqrt(most) + 2
    functions = jax.random.randint(key, shape, 0, jnp.broadcast_to(base, shape))

    def shuffle(numbers: jax.Array) -> jax.Array:
        high, low = numbers // base, numbers % base
        for function in functions:
            high, low = low, (high + jnp.take_along_axis(function, low, axis=1)) % base
        return high * base + low

    def again(numbers: jax.Array) -> jax.Array:
        return jnp.where(numbers < sizes, numbers, shuffle(numbers))

    return jax.lax.while_loop(lambda numbers: jnp.any(numbers >= sizes), again, shuffle(positions % sizes))
