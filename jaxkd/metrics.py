"""Metrics: pure functions `(logits [B, K], labels [B]) -> [B]`, which return one float32 number per example.

The caller averages, so that padding can be masked and examples weighted. An evaluation takes any such function, and
those below also by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxkd.losses.functional import cross_entropy

Metric: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]


def top_k(k: int) -> Metric:
    """Return the metric that is 1 where the label is among the `k` highest logits, else 0.

    Among equal logits the lower class index comes first, as in `argmax`, so a network whose logits are all equal gets
    the accuracy of chance, not 100 %. A row that contains a NaN is never correct, nor one whose label is no class; with
    no more than `k` classes every other row is.

    Args:
      k: the number of highest logits, at least 1.

    Returns:
      A metric called `top{k}`.

    Raises:
      ValueError: for `k` below 1.

    Example:
      >>> logits, labels = jnp.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), jnp.array([1, 2])
      >>> top_k(2)(logits, labels).tolist()
      [0.0, 1.0]
    """
    if k < 1:
        raise ValueError(f"top_k({k}): k must be at least 1")

    def metric(logits: jax.Array, labels: jax.Array) -> jax.Array:
        classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)
        own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
        ahead = (logits > own) | ((logits == own) & (classes[None, :] < labels[:, None]))
        possible = (labels >= 0) & (labels < logits.shape[-1])
        correct = (jnp.sum(ahead, axis=-1) < k) & possible & ~jnp.any(jnp.isnan(logits), axis=-1)
        return correct.astype(jnp.float32)

    metric.__name__ = metric.__qualname__ = f"top{k}"
    metric.__doc__ = f"Return 1 where the label is among the {k} highest logits, else 0."
    return metric


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return 1 where the highest logit is the label's, else 0: `top_k(1)`.

    Example:
      >>> accuracy(jnp.array([[3.0, 1.0], [0.0, jnp.nan]]), jnp.array([0, 1])).tolist()
      [1.0, 0.0]
    """
    return _top1(logits, labels)


def get(metric: str | Metric) -> tuple[str, Metric]:
    """Return the name of a metric in the logs, and the metric.

    Args:
      metric: one of `"accuracy"`, `"top1"`, `"top5"`, `"cross_entropy"`, or a function, named by its `__name__`.

    Raises:
      ValueError: for an unknown name (the error lists the known ones) or a function without a name.
      TypeError: for anything else.

    Example:
      >>> get("top5")[0], get(top_k(3))[0]
      ('top5', 'top3')
    """
    if isinstance(metric, str):
        if metric not in _NAMED:
            raise ValueError(
                f"no metric is called {metric!r}; there are {', '.join(_NAMED)}. Others are given as functions, "
                "for example metrics.top_k(3)"
            )
        return metric, _NAMED[metric]
    if not callable(metric):
        raise TypeError(f"a metric is a name or a function (logits [B, K], labels [B]) -> [B], not {metric!r}")
    name = getattr(metric, "__name__", type(metric).__name__)
    if not name.isidentifier() or name == "partial":
        raise ValueError(
            f"{metric!r} has no name to appear under in the logs: write it as a `def`, or set its __name__"
        )
    return name, metric


_top1 = top_k(1)
_NAMED: dict[str, Metric] = {"accuracy": accuracy, "top1": _top1, "top5": top_k(5), "cross_entropy": cross_entropy}
