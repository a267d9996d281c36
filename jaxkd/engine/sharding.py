"""Data parallelism: state and data on every device, each batch split over them. XLA adds the communication.

The step is written for the global batch, so BatchNorm and batch-relational losses see all of it and N devices give the
result of one, up to the order of float32 sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxkd.engine.state import TrainState, Tree


class Placement:
    """Where the arrays of a run live: a mesh with one axis, `data`.

    Args:
      devices: those to use; all of the default back end if None.

    Attributes:
      devices: those in use.
      mesh: of all of them.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None):
        self.devices = list(devices if devices is not None else jax.devices())
        self.mesh = Mesh(np.array(self.devices), ("data",))

    def everywhere(self, tree: Tree) -> Tree:
        """A copy on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def over_runs(self, state: TrainState) -> TrainState:
        """A stacked state with its runs cut over the devices, and what they share on every one."""
        runs = NamedSharding(self.mesh, PartitionSpec("data"))
        shared = self.everywhere(replace(state, params=None, variables=None, opt_state=None))
        params, variables, opt_state = jax.device_put((state.params, state.variables, state.opt_state), runs)
        return replace(shared, params=params, variables=variables, opt_state=opt_state)

    def split(self, tree: Tree) -> Tree:
        """Arrays `[S, B, …]` with B cut over the devices; a last batch that does not divide is put on every device."""

        def put(array):
            divides = array.shape[1] % len(self.devices) == 0
            spec = PartitionSpec(None, "data") if divides else PartitionSpec()
            return jax.device_put(array, NamedSharding(self.mesh, spec))

        return jax.tree.map(put, tree)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Placement) and self.devices == other.devices

    def __hash__(self) -> int:
        return hash(tuple(self.devices))

    def check_batch_size(self, batch_size: int) -> None:
        """Raises a ValueError unless the global batch divides over the devices."""
        count = len(self.devices)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        if batch_size % count:
            nearest = max(round(batch_size / count), 1) * count
            raise ValueError(
                f"batch_size={batch_size} does not divide over {count} devices; the nearest that does is {nearest}"
            )
