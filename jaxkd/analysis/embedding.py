"""Embeddings in the plane, and the separation of classes in them; both need the extra `analysis`."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike


def embed(embeddings: ArrayLike, seed: int = 0, perplexity: float = 30.0) -> np.ndarray:
    """Embed points by t-SNE (van der Maaten and Hinton, JMLR 2008), which keeps near points near.

    The same input and seed give the same picture: it is computed by a single thread. Distances between far groups mean
    little.

    Args:
      embeddings: `[N, C]`.
      seed: of the optimisation; it starts from the principal components.
      perplexity: about the number of neighbours that count; at most a third of N.

    Returns:
      `[N, 2]`.

    Raises:
      ImportError: without scikit-learn.

    Example:
      >>> embed(np.random.default_rng(0).normal(size=(20, 4))).shape
      (20, 2)
    """
    values = np.asarray(embeddings, np.float32)
    manifold, threads = _part("manifold"), importlib.import_module("threadpoolctl")
    near = min(perplexity, max((len(values) - 1) / 3, 1.0))
    with threads.threadpool_limits(1):
        return np.asarray(manifold.TSNE(2, perplexity=near, init="pca", random_state=seed).fit_transform(values))


def separation(embeddings: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean silhouette (Rousseeuw 1987) of the classes, from −1 to 1: 1 for tight groups far apart.

    Args:
      embeddings: `[N, C]`, the network's own; those of `embed` would flatter it.
      labels: the true classes, `[N]`, at least two of them.

    Raises:
      ImportError: without scikit-learn.

    Example:
      >>> round(separation([[0.0], [0.1], [5.0], [5.1]], [0, 0, 1, 1]), 2)
      0.98
    """
    return float(_part("metrics").silhouette_score(np.asarray(embeddings, np.float64), np.asarray(labels)))


def check_scikit_learn() -> None:
    """Raise an error that says what to install, before any work is lost.

    Raises:
      ImportError: without scikit-learn.
    """
    _part("manifold")


def _part(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"sklearn.{name}")
    except ImportError as error:
        raise ImportError('embeddings in the plane need scikit-learn: pip install "jaxkd[analysis]"') from error
