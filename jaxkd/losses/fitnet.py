"""FitNets (Romero et al., ICLR 2015): a regressor on the student's maps predicts the teacher's, the hint."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.losses.base import Loss, Network
from jaxkd.losses.features import feature_maps, require_teacher, to_smaller
from jaxkd.nn.layers import Linear
from jaxkd.types import Batch, Key, Outputs, Progress, at_least_float32


def hint_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Return the mean squared difference of two batches of maps, `[B, H, W, C], [B, H, W, C] -> []`.

    Example:
      >>> float(hint_loss(jnp.zeros((1, 1, 1, 2)), jnp.array([[[[2.0, 4.0]]]])))
      10.0
    """
    return jnp.mean(jnp.square(student - teacher))


class FitNet(Loss):
    """The mean squared difference of the teacher's maps and a regression of them from the student's; usual weight 100.

    Paper: Romero et al., *FitNets: Hints for Thin Deep Nets*, ICLR 2015.

    The regressor is a 1×1 convolution with bias. In the paper the hint's own nonlinearity follows, in RepDistiller
    BatchNorm and ReLU; here nothing does, so that it can predict any map, also the stages of a WRN, which have negative
    values. Maps of different sizes are averaged down to the smaller. The paper trains the hint first and then the rest;
    weights by epoch can express that.

    Args:
      position: which feature; by default 2, the middle stage of a CIFAR ResNet, as in RepDistiller.

    Raises:
      ValueError: at compile, where a network has no map at this position.
    """

    def __init__(self, position: int = 2):
        self.position = position

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        ours, hint = feature_maps(self, student, require_teacher(self, teacher), self.position)
        self.regressor = Linear(ours.shape[-1], hint.shape[-1], rngs=rngs)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        maps = (at_least_float32(network.features[self.position]) for network in (student, teacher))
        ours, hint = to_smaller(*maps)
        return hint_loss(self.regressor(ours), hint)
