"""Teacher-free distillation (Tf-KD; Yuan et al., CVPR 2020): a teacher made of the labels alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.checks import check_number
from jaxkd.losses.base import HyperParameter, Loss
from jaxkd.losses.functional import kl_divergence
from jaxkd.losses.temperature import checked_temperature
from jaxkd.types import Batch, Key, Outputs, Progress, at_least_float32


class TfKD(Loss):
    """KL(softmax(u / T) ‖ softmax(student)), u the probabilities of a virtual teacher; no real one is needed.

    Paper: Yuan et al., *Revisiting Knowledge Distillation via Label Smoothing Regularization*, CVPR 2020.

    The virtual teacher is right with probability `correct`, and spreads the rest evenly over the other classes. As in
    the authors' code its probabilities themselves, not their logarithms, are divided by T, which leaves a nearly even
    distribution; the student is not softened, and so there is no factor T². The published weight is 0.1 beside 0.9 CE:
    that of the authors' ResNet-18 on CIFAR-100, where a multiplier of 100 undoes their mean over the classes. This is
    the paper's Tf-KD_reg; its Tf-KD_self is `KD` from a network of the student's own kind.

    Args:
      correct: a, the probability of the true class.
      temperature: T.

    Raises:
      ValueError: for a probability outside [0, 1), or a temperature that is not above 0.

    Example:
      >>> batch = Batch(images=None, labels=jnp.array([0]), index=None)
      >>> round(float(TfKD()(Outputs(jnp.array([[2.0, 0.0]])), None, batch, None, None)), 4)
      0.4096
    """

    def __init__(self, correct: float = 0.99, temperature: float = 20.0):
        check_number("correct", correct, below=1.0)
        self.correct = HyperParameter(jnp.float32(correct))
        self.temperature = HyperParameter(jnp.float32(checked_temperature("temperature", temperature)))

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        logits = at_least_float32(student.logits)
        classes = logits.shape[-1]
        right = jax.nn.one_hot(batch.labels, classes, dtype=bool)
        correct, temperature = (value[...].astype(logits.dtype) for value in (self.correct, self.temperature))
        virtual = jnp.where(right, correct, (1 - correct) / (classes - 1))
        return jnp.mean(kl_divergence(virtual / temperature, logits))
