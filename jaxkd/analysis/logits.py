"""Logits and embeddings of networks, checks of them, softmax and divergence in NumPy."""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from jaxkd.data import Dataset
from jaxkd.data.array_checks import checked_labels
from jaxkd.trainer import Trainer
from jaxkd.training.forward import forward
from jaxkd.types import Outputs


def predict(model: nnx.Module, images: np.ndarray | Dataset, batch_size: int = 250) -> np.ndarray:
    """Return the logits `[N, K]` of images, as `Trainer.predict` gives them.

    Args:
      model: a network with its weights.
      images: a data set, uint8 pixels `[N, H, W, C]`, or float32 already normalised.
      batch_size: images at a time.

    Example:
      >>> from jaxkd import data, models
      >>> train, test = data.load("digits")
      >>> predict(models.create("resnet8", num_classes=10), test.subset(5)).shape
      (5, 10)
    """
    return Trainer(model).predict(images, batch_size)


def embeddings(model: nnx.Module, images: np.ndarray | Dataset, batch_size: int = 250) -> np.ndarray:
    """Return the last feature of a network for images, pooled, as its classifier sees it: `[N, C]`.

    Args:
      model: a network with its weights, whose outputs have features.
      images: as for `predict`.
      batch_size: images at a time.

    Example:
      >>> from jaxkd import data, models
      >>> train, test = data.load("digits")
      >>> embeddings(models.create("resnet8", num_classes=10), test.subset(5)).shape
      (5, 64)
    """
    return predict(_Embedding(model), images, batch_size)


class _Embedding(nnx.Module):
    """A network whose output is its embedding, so that `predict` returns embeddings."""

    def __init__(self, network: nnx.Module):
        self.network = network
        self.normalization = getattr(network, "normalization", None)

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        features = forward(self.network, images, train, "float32").features
        if not features:
            raise ValueError(
                f"{type(self.network).__name__} returns no features, the last of which is the embedding: return "
                "jaxkd.Outputs(logits, features), or name its layers by models.with_features"
            )
        return Outputs(features[-1])


def checked_logits(logits: ArrayLike) -> np.ndarray:
    """Return logits as float64 `[N, K]`.

    Raises:
      ValueError: for another shape, fewer than two classes, no images, or numbers that are not finite.

    Example:
      >>> checked_logits([[1.0, float("nan")]])
      Traceback (most recent call last):
      ValueError: the logits of image 0 are not all finite: the network diverged, or its images were not normalised
    """
    values = np.asarray(logits, np.float64)
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2:
        raise ValueError(f"logits are [images, classes] with two classes or more; their shape is {values.shape}")
    finite = np.isfinite(values).all(1)
    if not finite.all():
        raise ValueError(
            f"the logits of image {int(np.argmin(finite))} are not all finite: the network diverged, or its images "
            "were not normalised"
        )
    return values


def with_labels(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return logits as float64 `[N, K]`, and labels as int32 `[N]` that are classes of theirs.

    Raises:
      ValueError, TypeError: as `checked_logits`, and for labels out of range or not as many.
    """
    values = checked_logits(logits)
    return values, checked_labels(np.asarray(labels), *values.shape)


def pair(teacher: ArrayLike, student: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of two networks for the same images, as float64 `[N, K]`.

    Raises:
      ValueError: as `checked_logits`, and for shapes that differ.
    """
    ours, theirs = checked_logits(student), checked_logits(teacher)
    if ours.shape != theirs.shape:
        raise ValueError(
            f"the teacher's logits are {theirs.shape} and the student's {ours.shape}: both must be for the same images "
            "and classes"
        )
    return theirs, ours


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithm of the softmax over the last axis, without overflow.

    Example:
      >>> np.exp(log_softmax(np.array([[1000.0, 1000.0]]))).tolist()
      [[0.5, 0.5]]
    """
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, without overflow."""
    return np.asarray(np.exp(log_softmax(logits)))


def wrong_of(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the values of the wrong classes, in their order, `[N, K], [N] -> [N, K − 1]`.

    Example:
      >>> wrong_of(np.array([[1, 2, 3], [4, 5, 6]]), np.array([1, 0])).tolist()
      [[1, 3], [5, 6]]
    """
    wrong = np.arange(values.shape[1])[None] != labels[:, None]
    return np.asarray(values[wrong].reshape(len(values), -1))


def divergence(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Return KL(softmax(teacher) ‖ softmax(student)) of each image, `[N, K], [N, K] -> [N]`.

    Example:
      >>> divergence(np.zeros((1, 2)), np.log([[0.25, 0.75]])).round(4).tolist()
      [0.1438]
    """
    target = log_softmax(teacher)
    return np.asarray(np.sum(np.exp(target) * (target - log_softmax(student)), -1))
