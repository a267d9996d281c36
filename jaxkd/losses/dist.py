"""DIST (Huang et al., NeurIPS 2022): the student's predictions correlate with a strong teacher's."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.losses.base import HyperParameter, Loss
from jaxkd.losses.functional import length
from jaxkd.losses.temperature import Temperature, as_temperature, temper
from jaxkd.types import Batch, Key, Outputs, Progress

_EPSILON = 1e-8


def correlation(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return Pearson's correlation along the last axis, `[…, N], […, N] -> […]`.

    As in the published code, 1e-8 is added to the product of the deviations: where hardly anything varies, as the
    probabilities of a class that no example belongs to, there is no correlation rather than one of noise.

    Example:
      >>> correlation(jnp.array([1.0, 2.0, 3.0]), jnp.array([6.0, 4.0, 2.0])).round(4).item()
      -1.0
    """
    a, b = (values - values.mean(-1, keepdims=True) for values in (a, b))
    both = length(a) * length(b)
    together = jnp.where(both > 0, jnp.sum(a * b, axis=-1), 0.0)
    return together / (both + _EPSILON)


class DIST(Loss):
    """T² · (β · (1 − inter-class correlation) + γ · (1 − intra-class correlation)) of the softened predictions.

    Paper: Huang et al., *Knowledge Distillation from a Stronger Teacher*, NeurIPS 2022.

    The first correlation is over the classes of an example, averaged over examples; the second over the examples of a
    class, averaged over classes. In a batch of one the second is undefined and taken as 0: a constant. The published
    code's defaults are kept here; they are meant for ImageNet, while T = 4 is usual on CIFAR-100.

    Args:
      beta: β.
      gamma: γ.
      temperature: T, or a temperature rule: `CurriculumTemperature()`, `ATS(correct, wrong)`.
      standardize: whether both logits are standardised first (Sun et al., CVPR 2024).

    Example:
      >>> from jaxkd import Batch, Outputs
      >>> batch = Batch(images=None, labels=jnp.array([0, 1]), index=None)
      >>> student, teacher = Outputs(jnp.array([[1.0, 0.0], [0.0, 1.0]])), Outputs(jnp.array([[0.0, 1.0], [1.0, 0.0]]))
      >>> round(float(DIST()(student, teacher, batch, None, None)), 4)
      4.0
    """

    def __init__(
        self, beta: float = 1.0, gamma: float = 1.0, temperature: float | Temperature = 1.0, standardize: bool = False
    ):
        self.beta, self.gamma = HyperParameter(jnp.float32(beta)), HyperParameter(jnp.float32(gamma))
        self.temperature = as_temperature(temperature)
        self.standardize = standardize

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        ready = temper(self.temperature, self.standardize, student, teacher, batch, progress)
        ours, theirs = jax.nn.softmax(ready.student), jax.nn.softmax(ready.teacher)
        inter = jnp.mean(ready.scale * (1 - correlation(ours, theirs)))
        # A class has no temperature of its own where each example has one, so theirs are averaged.
        intra = jnp.mean(ready.scale) * jnp.mean(1 - correlation(ours.T, theirs.T))
        beta, gamma = (weight[...].astype(inter.dtype) for weight in (self.beta, self.gamma))
        return beta * inter + gamma * intra
