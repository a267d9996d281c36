"""Losses that compare two networks stage by stage and add up what they find."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from jaxkd.losses.base import Loss, Network
from jaxkd.losses.shapes import map_channels, name_of, taught_by


def shared_stages(
    method: str, student: Network, teacher: Network, positions: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The positions given, or those of the features that both networks have between the first and the last.

    Raises:
      ValueError: where there are none, or a network has no map `[B, H, W, C]` at one of them.
    """
    if positions is None:
        fewer = min(student, teacher, key=lambda network: len(network.outputs.features))
        positions = range(1, len(fewer.outputs.features) - 1)
        if not positions:
            raise ValueError(
                f"{method} takes the features between the first and the last, but {name_of(fewer)} has only "
                f"{len(fewer.outputs.features)} in all: give positions=(…)"
            )
    for position in positions:
        for network in (student, teacher):
            map_channels(method, network, position)
    return tuple(positions)


class StageLoss(Loss):
    """The sum over stages of what `compare` says of both networks' maps.

    Args:
      positions: which features; by default the outputs of all stages that both networks have, without the stem and the
        pooled one, as RepDistiller takes them (1, 2 and 3 of a CIFAR ResNet or WRN).

    Raises:
      ValueError: for no positions; at compile, for positions where a network has no map.
    """

    def __init__(self, positions: Sequence[int] | None = None):
        if positions is not None and len(positions) == 0:
            raise ValueError(f"positions={positions!r}: give at least one")
        self.positions = None if positions is None else tuple(positions)
        self._compared = self.positions

    def build(self, student: Network, teacher: Network | None, rngs) -> None:
        method = type(self).__name__
        self._compared = shared_stages(method, student, taught_by(method, teacher), self.positions)

    def compare(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        """How much two batches of maps `[B, H, W, C]`, `[B, H', W', C']` differ: a scalar."""
        raise NotImplementedError

    def __call__(self, student, teacher, batch, progress, key) -> jax.Array:
        terms = [self.compare(student.features[i], teacher.features[i]) for i in self._compared]
        return sum(terms[1:], terms[0])
