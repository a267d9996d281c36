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
from jaxkd.losses.layers import Fusion, average_pool, embedding_widths
from jaxkd.losses.stages import check_stages, taught
from jaxkd.types import at_least_float32

_SIZES = (4, 2, 1)
_WIDEST = 512


def hierarchical_context(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Weighted mean of squared differences of maps as they are and pooled to 4×4, 2×2 and 1×1, `[B, H, W, C] ×2 -> []`.

    Only sizes below H count; the weights are 1, ½, ¼ … in this order.

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


class ReviewKD(Loss):
    """The sum over stages of the hierarchical context loss between fused student maps and the teacher's.

    The student's features 1 and on are fused, the pooled one a map of 1×1; the teacher's preactivations 1 and on and
    its pooled feature are the targets. Published with weights from 0.6 to 8 that start with `losses.warmup(20)`.

    Raises:
      ValueError: at compile, where the networks have different numbers of stages or the teacher no preactivations.
    """

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        *stages, embedding = _widths(self, student, taught(self, teacher))
        passed_on = min(_WIDEST, embedding[0])
        self.fusions = nnx.List([Fusion(*widths, passed_on, deepest=False, rngs=rngs) for widths in stages])
        self.fusions.append(Fusion(*embedding, passed_on, deepest=True, rngs=rngs))

    def __call__(self, student, teacher, batch, progress, key) -> jax.Array:
        targets = [_as_maps(out) for out in (*teacher.preactivations[1 : len(self.fusions)], teacher.features[-1])]
        fused = self.review(student.features, [target.shape[1:3] for target in targets])
        return jnp.stack([hierarchical_context(*pair) for pair in zip(fused, targets, strict=True)]).sum()

    def review(self, features: Sequence[jax.Array], sizes: Sequence[tuple[int, ...]]) -> list[jax.Array]:
        """Features 1 and on, each fused with all deeper ones and brought to the teacher's channels and these sizes."""
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
    """Channels of the student's features from 1 on and of what the teacher has for each."""
    check_stages(loss, student, teacher, None)
    widths = [
        (feature.shape[-1], teacher.preactivation(i).shape[-1])
        for i, feature in enumerate(student.outputs.features[1:-1], start=1)
    ]
    return [*widths, embedding_widths(loss, student, teacher, -1)]
