"""Contrastive representation distillation (CRD; Tian et al., ICLR 2020): noise-contrastive estimation over embeddings.

The student's embedding of an image is contrasted with the teacher's embeddings of this and of many other images, and
the teacher's with the student's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jaxkd.checks import check_at_least
from jaxkd.losses.base import HyperParameter, Loss, Network
from jaxkd.losses.features import embedding_widths, require_teacher
from jaxkd.losses.functional import unit
from jaxkd.losses.temperature import checked_temperature
from jaxkd.nn.initializers import uniform
from jaxkd.nn.layers import Linear
from jaxkd.types import Batch, Key, Outputs, Progress, at_least_float32

_EPSILON = 1e-7


def noise_contrastive_loss(log_likelihood: jax.Array, examples: int) -> jax.Array:
    """Return the mean over the batch of −log(p₀ / (p₀ + c)) − Σ log(c / (pₖ + c)), computed in log space.

    p is the likelihood of being the match and c = K / N the frequency of noise.

    Args:
      log_likelihood: log p, `[B, 1 + K]`: that of the match first, then of K examples drawn evenly from N.
      examples: N.

    Returns:
      A scalar.

    Example:
      >>> round(float(noise_contrastive_loss(jnp.log(jnp.full((1, 2), 0.25)), examples=4)), 4)  # p = c: −2 log ½
      1.3863
    """
    noise = (log_likelihood.shape[1] - 1) / examples
    either = jnp.logaddexp(log_likelihood, jnp.full_like(log_likelihood, math.log(noise + _EPSILON)))
    match, others = either[:, 0] - log_likelihood[:, 0], either[:, 1:] - math.log(noise)
    return jnp.mean(match + others.sum(1))


class CRD(Loss):
    """Noise-contrastive estimation between each network's embedding and a memory of the other's; published weight 0.8.

    Paper: Tian, Krishnan, Isola, *Contrastive Representation Distillation*, ICLR 2020.

    Two trained linear heads bring both embeddings to `feature_dim` and to length one. The likelihood that a student's
    s and a remembered t belong together is exp(s·t / T) / Z, likewise for the teacher's and a remembered s; both losses
    are added. Z is N times the mean of the first batch's exp(…) and stays. A memory is read before the batch's own
    rows move towards their new embeddings.

    On the device it keeps two memories of N × `feature_dim` float32, 26 MB each for CIFAR-100, saved with the run. The
    similarities of a batch to all N are computed as one matrix product, `[B, N]` or 13 MB at batch 64, and the drawn
    ones are picked from it: picking the remembered vectors first would move `[B, 1 + K, feature_dim]`, 537 MB, for each
    memory.

    Args:
      labels: `[N]` class indices of the very data set that `fit` gets, in its order (`train.labels`): memories are
        addressed by `batch.index`. For a batch whose labels differ from these, the loss is NaN, which stops
        training.
      negatives: K, drawn anew for each example from other classes, without replacement; where there are fewer than K,
        each is taken once before any is taken again.
      mode: what an example should match: `"exact"`, the other network's embedding of itself; `"relaxed"`, that of a
        random example of its class.
      feature_dim: size of the embeddings that are compared.
      temperature: T.
      momentum: how much of a remembered embedding stays when its example is seen again.
      position: which feature; by default the pooled one.

    Raises:
      ValueError: for labels that are none, or an argument out of range; at compile, where a network has no embedding.

    Example:
      >>> from jaxkd import Outputs
      >>> crd = CRD(labels=np.array([0, 0, 1, 1]), negatives=2, feature_dim=8)
      >>> network = Network(None, Outputs(None, (jnp.ones((2, 3)),)))
      >>> crd.build(network, network, nnx.Rngs(0))
      >>> batch = Batch(images=None, labels=jnp.array([0, 1]), index=jnp.array([1, 2]))
      >>> crd.draw(batch, jax.random.key(0)).sort(axis=1).tolist()
      [[1, 2, 3], [0, 1, 2]]
      >>> bool(crd(network.outputs, network.outputs, batch, None, jax.random.key(0)) > 0)
      True
    """

    needs_index = True

    def __init__(
        self,
        labels: np.ndarray,
        negatives: int = 16384,
        mode: Literal["exact", "relaxed"] = "exact",
        feature_dim: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        position: int = -1,
    ):
        if mode not in ("exact", "relaxed"):
            raise ValueError(f"mode={mode!r}: choose 'exact' (match oneself) or 'relaxed' (anyone of the same class)")
        check_at_least(1, negatives=negatives, feature_dim=feature_dim)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum!r}: must be at least 0 and less than 1")
        self.classes = Classes(labels)
        self.negatives, self.mode, self.feature_dim, self.position = negatives, mode, feature_dim, position
        self.temperature = HyperParameter(jnp.float32(checked_temperature("temperature", temperature)))
        self.momentum = HyperParameter(jnp.float32(momentum))

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        widths = embedding_widths(self, student, require_teacher(self, teacher), self.position)
        self.student, self.teacher = (Side(width, self.feature_dim, len(self.classes), rngs=rngs) for width in widths)

    def draw(self, batch: Batch, key: Key) -> jax.Array:
        """Draw the indices `[B, 1 + negatives]` of what each example is compared with, its match first."""
        fellow, others = jax.random.split(key)
        match = batch.index if self.mode == "exact" else self.classes.fellows(batch.labels, fellow)
        return jnp.concatenate([match[:, None], self.classes.others(batch.labels, self.negatives, others)], axis=1)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        ours = self.student.embed(student.features[self.position])
        theirs = self.teacher.embed(teacher.features[self.position])
        drawn, memories = self.draw(batch, key), (self.student.memory[...], self.teacher.memory[...])
        likelihoods = (
            self.student.log_likelihood(ours, memories[1], drawn, self.temperature[...]),
            self.teacher.log_likelihood(theirs, memories[0], drawn, self.temperature[...]),
        )
        self.student.remember(batch.index, ours, self.momentum[...])
        self.teacher.remember(batch.index, theirs, self.momentum[...])
        loss = sum(noise_contrastive_loss(likelihood, len(self.classes)) for likelihood in likelihoods)
        return jnp.where(self.classes.knows(batch), loss, jnp.nan)


class Side(nnx.Module):
    """A head, a memory of embeddings and log Z for one of the two networks.

    Memories start uniform within ±√(3 / size), about at length one. log Z is −∞ until the first batch sets it.
    """

    def __init__(self, inputs: int, size: int, examples: int, *, rngs: nnx.Rngs):
        bound = math.sqrt(3 / size)
        self.head = Linear(inputs, size, rngs=rngs)
        self.memory = nnx.Variable(uniform(rngs.params(), (examples, size), bound))
        self.log_z = nnx.Variable(jnp.float32(-jnp.inf))

    def embed(self, feature: jax.Array) -> jax.Array:
        """Return embeddings of length one, `[B, C] -> [B, size]`."""
        return unit(self.head(at_least_float32(feature)))

    def log_likelihood(
        self, embedding: jax.Array, memory: jax.Array, drawn: jax.Array, temperature: jax.Array
    ) -> jax.Array:
        """Return log(exp(e·m / T) / Z) of this network's embeddings and the other's drawn memories, `[B, 1 + K]`."""
        # At full precision, because dividing by T = 0.07 makes errors of the similarities 14 times larger.
        similarities = jnp.matmul(embedding, memory.astype(embedding.dtype).T, precision="highest")
        scores = jnp.take_along_axis(similarities, drawn, axis=1) / temperature.astype(embedding.dtype)
        present = self.log_z[...].astype(scores.dtype)
        first = jax.nn.logsumexp(lax.stop_gradient(scores)) + math.log(len(memory) / drawn.size)
        log_z = jnp.where(jnp.isneginf(present), first, present)
        self.log_z[...] = log_z.astype(self.log_z[...].dtype)
        return scores - log_z

    def remember(self, index: jax.Array, embedding: jax.Array, momentum: jax.Array) -> None:
        """Move the memories of these examples towards their embeddings; of one that comes twice, the last counts."""
        memory = self.memory[...]
        again = jnp.triu(index[:, None] == index[None, :], 1).any(1)  # a later example of the batch is the same one
        share = momentum.astype(memory.dtype)
        new = share * memory[index] + (1 - share) * lax.stop_gradient(embedding).astype(memory.dtype)
        self.memory[...] = memory.at[jnp.where(again, len(memory), index)].set(unit(new), mode="drop")


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
                f"{len(labels)} labels of {np.count_nonzero(counts)} class(es): CRD contrasts classes and needs two or "
                "more; give the training set's, as train.labels"
            )
        self.labels = nnx.Variable(jnp.asarray(labels, jnp.int32))
        self.grouped = nnx.Variable(jnp.asarray(np.argsort(labels, kind="stable"), jnp.int32))
        self.ends = nnx.Variable(jnp.asarray(np.cumsum(counts), jnp.int32))
        self.counts = nnx.Variable(jnp.asarray(counts, jnp.int32))

    def __len__(self) -> int:
        """Return N."""
        return self.labels.shape[0]

    def knows(self, batch: Batch) -> jax.Array:
        """Return whether the batch's examples have the labels given here for their indices."""
        return jnp.all(self.labels[...].at[batch.index].get(mode="fill", fill_value=-1) == batch.labels)

    def others(self, labels: jax.Array, count: int, key: Key) -> jax.Array:
        """Draw `count` examples of other classes for each label, `[B] -> [B, count]`, each once before any twice."""
        rest = len(self) - self.counts[...][labels]
        chosen = permuted(key, jnp.broadcast_to(jnp.arange(count), (len(labels), count)), rest)
        # In the grouped order, read as a ring, those of other classes follow the end of one's own.
        return self.grouped[...][(self.ends[...][labels][:, None] + chosen) % len(self)]

    def fellows(self, labels: jax.Array, key: Key) -> jax.Array:
        """Draw a random example of each label, `[B] -> [B]`."""
        count = self.counts[...][labels]
        return self.grouped[...][self.ends[...][labels] - 1 - jax.random.randint(key, labels.shape, 0, count)]


_STAGES = 6
"""Stages of a permutation, each of two rounds of a Feistel network. After four rounds a long permutation is hard to
tell from a random one (Luby & Rackoff 1988); the others make up for the entries that a stage leaves out."""


def permuted(key: Key, positions: jax.Array, sizes: jax.Array) -> jax.Array:
    """Return the entries at these positions of a random permutation of 0…size−1, another for every row.

    Drawing K of N without replacement by sorting N random numbers would take most of a training step at N = 50,000.
    Instead only the K wanted entries are computed, in a fixed number of arithmetic steps, each of which is a
    permutation: a number is shifted and perhaps mirrored, both at random, then written as two digits in bases near
    √size, of which each is shifted by a random function of the other (a Feistel network, Luby & Rackoff 1988). Less
    than one in √size has no such digits and is left for the next stage to move.

    Args:
      key: a random key.
      positions: `[B, K]`; counted modulo the size.
      sizes: `[B]`, each at least 1.

    Returns:
      `[B, K]` int32.

    Example:
      >>> sorted(permuted(jax.random.key(0), jnp.arange(5)[None], jnp.array([5]))[0].tolist())
      [0, 1, 2, 3, 4]
    """
    sizes = sizes[:, None]
    root = jnp.sqrt(sizes.astype(jnp.float32)).astype(jnp.int32)
    low_base = jnp.maximum(jnp.where(root * root > sizes, root - 1, root), 1)
    high_base = sizes // low_base
    words = jax.random.bits(key, (_STAGES + 1, 4, len(sizes), 1), jnp.uint32)

    shifts = (words[:, 0] % sizes[None].astype(jnp.uint32)).astype(jnp.int32)
    mirrored = words[:, 1] >> 31 == 1

    def turned(numbers: jax.Array, stage: int) -> jax.Array:
        return _sum_below(sizes, jnp.where(mirrored[stage], sizes - 1 - numbers, numbers), shifts[stage])

    def entries(positions: jax.Array) -> jax.Array:
        numbers = positions % sizes
        for stage in range(_STAGES):
            numbers = turned(numbers, stage)
            high, low = _digits(numbers, low_base)
            has_digits = high < high_base
            high = _sum_below(high_base, high, _random_function(words[stage, 2], low, high_base))
            low = _sum_below(low_base, low, _random_function(words[stage, 3], high, low_base))
            numbers = jnp.where(has_digits, high * low_base + low, numbers)
        return turned(numbers, _STAGES)

    # A TPU's compiler takes ten times as long over so much arithmetic on an array that it keeps in fast memory.
    found = lax.platform_dependent(positions, tpu=functools.partial(_in_parts, entries), default=entries)
    # Without end for a CPU: as the index of a gather each stage would be written out twice in every later one.
    return lax.optimization_barrier(found)


def _in_parts(function: Callable[[jax.Array], jax.Array], rows: jax.Array) -> jax.Array:
    """Return a function of `[B, K]`, computed for equal parts of K one after the other, where K has any."""
    count = math.gcd(rows.shape[1], 4)
    if count == 1:
        return function(rows)
    parts = lax.map(function, jnp.stack(jnp.split(rows, count, axis=1)))
    return jnp.moveaxis(parts, 0, 1).reshape(rows.shape)


def _digits(numbers: jax.Array, base: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return quotients and remainders. Few processors divide whole numbers many at a time, all do it with float32."""
    high = (numbers.astype(jnp.float32) / base.astype(jnp.float32)).astype(jnp.int32)
    low = numbers - high * base  # the quotients are below 2^16, so that they are at most one off
    off = (low >= base).astype(jnp.int32) - (low < 0).astype(jnp.int32)
    return high + off, low - off * base


def _sum_below(end: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    """Return the sum of numbers from 0 to `end`, without it, modulo `end`; no sum exceeds what int32 holds."""
    return jnp.where(one >= end - other, one - (end - other), one + other)


def _random_function(word: jax.Array, numbers: jax.Array, end: jax.Array) -> jax.Array:
    """Return a value from 0 to `end`, without it, for every number, by mixing its bits with those of a random word.

    The mixing is the end of MurmurHash3, in which every bit of what goes in turns each that comes out with about even
    odds.
    """
    bits = numbers.astype(jnp.uint32) ^ word
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    fraction = ((bits ^ (bits >> 16)) >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)
    return jnp.minimum((fraction * end.astype(jnp.float32)).astype(jnp.int32), end - 1)
