"""Several networks as one: their mean is a teacher that is often better than each of them (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.nn.modes import call
from jaxkd.nn.outputs import as_outputs
from jaxkd.types import JointNormalization, Normalization, Normalizer, Outputs

Average = Callable[[jax.Array, jax.Array], jax.Array]


def mean_logits(logits: jax.Array, weights: jax.Array) -> jax.Array:
    """Return the weighted mean of logits, `[M, B, K] -> [B, K]`; weights `[M]` add up to 1."""
    return jnp.sum(weights.reshape(-1, 1, 1) * logits, axis=0)


def log_mean_probabilities(logits: jax.Array, weights: jax.Array) -> jax.Array:
    """Return the logarithm of the weighted mean of probabilities, `[M, B, K] -> [B, K]`; weights `[M]` add up to 1."""
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + jnp.log(weights).reshape(-1, 1, 1), axis=0)


AVERAGES: dict[str, Average] = {"logits": mean_logits, "probabilities": log_mean_probabilities}


class Constant(nnx.Variable[jax.Array]):
    """A number that an ensemble was made with: a variable, so that a cache of its outputs tells it from another's."""


class Ensemble(nnx.Module):
    """The mean of several networks, itself called as `model(images, train=False) -> Outputs`.

    It has logits alone: no features, since those of different networks have no mean. What each network says is in
    `Outputs.each`, for losses of one of them (`losses.FromTeacher`). Its networks stay modules of their own, and each
    sees images normalised with its own statistics where it carries any.

    Args:
      networks: M of them, with the same classes; any that `Trainer` takes, but for ensembles.
      weights: one for each, above 0; they are made to add up to 1. Equal ones by default.
      average: "logits", or "probabilities": the logits are then the logarithm of the mean of probabilities, which their
        softmax gives back at temperature 1.

    Raises:
      ValueError: for no networks, an ensemble among them, networks of different numbers of classes, weights that are
        not above 0 or not one for each network, or another average.

    Example:
      >>> from jaxkd.models.registry import create
      >>> teacher = Ensemble([create("resnet8", 10), create("vgg8", 10)], weights=[3, 1])
      >>> teacher.name, teacher(jnp.zeros((2, 32, 32, 3))).logits.shape
      ('ensemble of resnet8 and vgg8', (2, 10))
    """

    def __init__(self, networks: Sequence[nnx.Module], weights: Sequence[float] | None = None, average: str = "logits"):
        if not networks:
            raise ValueError("networks=[]: an ensemble needs at least one network")
        if inner := next((network for network in networks if isinstance(network, Ensemble)), None):
            raise ValueError(
                f"networks: the {_name(inner)} is one of them: give all networks to one ensemble, each with its weight"
            )
        classes = [getattr(network, "num_classes", None) for network in networks]
        if len({count for count in classes if count is not None}) > 1:
            raise ValueError(f"networks of {' and '.join(map(str, classes))} classes: their outputs have no mean")
        if average not in AVERAGES:
            raise ValueError(f"average={average!r}: choose one of {', '.join(map(repr, AVERAGES))}")
        self.networks = nnx.List(networks)
        self.weights = Constant(jnp.asarray(_checked(weights, len(networks)), jnp.float32))
        self.kind = Constant(jnp.int32(list(AVERAGES).index(average)))
        self.average = average
        self.name = f"ensemble of {' and '.join(_name(network) for network in networks)}"
        self.num_classes = next((count for count in classes if count is not None), None)
        self.image_shape = getattr(networks[0], "image_shape", None)
        self.normalization: Normalization | None = None

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        """Return the mean of logits for images `[B, H, W, C]`, or `[B, M, H, W, C]` with some for each network."""
        each = []
        for position, network in enumerate(self.networks):
            own = images[:, position] if images.ndim == 5 else images
            each.append(as_outputs(call(network, own, train), network))
        logits = [outputs.logits for outputs in each]
        if len({one.shape for one in logits}) > 1:
            shapes = " and ".join(str(list(one.shape)) for one in logits)
            raise ValueError(f"{self.name}: logits of {shapes} have no mean")
        return Outputs(AVERAGES[self.average](jnp.stack(logits), self.weights[...]), each=tuple(each))

    def normalizer(self, given: Normalization | None) -> Normalizer | None:
        """Return what normalises images for all of its networks.

        Args:
          given: for networks that carry no normalisation of their own.

        Returns:
          None where that of a network is not known.
        """
        fallback = self.normalization or given
        each = [getattr(network, "normalization", None) or fallback for network in self.networks]
        known = tuple(one for one in each if one is not None)
        if len(known) < len(each):
            return None
        return known[0] if len(set(known)) == 1 else JointNormalization(known)


def _checked(weights: Sequence[float] | None, count: int) -> np.ndarray:
    values = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    if values.shape != (count,):
        raise ValueError(f"weights={weights!r}: give one for each of the {count} networks")
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"weights={weights!r}: must be above 0; leave out a network that has no say")
    return values / values.sum()


def _name(network: nnx.Module) -> str:
    return getattr(network, "name", None) or type(network).__name__
