"""Evaluate and predict with compiled programs, the network in evaluation mode."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.stages import Wrapped
from numpy.typing import NDArray

from jaxkd.checks import check_at_least
from jaxkd.data import StreamedDataset
from jaxkd.data.sampling import evaluation_plan, padded_batches
from jaxkd.metrics import Metric
from jaxkd.training.forward import forward, matmul_precision, network_input
from jaxkd.training.inputs import InMemory, Source, Stream, add_step_axis
from jaxkd.training.program import per_example
from jaxkd.training.sharding import Placement
from jaxkd.training.state import Tree
from jaxkd.training.step import Logs
from jaxkd.types import Batch, Normalizer

Metrics = tuple[tuple[str, Metric], ...]
"""Names and functions of what is measured."""


def comfortable_batch_size(source: Source, trained_with: int) -> int:
    """Return how many images to evaluate at once: 256 of 224×224, fewer that are larger, no more than there are.

    At least as many as a step computes; batches that come as such bring their own.
    """
    if isinstance(source, Stream):
        return 256
    height, width, _ = source.image_shape
    examples = source.examples if isinstance(source, InMemory) else len(source)
    return min(max(min(256, 256 * 224**2 // (height * width)), trained_with), max(examples, 1))


class Evaluation:
    """Held-out data in place, to be measured on as often as asked.

    Args:
      source: the data.
      placement: where the network lives.
      batch_size: over all devices.

    Raises:
      ValueError: for a batch size below 1.
    """

    def __init__(self, source: Source, placement: Placement, batch_size: int):
        check_at_least(1, batch_size=batch_size)
        self._source, self._placement, self._batch_size = source, placement, placement.padded(batch_size)
        if isinstance(source, InMemory):
            indices = padded_batches(source.examples, min(self._batch_size, placement.padded(source.examples)))
            self._on_device = (*placement.replicate((source.images, source.labels)), placement.shard(indices))

    def measure(
        self,
        model: nnx.GraphDef[Any],
        weights: tuple[Tree, Tree],
        normalization: Normalizer | None,
        precision: str,
        metrics: Metrics,
    ) -> dict[str, float]:
        """Return the mean of every metric over all examples.

        Raises:
          ValueError: there are none.
        """
        of = (model, normalization, precision, metrics)
        if isinstance(self._source, InMemory):
            found = make_evaluate(*of)(*weights, *self._on_device)
            return {name: float(total) / self._source.examples for name, total in found.items()}
        measure = make_evaluate_batch(*of)
        # Each batch adds to the sums of the one before: computations of several processes wait for each other, and have
        # to be taken in the same order by all of them.
        sums = self._placement.replicate({name: np.float32(0.0) for name in ("examples", *dict(metrics))})
        for batch in self._batches(self._source):
            before, sums = sums, measure(*weights, batch, sums)
            jax.block_until_ready(before)  # one batch computes while the next is read, and no more are held
        examples = float(sums.pop("examples"))
        if not examples:
            raise ValueError(
                "nothing to evaluate: the iterable of batches gave none; a generator is used up when it was gone "
                "through once"
            )
        return {name: float(total) / examples for name, total in sums.items()}

    def _batches(self, source: Stream | StreamedDataset) -> Iterator[Batch]:
        """Yield batches on the devices, filled up with what has the index −1."""
        placement = self._placement
        if isinstance(source, StreamedDataset):
            plan = evaluation_plan(len(source), self._batch_size, placement.share)
            for batch in source.batches(plan, train=False):
                yield _unstacked(placement.shard_of_process(add_step_axis(batch), self._batch_size))
            return
        for batch in source:
            examples = len(batch.labels)
            filled = np.pad(np.arange(examples), (0, placement.padded(examples) - examples))
            index = np.where(np.arange(len(filled)) < examples, filled, -1)
            whole = Batch(batch.images[filled], batch.labels[filled], index)  # type: ignore[arg-type]  # on the host
            yield _unstacked(placement.shard(add_step_axis(whole)))


def predicted(
    model: nnx.GraphDef[Any],
    weights: tuple[Tree, Tree],
    normalization: Normalizer | None,
    precision: str,
    images: NDArray[Any],
    placement: Placement,
    batch_size: int,
) -> NDArray[np.float32]:
    """Return logits `[N, K]` of images, from batches over all devices."""
    predict = make_predict(model, normalization, precision)
    parts = []
    for index in padded_batches(len(images), min(placement.padded(batch_size), placement.padded(len(images)))):
        logits = predict(*weights, placement.shard(images[index][None])[0])
        parts.append(placement.gather(logits))
    return np.concatenate(parts)[: len(images)]


def _unstacked(batch: Batch) -> Batch:
    return jax.tree.map(lambda array: array[0], batch)


@functools.lru_cache(maxsize=32)
def make_predict(model: nnx.GraphDef[Any], normalization: Normalizer | None, precision: str) -> Wrapped:
    """Build `predict(params, variables, images [B, H, W, C]) -> logits [B, K]`."""

    @jax.jit
    def predict(params: Tree, variables: Tree, images: jax.Array) -> jax.Array:
        network = nnx.merge(model, params, variables)
        with matmul_precision(precision):
            return forward(network, network_input(images, normalization), False, precision).logits

    return predict


@functools.lru_cache(maxsize=32)
def make_evaluate(
    model: nnx.GraphDef[Any], normalization: Normalizer | None, precision: str, metrics: Metrics
) -> Wrapped:
    """Build `evaluate(params, variables, images, labels, indices) -> sums` over data that live on the device.

    `indices` is `[S, B]`, padded with −1; the sums count each real example once.
    """
    evaluate_batch = make_evaluate_batch(model, normalization, precision, metrics)

    @jax.jit
    def evaluate(params: Tree, variables: Tree, images: jax.Array, labels: jax.Array, indices: jax.Array) -> Logs:
        def body(sums: Logs, index: jax.Array) -> tuple[Logs, None]:
            return evaluate_batch(params, variables, Batch(images[index], labels[index], index), sums), None

        return jax.lax.scan(body, {name: jnp.float32(0.0) for name, _ in metrics}, indices)[0]

    return evaluate


@functools.lru_cache(maxsize=32)
def make_evaluate_batch(
    model: nnx.GraphDef[Any], normalization: Normalizer | None, precision: str, metrics: Metrics
) -> Wrapped:
    """Build `evaluate(params, variables, batch, sums) -> sums`: a batch's examples added, but for those of index −1.

    Where the sums have an entry `examples`, these are counted there.
    """
    predict = make_predict(model, normalization, precision)

    @jax.jit
    def evaluate(params: Tree, variables: Tree, batch: Batch, sums: Logs) -> Logs:
        logits, real = predict(params, variables, batch.images), batch.index >= 0
        values = {name: per_example(name, metric, logits, batch.labels) for name, metric in metrics}
        found = {name: jnp.sum(jnp.where(real, value, 0.0)) for name, value in values.items()}
        found["examples"] = jnp.sum(real, dtype=jnp.float32)
        return {name: total + found[name] for name, total in sums.items()}

    return evaluate
