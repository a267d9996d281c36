"""The features of two networks that a loss compares, and the layers that bring a student's to the teacher's form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from jaxkd.losses.base import Loss, Network
from jaxkd.types import Batch, Key, Outputs, Progress


class StageLoss(Loss):
    """The sum over stages of what `compare` returns for the two networks' maps.

    Args:
      positions: which features; by default every stage after the stem, as in RepDistiller: 1 to 3 of a CIFAR ResNet.

    Raises:
      TypeError: for a single position.
      ValueError: at compile, where the networks have no maps at these positions or different numbers of stages.
    """

    def __init__(self, positions: Sequence[int] | None = None):
        if positions is not None and (isinstance(positions, str) or not isinstance(positions, Iterable)):
            raise TypeError(f"positions={positions!r}: give the numbers of the features in a tuple, as in (1, 2, 3)")
        self.positions = None if positions is None else tuple(positions)

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        check_stages(self, student, require_teacher(self, teacher), self.positions)

    def pairs(self, student: Outputs, teacher: Outputs) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Return the pairs of maps that are compared, or of their shapes."""
        return zip(*(select_stages(network.features, self.positions) for network in (student, teacher)), strict=True)

    def compare(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        """Return how much two batches of maps `[B, H, W, C]`, `[B, H', W', C']` differ: a scalar."""
        raise TypeError(f"{type(self).__name__} defines no compare(student, teacher)")

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        return jnp.stack([self.compare(*pair) for pair in self.pairs(student, teacher)]).sum()


def require_teacher(loss: Loss, teacher: Network | None) -> Network:
    """Return the teacher that a loss needs.

    Raises:
      ValueError: if there is none.
    """
    if teacher is None:
        raise ValueError(f"{type(loss).__name__} compares with a teacher: use jaxkd.Distiller, which has one")
    return teacher


def select_stages(features: Sequence[jax.Array], positions: Sequence[int] | None) -> list[jax.Array]:
    """Return the features at these positions; for None, all stages after the stem and before the pooled embedding."""
    return list(features[1:-1]) if positions is None else [features[i] for i in positions]


def check_stages(loss: Loss, student: Network, teacher: Network, positions: Sequence[int] | None) -> None:
    """Raise a ValueError unless both networks have maps `[B, H, W, C]` at these positions, as many as each other."""
    for position in positions or ():
        feature_maps(loss, student, teacher, position)
    ours, theirs = (len(select_stages(network.outputs.features, positions)) for network in (student, teacher))
    if ours != theirs or not ours:
        none = not (student.outputs.features and teacher.outputs.features)
        cure = "; a network without features gets them by models.with_features(network, ['layer1', …])" if none else ""
        raise ValueError(
            f"{type(loss).__name__} pairs the stages between stem and pooled embedding, but the student has {ours} and "
            f"the teacher {theirs}; give positions=(…) of features to compare{cure}"
        )
    for position in range(1, ours + 1) if positions is None else ():
        feature_maps(loss, student, teacher, position)


def feature_maps(
    loss: Loss, student: Network, teacher: Network, position: int
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Return the shapes of both networks' maps `[B, H, W, C]` at one position.

    Raises:
      ValueError: where a network has no feature there, or has a vector instead of a map; it names what there is.
    """
    ours, theirs = student.feature(position), teacher.feature(position)
    for whose, feature in (("student", ours), ("teacher", theirs)):
        if len(feature.shape) != 4:
            raise ValueError(
                f"{type(loss).__name__} compares maps [H, W, C], but the {whose}'s feature {position} has the shape "
                f"{list(feature.shape[1:])}; choose an earlier position"
            )
    return ours, theirs


def embedding_widths(loss: Loss, student: Network, teacher: Network, position: int) -> tuple[int, int]:
    """Return the channels C of both networks' embeddings `[B, C]` at one position.

    Raises:
      ValueError: where a network has no feature there, or has a map instead of a vector; it names what there is.
    """
    found = student.feature(position).shape, teacher.feature(position).shape
    for whose, shape in zip(("student", "teacher"), found, strict=True):
        if len(shape) != 2:
            raise ValueError(
                f"{type(loss).__name__} compares embeddings [C], but the {whose}'s feature {position} has the shape "
                f"{list(shape[1:])}; choose the pooled one, usually the last"
            )
    return found[0][-1], found[1][-1]


class StatelessBatchNorm(nnx.Module):
    """Batch normalisation of the last axis with the statistics of the batch at hand (Ioffe & Szegedy 2015).

    Losses are computed in training only, so it keeps no running statistics.

    Args:
      channels: size of the last axis.
      epsilon: added to the variance.

    Example:
      >>> StatelessBatchNorm(1)(jnp.array([[1.0], [3.0]])).round(3).tolist()
      [[-1.0], [1.0]]
    """

    def __init__(self, channels: int, *, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, features: jax.Array) -> jax.Array:
        axes = tuple(range(features.ndim - 1))
        centred = features - features.mean(axes, keepdims=True)
        variance = jnp.square(centred).mean(axes, keepdims=True)
        scale, bias = (
            jnp.broadcast_to(value[...].astype(features.dtype), variance.shape) for value in (self.scale, self.bias)
        )
        return centred * (scale * jax.lax.rsqrt(variance + self.epsilon)) + bias


def average_pool(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Average equal parts of the maps, `[B, H, W, C] -> [B, *size, C]`, as PyTorch's adaptive average pooling.

    Where H is no multiple of the new height, neighbouring parts share a row.

    Example:
      >>> average_pool(jnp.array([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1), (2, 1)).ravel().tolist()
      [1.5, 4.0]
    """
    return _resize(maps, size, _averaging)


def nearest(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Repeat or drop rows and columns, `[B, H, W, C] -> [B, *size, C]`: the new row i is row ⌊i · H / height⌋.

    Example:
      >>> nearest(jnp.array([1.0, 2.0]).reshape(1, 2, 1, 1), (4, 1)).ravel().tolist()
      [1.0, 1.0, 2.0, 2.0]
    """
    return _resize(maps, size, _choosing)


def to_smaller(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Average two batches of maps down to the smaller of both heights and of both widths.

    Example:
      >>> student, teacher = to_smaller(jnp.ones((1, 8, 8, 2)), jnp.ones((1, 4, 4, 3)))
      >>> student.shape
      (1, 4, 4, 2)
    """
    size = min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2])
    return average_pool(student, size), average_pool(teacher, size)


Matrix = npt.NDArray[np.float64]


def _resize(maps: jax.Array, size: tuple[int, ...], matrix: Callable[[int, int], Matrix]) -> jax.Array:
    if maps.shape[1:3] == size:
        return maps
    rows, columns = (jnp.asarray(matrix(*pair), maps.dtype) for pair in zip(maps.shape[1:3], size, strict=True))
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, maps, precision="highest")


def _averaging(before: int, after: int) -> Matrix:
    """Return the weights of each part in a row, `[after, before]`."""
    matrix = np.zeros((after, before))
    for i in range(after):
        start, end = i * before // after, -((i + 1) * before // -after)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def _choosing(before: int, after: int) -> Matrix:
    """Return a single 1 in each row, `[after, before]`: products, since the gradient of indexing is a slow scatter."""
    return np.eye(before)[np.arange(after) * before // after]
