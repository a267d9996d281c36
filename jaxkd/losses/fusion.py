"""Attention-based fusion of a stage's maps with those of deeper stages (Chen et al., CVPR 2021)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import variance_scaling

from jaxkd.convolution import convolve
from jaxkd.losses.projection import BatchNorm, Projection
from jaxkd.losses.resize import nearest

_uniform = variance_scaling(1.0, "fan_in", "uniform")


class Fusion(nnx.Module):
    """Brings maps to a common width, weighs them against the deeper maps at each place, and predicts the teacher's.

    Args:
      inputs: channels of the student's maps.
      outputs: channels of the teacher's maps.
      width: channels of what is passed on from the deepest stage to the first.
      deepest: whether this is the last stage, which has nothing deeper to fuse with.
      rngs: where the initial values come from.
    """

    def __init__(self, inputs: int, outputs: int, width: int, *, deepest: bool, rngs: nnx.Rngs):
        self.projection = Projection(inputs, width, kernel_init=_uniform, rngs=rngs)
        self.norm = BatchNorm(width)
        self.attention = None if deepest else Projection(2 * width, 2, bias=True, rngs=rngs)
        self.kernel = nnx.Param(_uniform(rngs.params(), (3, 3, width, outputs), jnp.float32))
        self.out_norm = BatchNorm(outputs)

    def __call__(self, maps: jax.Array, deeper: jax.Array | None, size: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """What is compared with the teacher, `[B, *size, outputs]`, and what is passed on, `[B, *size, width]`."""
        fused = self.norm(self.projection(maps))
        if self.attention is not None:
            assert deeper is not None
            deeper = nearest(deeper, maps.shape[1:3])
            weights = jax.nn.sigmoid(self.attention(jnp.concatenate([fused, deeper], axis=-1)))
            fused = fused * weights[..., :1] + deeper * weights[..., 1:]
        fused = nearest(fused, size)
        return self.out_norm(convolve(fused, self.kernel[...].astype(fused.dtype), 1, 1)), fused
