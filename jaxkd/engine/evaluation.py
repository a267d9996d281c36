"""Evaluation and prediction as compiled programs, with the network in evaluation mode."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.base import Normalization
from jaxkd.engine.feed import Resident, Stream
from jaxkd.engine.forward import forward, network_input
from jaxkd.engine.state import Tree
from jaxkd.engine.step import Logs
from jaxkd.metrics import Metric


@functools.lru_cache(maxsize=32)
def make_predict(model: nnx.GraphDef, normalization: Normalization | None, precision: str):
    """Builds `predict(params, variables, images [B, H, W, C]) -> logits [B, K]`."""

    @jax.jit
    def predict(params: Tree, variables: Tree, images: jax.Array) -> jax.Array:
        return forward(
            nnx.merge(model, params, variables), network_input(images, normalization), False, precision
        ).logits

    return predict


@functools.lru_cache(maxsize=32)
def make_evaluate(
    model: nnx.GraphDef, normalization: Normalization | None, precision: str, metrics: tuple[tuple[str, Metric], ...]
):
    """Builds `evaluate(params, variables, images, labels, indices) -> sums` over data that live on the device.

    `indices` is `[S, B]`, padded with −1; the sums count each real example once.
    """
    predict = make_predict(model, normalization, precision)

    @jax.jit
    def evaluate(params: Tree, variables: Tree, images: jax.Array, labels: jax.Array, indices: jax.Array) -> Logs:
        def body(sums: Logs, index: jax.Array) -> tuple[Logs, None]:
            logits, wanted = predict(params, variables, images[index]), labels[index]
            real = (index >= 0).astype(jnp.float32)
            values = {name: metric(logits, wanted) for name, metric in metrics}
            return {name: sums[name] + jnp.sum(jnp.where(real > 0, values[name], 0.0)) for name in sums}, None

        return jax.lax.scan(body, {name: jnp.float32(0.0) for name, _ in metrics}, indices)[0]

    return evaluate


def padded_batches(examples: int, batch_size: int) -> np.ndarray:
    """Indices of all examples in order, `[S, B]`, the last row filled up with −1.

    Example:
      >>> padded_batches(5, 3).tolist()
      [[0, 1, 2], [3, 4, -1]]
    """
    steps = -(-examples // batch_size)
    return np.pad(np.arange(examples, dtype=np.int32), (0, steps * batch_size - examples), constant_values=-1).reshape(
        steps, batch_size
    )


def evaluate(
    model: nnx.GraphDef,
    weights: tuple[Tree, Tree],
    normalization: Normalization | None,
    precision: str,
    metrics: tuple[tuple[str, Metric], ...],
    source: Resident | Stream,
    batch_size: int,
) -> dict[str, float]:
    """The mean of every metric over all examples of a source."""
    measure = make_evaluate(model, normalization, precision, metrics)
    parts = [source] if isinstance(source, Resident) else source
    sums, examples = dict.fromkeys((name for name, _ in metrics), 0.0), 0
    for part in parts:
        indices = padded_batches(len(part.labels), min(batch_size, len(part.labels)))
        found = measure(*weights, jnp.asarray(part.images), jnp.asarray(part.labels), jnp.asarray(indices))
        sums = {name: sums[name] + float(found[name]) for name in sums}
        examples += len(part.labels)
    if not examples:
        raise ValueError("nothing to evaluate: the iterable of batches gave none")
    return {name: total / examples for name, total in sums.items()}
