"""Which features of two networks a loss compares, and the errors where they cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from jaxkd.losses.base import Loss, Network


def taught(loss: Loss, teacher: Network | None) -> Network:
    """The teacher a loss needs.

    Raises:
      ValueError: if there is none.
    """
    if teacher is None:
        raise ValueError(f"{type(loss).__name__} compares with a teacher: use jaxkd.Distiller, which has one")
    return teacher


def stages(features: Sequence[jax.Array], positions: Sequence[int] | None) -> list[jax.Array]:
    """The features at these positions; for None, all stages after the stem and before the pooled embedding."""
    return list(features[1:-1]) if positions is None else [features[i] for i in positions]


def check_stages(loss: Loss, student: Network, teacher: Network, positions: Sequence[int] | None) -> None:
    """Raises a ValueError unless both networks have maps `[B, H, W, C]` at these positions, as many as each other."""
    numbers = [len(stages(network.outputs.features, positions)) for network in (student, teacher)]
    if numbers[0] != numbers[1] or not numbers[0]:
        raise ValueError(
            f"{type(loss).__name__} pairs the stages between stem and pooled embedding: the student has {numbers[0]} "
            f"and the teacher {numbers[1]}; give positions=(…) of features to compare"
        )
    for position in range(1, numbers[0] + 1) if positions is None else positions:
        feature_maps(loss, student, teacher, position)


def feature_maps(
    loss: Loss, student: Network, teacher: Network, position: int
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """The shapes of both networks' maps at one position.

    Raises:
      ValueError: where a network has no feature there, or has a vector instead of a map; it names what there is.
    """
    found = student.feature(position), teacher.feature(position)
    for whose, feature in zip(("student", "teacher"), found, strict=True):
        if len(feature.shape) != 4:
            raise ValueError(
                f"{type(loss).__name__} compares maps [H, W, C], but the {whose}'s feature {position} has the shape "
                f"{list(feature.shape[1:])}; choose an earlier position"
            )
    return found
