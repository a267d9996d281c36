"""Deep mutual learning (DML; Zhang et al., CVPR 2018): networks that are trained together and teach each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.losses.base import Loss, Monitor, Network
from jaxkd.losses.functional import cross_entropy, kl_divergence
from jaxkd.types import Batch, Key, Outputs, Progress, at_least_float32


class DML(Loss):
    """For each of several networks, its cross-entropy with the labels and the mean of KL(other ‖ own) over the others.

    Paper: Zhang et al., *Deep Mutual Learning*, CVPR 2018.

    The networks are one model, `jaxkd.Trainer(models.Ensemble([first, second]))`, whose measured accuracy is that of
    their mean. Each learns from the others as from a fixed teacher: no gradient flows into what it compares with. All
    take their step from the same outputs; the paper's algorithm has them take turns, each seeing what the one before
    has just learned. Cross-entropy and divergence, summed over the networks, appear in the logs.

    Raises:
      ValueError: at compile, for a single network.

    Example:
      >>> batch = Batch(images=None, labels=jnp.array([0]), index=None)
      >>> each = Outputs(jnp.array([[2.0, 0.0]])), Outputs(jnp.array([[0.0, 0.0]]))
      >>> dml = DML()
      >>> round(float(dml(Outputs(None, each=each), None, batch, None, None)), 4), round(float(dml.kl[...]), 4)
      (1.5817, 0.7616)
    """

    def __init__(self) -> None:
        self.ce, self.kl = (Monitor(jnp.float32(0.0)) for _ in range(2))

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        if len(student.outputs.each) < 2:
            raise ValueError(
                "DML trains two or more networks that teach each other: give "
                "jaxkd.Trainer(models.Ensemble([first, second]))"
            )

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        every = [at_least_float32(one.logits) for one in student.each]
        ce = jnp.stack([jnp.mean(cross_entropy(own, batch.labels)) for own in every]).sum()
        kl = jnp.stack(
            [
                jnp.mean(kl_divergence(jax.lax.stop_gradient(other), own))
                for place, own in enumerate(every)
                for other in every[:place] + every[place + 1 :]
            ]
        ).sum() / (len(every) - 1)
        for monitor, value in ((self.ce, ce), (self.kl, kl)):
            monitor[...] = jax.lax.stop_gradient(value).astype(jnp.float32)
        return ce + kl
