"""An epoch as a compiled program: shuffling, augmenting, normalising and training without leaving the device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import jax

from jaxkd.base import Batch
from jaxkd.engine.state import AUGMENT, TrainState
from jaxkd.engine.step import Logs, Step

Augment = Callable[[jax.Array, jax.Array], jax.Array]


@functools.lru_cache(maxsize=32)
def make_resident_loop(step: Step, augment: Augment | None, strong_view: Augment | None = None):
    """Builds `run(state, images, labels, indices) -> (state, logs)` for data that live on the device.

    `augment` and `strong_view` are called as `(key, images)`. `indices` is `[S, B]`: the program takes S steps on the
    batches they select. The logs are `[S]` each.
    """

    def run(state: TrainState, images: jax.Array, labels: jax.Array, indices: jax.Array) -> tuple[TrainState, Logs]:
        def body(state: TrainState, index: jax.Array) -> tuple[TrainState, Logs]:
            chosen = images[index]
            weak, crop, strong = jax.random.split(state.random(AUGMENT, state.step), 3)
            seen = augment(weak, chosen) if augment else chosen
            if strong_view is None:
                return step(state, Batch(seen, labels[index], index))
            other = strong_view(strong, augment(crop, chosen) if augment else chosen)
            return step(state, Batch(seen, labels[index], index, other))

        return _scan(body, state, indices)

    return jax.jit(run, donate_argnums=0)


@functools.lru_cache(maxsize=32)
def make_stream_loop(step: Step):
    """Builds `run(state, batches) -> (state, logs)` for batches that come from the host, stacked to `[S, B, …]`."""

    def run(state: TrainState, batches: Batch) -> tuple[TrainState, Logs]:
        return _scan(step, state, batches)

    return jax.jit(run, donate_argnums=0)


def _scan(body, state: TrainState, xs) -> tuple[TrainState, Logs]:
    """Scans with the teacher outside the carry: it is constant, and XLA should know."""
    teacher = state.teacher

    def without_teacher(carry, x):
        after, logs = body(replace(carry, teacher=teacher), x)
        return after.without_teacher(), logs

    after, logs = jax.lax.scan(without_teacher, state.without_teacher(), xs)
    return replace(after, teacher=teacher), logs


@jax.jit
def end_epoch(state: TrainState) -> TrainState:
    """Counts one more completed epoch."""
    return replace(state, epoch=state.epoch + 1)
