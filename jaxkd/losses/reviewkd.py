"""Knowledge review (ReviewKD; Chen et al., CVPR 2021): each stage learns with all deeper ones.

From the last stage back, the student's maps are fused with what was gathered from all deeper ones and then compared
with the teacher's at several sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.losses.base import Loss, Network
from jaxkd.losses.features import (
    StatelessBatchNorm,
    average_pool,
    check_stages,
    embedding_widths,
    nearest,
    require_teacher,
)
from jaxkd.nn.convolution import convolve
from jaxkd.nn.initializers import variance_scaling
from jaxkd.nn.layers import Linear
from jaxkd.types import Batch, Key, Outputs, Progress, at_least_float32

_SIZES = (4, 2, 1)
_WIDEST = 512
_unit_uniform = variance_scaling(1.0, "fan_in", "uniform")


def hierarchical_context(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Return a weighted mean of the squared differences of maps as they are and pooled to 4×4, 2×2 and 1×1.

    Only sizes below H count; the weights are 1, ½, ¼ … in this order. `[B, H, W, C], [B, H, W, C] -> []`.

    Example:
      >>> ours, theirs = jnp.array([1.0, 1.0, 1.0, 1.0]), jnp.array([3.0, -1.0, 3.0, -1.0])
      >>> float(hierarchical_context(ours.reshape(1, 2, 2, 1), theirs.reshape(1, 2, 2, 1)))  # 4 · 1 + 0 · ½, over 1½
      2.6666667461395264
    """
    own = student.shape[1:3]
    sizes = [own, *((size, size) for size in _SIZES if size < min(own))]
    apart = [average_pool(student, size) - average_pool(teacher, size) for size in sizes]
    weights = 0.5 ** np.arange(len(sizes))
    errors = jnp.stack([jnp.mean(jnp.square(difference)) for difference in apart])
    return jnp.sum(errors * jnp.asarray(weights / weights.sum(), errors.dtype))


class Fusion(nnx.Module):
    """One stage: the student's maps fused with the deeper ones, weighed at each place, and the teacher's predicted.

    Args:
      inputs: channels of the student's maps.
      outputs: channels of the teacher's maps.
      width: channels of what is passed on from the deepest stage to the first.
      deepest: whether this is the last stage, which has nothing deeper to fuse with.
      rngs: where the initial values come from.
    """

    def __init__(self, inputs: int, outputs: int, width: int, *, deepest: bool, rngs: nnx.Rngs):
        self.projection = Linear(inputs, width, kernel_init=_unit_uniform, bias=False, rngs=rngs)
        self.norm = StatelessBatchNorm(width)
        self.attention = None if deepest else Linear(2 * width, 2, rngs=rngs)
        self.kernel = nnx.Param(_unit_uniform(rngs.params(), (3, 3, width, outputs), jnp.float32))
        self.out_norm = StatelessBatchNorm(outputs)

    def __call__(self, maps: jax.Array, deeper: jax.Array | None, size: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """Return the prediction for the teacher, `[B, *size, outputs]`, and the fused maps, `[B, *size, width]`."""
        fused = self.norm(self.projection(maps))
        if self.attention is not None:
            assert deeper is not None
            deeper = nearest(deeper, maps.shape[1:3])
            weights = jax.nn.sigmoid(self.attention(jnp.concatenate([fused, deeper], axis=-1)))
            fused = fused * weights[..., :1] + deeper * weights[..., 1:]
        fused = nearest(fused, size)
        return self.out_norm(convolve(fused, self.kernel[...].astype(fused.dtype), 1, 1)), fused


class ReviewKD(Loss):
    """The sum over stages of the hierarchical context loss between fused student maps and the teacher's.

    Paper: Chen et al., *Distilling Knowledge via Knowledge Review*, CVPR 2021.

    The student's features from position 1 on are fused, the pooled one as a map of 1×1; the targets are the teacher's
    preactivations from position 1 on and its pooled feature. Published with weights from 0.6 to 8 that start with
    `losses.warmup(20)`.

    Raises:
      ValueError: at compile, where the networks have different numbers of stages or the teacher no preactivations.
    """

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        *stages, embedding = _widths(self, student, require_teacher(self, teacher))
        passed_on = min(_WIDEST, embedding[0])
        self.fusions = nnx.List([Fusion(*widths, passed_on, deepest=False, rngs=rngs) for widths in stages])
        self.fusions.append(Fusion(*embedding, passed_on, deepest=True, rngs=rngs))

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        targets = [_as_maps(out) for out in (*teacher.preactivations[1 : len(self.fusions)], teacher.features[-1])]
        fused = self.review(student.features, [target.shape[1:3] for target in targets])
        return jnp.stack([hierarchical_context(*pair) for pair in zip(fused, targets, strict=True)]).sum()

    def review(self, features: Sequence[jax.Array], sizes: Sequence[tuple[int, ...]]) -> list[jax.Array]:
        """Fuse each of features 1 and on with all deeper ones, at the teacher's channels and these sizes."""
        reviewed: list[jax.Array] = []
        deeper = None
        for fusion, feature, size in reversed(list(zip(self.fusions, features[1:], sizes, strict=True))):
            out, deeper = fusion(_as_maps(feature), deeper, size)
            reviewed.insert(0, out)
        return reviewed


def _as_maps(feature: jax.Array) -> jax.Array:
    feature = at_least_float32(feature)
    return feature if feature.ndim == 4 else feature[:, None, None, :]


def _widths(loss: Loss, student: Network, teacher: Network) -> list[tuple[int, int]]:
    """Return the channels of the student's features from 1 on, each with those of its target in the teacher."""
    check_stages(loss, student, teacher, None)
    widths = [
        (feature.shape[-1], teacher.preactivation(i).shape[-1])
        for i, feature in enumerate(student.outputs.features[1:-1], start=1)
    ]
    return [*widths, embedding_widths(loss, student, teacher, -1)]
