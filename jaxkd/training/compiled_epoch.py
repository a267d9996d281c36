"""An epoch as a compiled program: shuffling, augmenting, normalising and training without leaving the device."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.stages import Wrapped

from jaxkd.training.program import Augment
from jaxkd.training.sharding import Trim
from jaxkd.training.state import AUGMENT, TrainState, Tree, random_key
from jaxkd.training.step import CachedOutputs, Logs, Step
from jaxkd.types import Batch


def view_key(key: jax.Array, step: jax.Array) -> jax.Array:
    """Return the key that draws the views of a step's images, so that a step's views are known before it is taken."""
    return _augmentation_keys(key, step)[0]


def _augmentation_keys(key: jax.Array, step: jax.Array) -> jax.Array:
    return jax.random.split(random_key(key, AUGMENT, step), 3)


@functools.lru_cache(maxsize=32)
def make_resident_loop(
    step: Step, augment: Augment | None, strong_view: Augment | None = None, trim: Trim | None = None
) -> Wrapped:
    """Build `run(state, images, labels, indices, cached=None) -> (state, logs)` for data that live on the device.

    `augment` and `strong_view` are called as `(key, images)`. `indices` is `[S, B]`: the program takes S steps on the
    batches they select; `cached` is what is known of the teacher's outputs for them, `[S, B, …]`. The logs are `[S]`.
    `trim` takes off the rows that batches were filled up with.
    """
    return jax.jit(resident_steps(step, augment, strong_view, trim), donate_argnums=0)


def resident_steps(
    step: Step, augment: Augment | None, strong_view: Augment | None = None, trim: Trim | None = None
) -> Step:
    """Build what `make_resident_loop` compiles."""

    def run(
        state: TrainState, images: jax.Array, labels: jax.Array, indices: jax.Array, cached: CachedOutputs | None = None
    ) -> tuple[TrainState, Logs]:
        def body(state: TrainState, x: tuple[jax.Array, CachedOutputs | None]) -> tuple[TrainState, Logs]:
            index, known = trim(x) if trim else x
            chosen = images[index]
            seen = augment(view_key(state.key, state.step), chosen) if augment else chosen
            batch = Batch(seen, labels[index], index)
            if strong_view is not None:
                _, crop, strong = _augmentation_keys(state.key, state.step)
                batch = batch._replace(strong=strong_view(strong, augment(crop, chosen) if augment else chosen))
            return step(state, trim(batch) if trim else batch, known)

        return _scan(body, state, (indices, cached))

    return run


@functools.lru_cache(maxsize=32)
def make_stream_loop(step: Step, strong_view: Augment | None = None, trim: Trim | None = None) -> Wrapped:
    """Build `run(state, batches) -> (state, logs)` for batches that come from the host, stacked to `[S, B, …]`.

    Where pixels come without a strong view, it is made of them. `trim` takes off the rows that batches were filled up
    with.
    """

    def run(state: TrainState, batches: Batch) -> tuple[TrainState, Logs]:
        def body(state: TrainState, batch: Batch) -> tuple[TrainState, Logs]:
            batch = trim(batch) if trim else batch
            if strong_view is not None and batch.strong is None and batch.images.dtype == jnp.uint8:
                _, _, strong = _augmentation_keys(state.key, state.step)
                batch = batch._replace(strong=strong_view(strong, batch.images))
            return step(state, batch)

        return _scan(body, state, batches)

    return jax.jit(run, donate_argnums=0)


def _scan(body: Step, state: TrainState, xs: Tree) -> tuple[TrainState, Logs]:
    """Scan with the teacher outside the carry: it is constant, and XLA should know.

    The logs of a step are written as one array, not by a kernel for each.
    """
    teacher = state.teacher
    names: list[str] = []

    def without_teacher(carry: TrainState, x: Tree) -> tuple[TrainState, jax.Array]:
        after, logs = body(replace(carry, teacher=teacher), x)
        names[:] = logs
        return after.without_teacher(), jnp.stack([jnp.asarray(value, jnp.float32) for value in logs.values()])

    if len(jax.tree.leaves(xs)[0]) == 1:  # no loop at all, so that nothing is compiled for one (see `slow_in_a_loop`)
        after, values = without_teacher(state.without_teacher(), jax.tree.map(lambda leaf: leaf[0], xs))
        values = values[None]
    else:
        after, values = jax.lax.scan(without_teacher, state.without_teacher(), xs)
    return replace(after, teacher=teacher), {name: values[:, i] for i, name in enumerate(names)}


def end_epoch(state: TrainState) -> TrainState:
    """Count one more completed epoch."""
    return replace(state, epoch=state.epoch + 1)
