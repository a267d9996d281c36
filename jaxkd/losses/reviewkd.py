"""Knowledge review (ReviewKD; Chen et al., CVPR 2021): each of the teacher's stages teaches the student's later ones too.

From the last stage back, the student's maps are fused with what was gathered from all deeper ones and then compared
with the teacher's at several sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.base import Outputs
from jaxkd.losses.base import Loss, Network
from jaxkd.losses.divergence import at_least_float32
from jaxkd.losses.fusion import Fusion
from jaxkd.losses.pooling import adaptive_average_pool
from jaxkd.losses.shapes import embedding_width, map_channels, name_of, taught_by

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
    weights = [0.5**i for i in range(len(sizes))]
    errors = [
        jnp.mean(jnp.square(adaptive_average_pool(student, size) - adaptive_average_pool(teacher, size)))
        for size in sizes
    ]
    return sum(weight * error for weight, error in zip(weights, errors, strict=True)) / sum(weights)


class ReviewKD(Loss):
    """The sum over stages of the hierarchical context loss between fused student maps and the teacher's.

    The student's features 1 and on are fused, the pooled one a map of 1×1; the teacher's preactivations 1 and on and
    its pooled feature are the targets. Published with weights from 0.6 to 8 that start with `losses.warmup(20)`.

    Raises:
      ValueError: at compile, where the networks have different numbers of stages or the teacher no preactivations.
    """

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        ours, theirs = _student_channels(student), _teacher_channels(taught_by("ReviewKD", teacher))
        if len(ours) != len(theirs):
            raise ValueError(
                f"ReviewKD pairs stages, but the student has {len(ours)} features after the stem and the teacher "
                f"{len(theirs) - 1} preactivations after the stem and an embedding: choose networks with as many stages"
            )
        width = min(_WIDEST, ours[-1])
        last = len(ours) - 1
        self.fusions = nnx.List(
            [
                Fusion(a, width, b, deepest=i == last, rngs=rngs)
                for i, (a, b) in enumerate(zip(ours, theirs, strict=True))
            ]
        )

    def __call__(self, student, teacher, batch, progress, key) -> jax.Array:
        targets = [_as_maps(out) for out in (*teacher.preactivations[1:], teacher.features[-1])]
        fused = self.review(student, [target.shape[1:3] for target in targets])
        errors = [hierarchical_context(ours, theirs) for ours, theirs in zip(fused, targets, strict=True)]
        return sum(errors[1:], errors[0])

    def review(self, student: Outputs, sizes: Sequence[tuple[int, ...]]) -> list[jax.Array]:
        """The student's stages, each fused with all deeper ones and brought to the teacher's channels and size."""
        fused, deeper = [], None
        stages = [_as_maps(feature) for feature in student.features[1:]]
        for fusion, maps, size in reversed(list(zip(self.fusions, stages, sizes, strict=True))):
            out, deeper = fusion(maps, deeper, size)
            fused.append(out)
        return fused[::-1]


def _as_maps(feature: jax.Array) -> jax.Array:
    feature = at_least_float32(feature)
    return feature if feature.ndim == 4 else feature[:, None, None, :]


def _student_channels(student: Network) -> list[int]:
    last = len(student.outputs.features) - 1
    maps = [map_channels("ReviewKD", student, i) for i in range(1, last)]
    return [*maps, embedding_width("ReviewKD", student, -1)]


def _teacher_channels(teacher: Network) -> list[int]:
    teacher.preactivation(1)
    maps = [entry.shape[-1] for entry in teacher.outputs.preactivations[1:]]
    return [*maps, embedding_width("ReviewKD", teacher, -1)]
