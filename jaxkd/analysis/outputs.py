"""What networks answer: their logits and embeddings for many images."""

from __future__ import annotations

import numpy as np
from flax import nnx

from jaxkd.base import Outputs
from jaxkd.data import Dataset
from jaxkd.trainer import Trainer


def predict(model: nnx.Module, images: np.ndarray | Dataset, batch_size: int = 250) -> np.ndarray:
    """The logits `[N, K]` of images, as `Trainer.predict` gives them.

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
    """What the classifier sees of images: the last feature of the network, pooled, `[N, C]`.

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
    """A network whose answer is its own embedding, so that what predicts logits also predicts embeddings."""

    def __init__(self, network: nnx.Module):
        self.network = network
        self.normalization = getattr(network, "normalization", None)

    def __call__(self, images, train: bool = False) -> Outputs:
        return Outputs(self.network(images, train=train).features[-1])
