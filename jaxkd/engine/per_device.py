"""BatchNorm that sees each device's part of the batch, as in PyTorch's DistributedDataParallel.

Only the forward pass of the network that is trained runs device by device. What it says is one global array again, so
losses see the whole batch, and its gradients are those of the one total loss.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxkd.base import Batch, Outputs
from jaxkd.engine.sharding import Placement
from jaxkd.engine.state import Tree

BATCH_NORMS = ("global", "per_device")
CUT, WHOLE = PartitionSpec("data"), PartitionSpec()

Look = Callable[[Tree, Tree, Batch], tuple[Outputs, Tree]]


def devices_apart(batch_norm: str, placement: Placement) -> Mesh | None:
    """The devices each of which normalises its own part of the batch; None where the batch is normalised as a whole.

    Raises:
      ValueError: for an option that is not one of `BATCH_NORMS`.
    """
    if batch_norm not in BATCH_NORMS:
        raise ValueError(f"batch_norm={batch_norm!r}: choose one of {', '.join(map(repr, BATCH_NORMS))}")
    return placement.mesh if batch_norm == "per_device" and len(placement.devices) > 1 else None


def on_each(mesh: Mesh | None, look: Look) -> Look:
    """A network's pass over a batch in training, with each device seeing its own part alone.

    Its variables end as the mean over the devices. A batch that does not divide lies whole on every device, and is
    seen whole by each.

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
        rows = Outputs(CUT, CUT, CUT, classify=WHOLE)  # type: ignore[arg-type]  # in place of the arrays
        if batch.strong is not None:
            rows = rows._replace(strong=rows)
        # Networks may do anything in their pass, so none of it is held to say which values are equal on all devices.
        parted = jax.shard_map(
            on_device, mesh=mesh, in_specs=(WHOLE, WHOLE, CUT), out_specs=(rows, WHOLE), check_vma=False
        )
        return parted(params, variables, batch)

    return spread


def _of_this_device(variable: jax.Array) -> jax.Array:
    """Random keys differ from device to device, as the examples do."""
    if jnp.issubdtype(variable.dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(variable, lax.axis_index("data"))
    return variable


def _of_all_devices(before: jax.Array, own: jax.Array, after: jax.Array) -> jax.Array:
    if after is own:  # not touched: a mean would round it
        return before
    return lax.pmean(after, "data") if jnp.issubdtype(after.dtype, jnp.floating) else after
