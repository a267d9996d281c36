"""Many students in one program, each with batches of its own: runs that differ in their seed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.engine.chunks import Chunk, Epoch, chunk_steps, cut, on_resident, order_of, skip
from jaxkd.engine.epoch import Augment, resident_steps
from jaxkd.engine.feed import Resident
from jaxkd.engine.kept_teacher import KeptTeacher
from jaxkd.engine.many import mapped_over_runs, on_every_device, owned, shared
from jaxkd.engine.sharding import Placement
from jaxkd.engine.state import TrainState, Tree, copied
from jaxkd.engine.step import Kept, Logs, Step


def own_batches_epoch(
    step: Step,
    source: Resident,
    placement: Placement,
    batch_size: int,
    steps: int | None,
    strong_view: Augment | None = None,
    teacher: KeptTeacher | None = None,
) -> Epoch:
    """As `resident_epoch`, for a stacked state with a key for each run, each of which draws an order of its own.

    `step` is that of one run, and `batch_size` that of each.
    """
    loop = make_own_batches_loop(step, source.augmentation, strong_view, placement)
    images, labels = placement.everywhere((source.images, source.labels))
    most = chunk_steps(source, placement, batch_size, steps)

    def epoch(state: TrainState, done: int = 0) -> Iterator[Chunk]:
        taken, keys = int(state.step), list(copied(state.key))  # the state's own buffers go to the first chunk
        orders = [order_of(key, state.epoch, len(labels)) for key in keys]
        for each in zip(*(skip(cut(order, batch_size, most), done) for order in orders), strict=True):
            recalled = teacher and [
                teacher.recall(key, images, taken, indices) for key, indices in zip(keys, each, strict=True)
            ]
            kept = recalled and jax.tree.map(lambda *outputs: jnp.stack(outputs), *recalled)
            taken += len(each[0])
            indices, kept = placement.over_runs((np.stack(each), kept))
            yield Chunk(partial(on_resident, loop, images, labels, indices, kept), each[0].shape[1])

    return epoch


@functools.lru_cache(maxsize=32)
def make_own_batches_loop(step: Step, augment: Augment | None, strong_view: Augment | None, placement: Placement):
    """Builds `run(state, images, labels, indices, kept=None) -> (state, logs)` for a state with a key for each run.

    `indices` is `[n, S, B]` and `kept` `[n, S, B, …]`; the logs are `[S, n]`.
    """
    take_steps = resident_steps(step, augment, strong_view)
    over_runs = mapped_over_runs(placement)

    def run(
        state: TrainState, images: jax.Array, labels: jax.Array, indices: jax.Array, kept: Kept | None = None
    ) -> tuple[TrainState, Logs]:
        def on_device(given: Tree, common: TrainState, images: jax.Array, labels: jax.Array) -> tuple[Tree, Logs]:
            def of_one(given: Tree) -> tuple[Tree, Logs]:
                own, indices, kept = given
                after, logs = take_steps(replace(common, **own), images, labels, indices, kept)
                return {name: getattr(after, name) for name in own}, logs

            return over_runs(of_one, given)

        own = owned(state)
        own, logs = on_every_device(placement, on_device)((own, indices, kept), shared(state, own), images, labels)
        after = replace(state, step=state.step + indices.shape[1], **own)
        return after, {name: jnp.moveaxis(values, 0, 1) for name, values in logs.items()}

    return jax.jit(run, donate_argnums=0)
