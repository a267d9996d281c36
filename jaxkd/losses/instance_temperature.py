"""CTKD with a temperature for each example (Li et al., AAAI 2023): a small network reads it off both predictions."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.losses.base import Network
from jaxkd.losses.curriculum import LearnedTemperature
from jaxkd.losses.temperature import Tempered
from jaxkd.types import Progress

_uniform = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def instance_divergence(
    teacher_logits: jax.Array, student_logits: jax.Array, temperatures: jax.Array, epsilon: float = 0.0
) -> jax.Array:
    """Mean over the examples of Tᵢ² · Σ p · (log p − log q), where p = softmax(teacher / Tᵢ) + ε, q likewise without ε.

    With ε = 0 it is the paper's loss, and what `KD(temperature=InstanceTemperature())` computes in log space. The
    authors' sketch adds ε = 1e-7 so that log p exists where p is 0, at the price of K·ε more than probability 1; the
    values differ by about T² · K · ε.

    Args:
      teacher_logits: `[B, K]`.
      student_logits: `[B, K]`.
      temperatures: `[B]`.
      epsilon: ε; where it is 0, so is what a class of probability 0 contributes.

    Example:
      >>> teacher, student = jnp.array([[3.0, 0.0], [6.0, 0.0]]), jnp.zeros((2, 2))
      >>> instance_divergence(teacher, student, jnp.array([1.0, 2.0])).round(4)
      Array(1.2557, dtype=float32)
    """
    temperatures = temperatures[:, None]
    said = jax.nn.log_softmax(student_logits / temperatures)
    log_target = jax.nn.log_softmax(teacher_logits / temperatures)
    target = jnp.exp(log_target) + epsilon
    log_target = jnp.log(target) if epsilon else log_target
    return jnp.mean(jnp.square(temperatures[:, 0]) * jnp.sum(target * (log_target - said), -1))


class InstanceTemperature(LearnedTemperature):
    """T = t_start + t_end · sigmoid(MLP(student, teacher)), one for each example.

    The network has two layers and reads both logits, those of the student first, as they come (standardised, where the
    loss standardises). They are only read: no gradient flows back through them, so that it is the networks that answer
    the temperature and not the other way round. The network's own gradient is multiplied by λ(epoch), as that of
    `CurriculumTemperature`. Its last bias starts at 1, so that all T start around the 15.62 of that class.

    The batch's mean T and λ appear in the logs as `…_temperature` and `…_lambda`.

    Args:
      hidden: units between the layers.
      t_start: the lower bound of T.
      t_end: the width of T's range.
      curriculum: λ as a function of the epoch counted from 1; the default is the paper's `cosine_curriculum(10)`.

    Raises:
      ValueError: for fewer than one unit, or bounds that are no temperatures.

    Example:
      >>> from jaxkd import Outputs
      >>> logits = jnp.array([[2.0, 0.0], [0.0, 3.0]])
      >>> rule = InstanceTemperature(hidden=4)
      >>> network = Network(rule, Outputs(logits))
      >>> rule.build(network, network, nnx.Rngs(0))
      >>> progress = Progress(step=jnp.int32(0), epoch=jnp.int32(1))
      >>> rule.temper(logits, logits, None, progress).scale.shape
      (2,)
    """

    def __init__(
        self,
        hidden: int = 128,
        t_start: float = 1.0,
        t_end: float = 20.0,
        curriculum: Callable[[jax.Array], jax.Array] | None = None,
    ):
        if isinstance(hidden, bool) or not isinstance(hidden, int) or hidden < 1:
            raise ValueError(f"hidden={hidden!r}: the network has a whole number of hidden units, at least one")
        super().__init__(t_start, t_end, curriculum)
        self.hidden = hidden

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        """Makes the network for the number of classes.

        Raises:
          ValueError: without a teacher.
        """
        if teacher is None:
            raise ValueError("InstanceTemperature reads a teacher's predictions: use jaxkd.Distiller, which has one")
        inputs = student.outputs.logits.shape[-1] + teacher.outputs.logits.shape[-1]
        self.first = nnx.Param(_uniform(rngs.params(), (inputs, self.hidden), jnp.float32))
        self.first_bias = nnx.Param(jnp.zeros(self.hidden))
        self.second = nnx.Param(_uniform(rngs.params(), (self.hidden, 1), jnp.float32))
        self.second_bias = nnx.Param(jnp.ones(1))

    def temper(self, student: jax.Array, teacher: jax.Array, labels: jax.Array, progress: Progress) -> Tempered:
        predictions = jax.lax.stop_gradient(jnp.concatenate([student, teacher], -1))
        return self.at(self._raw(predictions), student, teacher, progress)

    def _raw(self, predictions: jax.Array) -> jax.Array:
        """`[B, 2K] -> [B]`, what the sigmoid takes."""
        if not hasattr(self, "first"):
            raise ValueError("InstanceTemperature has no network yet: compile() makes it, or call build(…) first")
        first, first_bias, second, second_bias = (
            parameter[...].astype(predictions.dtype)
            for parameter in (self.first, self.first_bias, self.second, self.second_bias)
        )
        hidden = jax.nn.relu(predictions @ first + first_bias[None, :])
        return (hidden @ second + second_bias[None, :])[:, 0]
