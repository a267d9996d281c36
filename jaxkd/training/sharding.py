"""Data parallelism: state and data on every device, each batch split over them. XLA adds the communication.

The step is written for the global batch, so BatchNorm and batch-relational losses see all of it and N devices give the
result of one, up to the order of float32 sums. The devices may belong to several processes; each then holds its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxkd.data.sampling import Share
from jaxkd.training.state import Tree, fingerprint
from jaxkd.types import Batch, Outputs

SHARDED, SHARDED_STEPS, REPLICATED = PartitionSpec("data"), PartitionSpec(None, "data"), PartitionSpec()
"""Arrays `[B, …]` cut over the devices, arrays `[S, B, …]` likewise, and arrays that all devices have whole."""


class Placement:
    """The devices that hold a run's arrays: a mesh with one axis, `data`.

    Args:
      devices: those to use; all of them if None, also those of other processes.

    Attributes:
      devices: those in use.
      mesh: of all of them.
      processes: the numbers of the processes that have any, in the order of their devices.

    Raises:
      ValueError: this process has none of the devices, or they are mixed or spread unevenly over the processes.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None):
        self.devices = list(devices if devices is not None else jax.devices())
        self.mesh = Mesh(np.array(self.devices), ("data",))
        owners = [device.process_index for device in self.devices]
        self.processes = list(dict.fromkeys(owners))
        each = len(owners) // len(self.processes)
        if owners != [process for process in self.processes for _ in range(each)]:
            raise ValueError(f"devices={self.devices}: give equally many of each process, one process after the other")
        if jax.process_index() not in self.processes:
            raise ValueError(f"devices={self.devices}: none of them belongs to process {jax.process_index()}")

    def replicate(self, tree: Tree) -> Tree:
        """Put a copy on every device."""
        if len(self.processes) == 1:
            return jax.device_put(tree, NamedSharding(self.mesh, REPLICATED))
        return jax.tree.map(lambda leaf: self._put(leaf, REPLICATED), tree)

    def check_same(self, what: str, tree: Tree) -> None:
        """Refuse to begin where processes have different arrays, from each of which its devices would go on.

        Args:
          what: they are, in words.
          tree: of arrays.

        Raises:
          ValueError: in every process.
        """
        if len(self.processes) == 1:
            return
        own = np.frombuffer(bytes.fromhex(fingerprint(jax.tree.leaves(tree))), np.uint8)
        each = len(self.devices) // len(self.processes)
        rows = jax.make_array_from_process_local_data(NamedSharding(self.mesh, SHARDED), np.tile(own, (each, 1)))
        seen = np.asarray(jax.jit(lambda rows: rows, out_shardings=NamedSharding(self.mesh, REPLICATED))(rows))
        if (seen != seen[0]).any():
            raise ValueError(f"the processes of this run have different {what}: give all the same files and seeds")

    def shard_runs(self, tree: Tree) -> Tree:
        """Cut the runs of arrays `[n, …]` over the devices."""
        return jax.device_put(tree, NamedSharding(self.mesh, SHARDED))

    def shard(self, tree: Tree) -> Tree:
        """Cut B of arrays `[S, B, …]` over the devices, filled up where it does not divide; see `Trim`.

        Every process has the whole arrays.
        """
        return jax.tree.map(lambda leaf: self._put(pad_rows(leaf, self.padded(leaf.shape[1])), SHARDED_STEPS), tree)

    def shard_of_process(self, tree: Tree, batch_size: int) -> Tree:
        """Cut B as `shard` does, from arrays `[S, b, …]` that are this process's `share` of it."""
        rows = self.padded(batch_size)

        def put(share: np.ndarray) -> jax.Array:
            own = pad_rows(share, rows // len(self.processes))
            if len(self.processes) == 1:
                return self._put(own, SHARDED_STEPS)
            shape = (own.shape[0], rows, *own.shape[2:])
            return jax.make_array_from_process_local_data(NamedSharding(self.mesh, SHARDED_STEPS), own, shape)

        return jax.tree.map(put, tree)

    def trim(self, batch_size: int) -> Trim | None:
        """Return what takes off the rows that a batch was filled up with; None where it divides over the devices."""
        return Trim(self.mesh, batch_size) if batch_size % len(self.devices) else None

    @property
    def share(self) -> Share:
        """The part of a batch that this process reads."""
        return Share(len(self.devices), len(self.processes), self.processes.index(jax.process_index()))

    def padded(self, batch_size: int) -> int:
        """Return the next batch size that divides over the devices.

        Example:
          >>> Placement(jax.devices()[:1] * 4).padded(6)
          8
        """
        return batch_size + -batch_size % len(self.devices)

    def gather(self, array: jax.Array) -> np.ndarray:
        """Return the whole of an array on the host, in every process."""
        if array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array)
        return multihost_utils.process_allgather(array, tiled=True)

    def _put(self, leaf: jax.Array | np.ndarray, spec: PartitionSpec) -> jax.Array:
        sharding = NamedSharding(self.mesh, spec)
        if len(self.processes) == 1:
            return jax.device_put(leaf, sharding)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            bits = self._put(jax.random.key_data(leaf), spec)
            return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
        whole = np.asarray(leaf)  # each process takes what belongs to its devices, and tells the others nothing
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Placement) and self.devices == other.devices

    def __hash__(self) -> int:
        return hash(tuple(self.devices))

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a global batch that does not divide over the devices."""
        count = len(self.devices)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        if batch_size % count:
            nearest = max(round(batch_size / count), 1) * count
            raise ValueError(
                f"batch_size={batch_size} does not divide over {count} devices; the nearest that does is {nearest}"
            )


@dataclass(frozen=True)
class Trim:
    """Take off, in a compiled program, the rows that a batch was filled up with; it stays cut over the devices.

    JAX gives no shard a size of its own, but XLA computes with such arrays as if they lay on one device: it masks what
    is beyond their end wherever examples are added up or compared.

    Attributes:
      mesh: of the devices.
      batch_size: B, the number of true examples.
    """

    mesh: Mesh
    batch_size: int

    def __call__(self, tree: Tree) -> Tree:
        """Return arrays `[B, …]` of those filled up, or of those that are cut over the devices in another way."""
        sharding = NamedSharding(self.mesh, SHARDED)
        return jax.tree.map(lambda rows: lax.with_sharding_constraint(rows[: self.batch_size], sharding), tree)


def pad_rows(rows: Any, count: int) -> Any:
    """Return arrays `[S, B, …]` with the last row repeated until there are `count`.

    Example:
      >>> pad_rows(np.array([[1, 2, 3]]), 4).tolist()
      [[1, 2, 3, 3]]
    """
    missing = count - rows.shape[1]
    if not missing:
        return rows
    arrays = jnp if isinstance(rows, jax.Array) else np
    return arrays.concatenate([rows, arrays.repeat(rows[:, -1:], missing, axis=1)], axis=1)


BATCH_NORMS = ("global", "per_device")

Look = Callable[[Tree, Tree, Batch], tuple[Outputs, Tree]]


def bn_mesh_of(batch_norm: str, placement: Placement) -> Mesh | None:
    """Return the mesh of devices that each normalise their own part of the batch; None for the batch as a whole.

    Raises:
      ValueError: for an option that is not one of `BATCH_NORMS`.
    """
    if batch_norm not in BATCH_NORMS:
        raise ValueError(f"batch_norm={batch_norm!r}: choose one of {', '.join(map(repr, BATCH_NORMS))}")
    return placement.mesh if batch_norm == "per_device" and len(placement.devices) > 1 else None


def on_each_device(mesh: Mesh | None, look: Look) -> Look:
    """Return a network's forward pass in training with each device seeing its own part of the batch alone.

    Its variables end as the mean over the devices. In a batch that does not divide, BatchNorm sees all examples.

    Args:
      mesh: of the devices; without one, the pass is left as it is.
      look: `look(params, variables, batch) -> (outputs, variables)`.
    """
    if mesh is None:
        return look

    def on_device(params: Tree, variables: Tree, part: Batch) -> tuple[Outputs, Tree]:
        own = jax.tree.map(_of_this_device, variables)
        outputs, after = look(params, own, part)
        return outputs, jax.tree.map(_of_all_devices, variables, own, after)

    def spread(params: Tree, variables: Tree, batch: Batch) -> tuple[Outputs, Tree]:
        if len(batch.labels) % mesh.size:
            return look(params, variables, batch)
        rows = _by_rows(jax.eval_shape(look, params, variables, batch)[0])
        # Networks may do anything in their pass, so none of it is held to say which values are equal on all devices.
        parted = jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(REPLICATED, REPLICATED, SHARDED),
            out_specs=(rows, REPLICATED),
            check_vma=False,
        )
        return parted(params, variables, batch)

    return spread


def _by_rows(outputs: Outputs) -> Outputs:
    """Return how outputs lie on the devices, in place of arrays: by examples, but for the classifier's weights."""
    rows = Outputs(SHARDED, SHARDED, SHARDED, classify=REPLICATED, distillation_logits=SHARDED, others=SHARDED)  # type: ignore[arg-type]
    strong = None if outputs.strong is None else _by_rows(outputs.strong)
    return rows._replace(strong=strong, each=tuple(map(_by_rows, outputs.each)))


def _of_this_device(variable: jax.Array) -> jax.Array:
    """Random keys differ from device to device, as the examples do."""
    if jnp.issubdtype(variable.dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(variable, lax.axis_index("data"))
    return variable


def _of_all_devices(before: jax.Array, own: jax.Array, after: jax.Array) -> jax.Array:
    if after is own:  # not touched: a mean would round it
        return before
    return lax.pmean(after, "data") if jnp.issubdtype(after.dtype, jnp.floating) else after
