"""Many students in one program: each batch is prepared, and shown to the teacher, once for all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.stages import Wrapped

from jaxkd.training.cached_teacher import CachedTeacher
from jaxkd.training.compiled_epoch import LookAhead, resident_steps
from jaxkd.training.epochs import Chunk, Epoch, chunk_steps, cut, order_of, seed_of, skip
from jaxkd.training.evaluation import Metrics, make_evaluate
from jaxkd.training.gradient_accumulation import Number, StepGrads, accumulated
from jaxkd.training.inputs import InMemory
from jaxkd.training.program import Augment, Program
from jaxkd.training.sharding import REPLICATED, SHARDED, Placement
from jaxkd.training.state import TrainState, Tree, copied
from jaxkd.training.step import (
    CachedOutputs,
    Known,
    Logs,
    Step,
    make_grad_fn,
    make_prepare,
    make_teacher_forward,
    take_step,
)
from jaxkd.types import Batch, Normalizer, Outputs

Function = Callable[..., Tree]

OWNED = ("params", "variables", "opt_state")
"""The parts of a state that each run has for itself, whatever they share."""


def stack(states: Sequence[TrainState]) -> TrainState:
    """Stack the states of runs of the same program and teacher: what each run owns is stacked to `[n, …]`.

    The key is among it where the runs have different ones.

    Raises:
      ValueError: they are not from the same step.
    """
    check_together(states)
    names = [*OWNED, *(["key"] if len({seed_of(state) for state in states}) > 1 else [])]
    stacked = {
        name: jax.tree.map(lambda *leaves: jnp.stack(leaves), *(getattr(state, name) for state in states))
        for name in names
    }
    return replace(copied(shared(states[0], stacked)), **stacked)


def check_together(states: Sequence[TrainState]) -> None:
    """Refuse runs that are not at the same step of the same epoch, of which one program counts only one.

    Raises:
      ValueError: with the cure.
    """
    at = list(dict.fromkeys((int(state.step), int(state.epoch)) for state in states))
    if len(at) > 1:
        found = " and ".join(f"step {step} after {epoch} epochs" for step, epoch in at)
        raise ValueError(
            f"runs of one program share step and epoch, but they are at {found}: a callback that assigns trainer.state "
            "in a sweep keeps both, as in dataclasses.replace(earlier, step=now.step, epoch=now.epoch), or assigns it "
            "in on_train_end"
        )


def unstack(state: TrainState, position: int) -> TrainState:
    """Return the state of one run, without the teacher."""
    own = owned(state)
    return replace(copied(shared(state.without_teacher(), own)), **_pick(own, position))


@jax.jit
def _pick(own: Tree, position: int) -> Tree:
    return jax.tree.map(lambda leaf: leaf[position], own)


def owned(state: TrainState) -> dict[str, Tree]:
    """Return what each run of a stacked state has for itself, `[n, …]`, by the names of the attributes."""
    return {name: getattr(state, name) for name in (*OWNED, *(["key"] if state.key.ndim else []))}


def shared(state: TrainState, own: Iterable[str]) -> TrainState:
    """Return a state without what runs have for themselves."""
    nothing: dict[str, Any] = dict.fromkeys(own)
    return replace(state, **nothing)


def placed(state: TrainState, placement: Placement) -> TrainState:
    """Cut the runs of a stacked state over the devices, and put what they share on every one."""
    own = owned(state)
    return replace(placement.replicate(shared(state, own)), **placement.shard_runs(own))


@functools.lru_cache(maxsize=32)
def make_stacked_step(
    program: Program,
    normalization: Normalizer | None,
    teacher_normalization: Normalizer | None,
    placement: Placement,
) -> Step:
    """Build a step on a stacked state; its logs are `[n]`.

    Several devices take equal parts of the runs, and each of them shows the batch to the teacher.
    """
    teacher_forward = make_teacher_forward(program, teacher_normalization)
    grad_fn = make_grad_fn(program, normalization)
    prepare = make_prepare(program, normalization)
    over_runs = mapped_over_runs(placement)

    def step(state: TrainState, batch: Batch, known: Known = None) -> tuple[TrainState, Logs]:
        batch = batch if isinstance(known, Outputs) else prepare(state, batch)

        def on_device(own: Tree, common: TrainState, batch: Batch, known: Known) -> tuple[Tree, Logs]:
            def run(params: Tree, variables: Tree, opt_state: Tree) -> TrainState:
                return replace(common, params=params, variables=variables, opt_state=opt_state, teacher=None)

            def take(own: Tree, grads: StepGrads) -> tuple[Tree, Logs]:
                after, logs = take_step(program, run(*own), grads)
                return (after.params, after.variables, after.opt_state), logs

            if program.microbatches == 1:  # run by run, so that there are never the gradients of all of them
                teacher = teacher_forward(common.teacher, batch, known)
                return over_runs(lambda own: take(own, grad_fn(run(*own), batch, teacher)), own)

            def microbatch_grads(variables: Tree, batch: Batch, known: Known, number: Number) -> StepGrads:
                teacher = teacher_forward(common.teacher, batch, known)
                return over_runs(lambda one: grad_fn(run(*one), batch, teacher, number), (own[0], variables, None))

            grads = accumulated(program.microbatches, microbatch_grads, own[0], own[1], batch, known)
            return over_runs(lambda one: take(*one), (own, grads))

        own = (state.params, state.variables, state.opt_state)
        (params, variables, opt_state), logs = on_every_device(placement, on_device)(
            own, shared(state, OWNED), batch, known
        )
        after = replace(state, step=state.step + 1, params=params, variables=variables, opt_state=opt_state)
        return after, logs

    return step


@functools.lru_cache(maxsize=32)
def make_stacked_evaluate(
    program: Program, normalization: Normalizer | None, metrics: Metrics, placement: Placement
) -> Wrapped:
    """Build `evaluate(params, variables, images, labels, indices) -> sums [n]`; see `make_evaluate`."""
    evaluate = make_evaluate(program.model, normalization, program.precision, metrics)
    over_runs = mapped_over_runs(placement)

    @jax.jit
    def of_all(params: Tree, variables: Tree, images: jax.Array, labels: jax.Array, indices: jax.Array) -> Logs:
        def on_device(own: Tree, *data: jax.Array) -> Logs:
            return over_runs(lambda one: evaluate(*one, *data), own)

        return on_every_device(placement, on_device, outputs=SHARDED)((params, variables), images, labels, indices)

    return of_all


def mapped_over_runs(placement: Placement) -> Callable[[Function, Tree], Tree]:
    """Return `over_runs(function, stacked)`.

    GPUs compute the runs at once, since a small network leaves most of one idle. On a CPU, and on a TPU by its
    compiler's count, convolutions with a kernel for each run are slower than one run after the other.
    """
    if placement.devices[0].platform == "gpu":
        return lambda function, stacked: jax.vmap(function)(stacked)
    return _one_after_the_other


def _one_after_the_other(function: Function, stacked: Tree) -> Tree:
    """`lax.map`, but for a single run, which needs no loop (see `slow_in_a_loop`)."""
    if len(jax.tree.leaves(stacked)[0]) > 1:
        return lax.map(function, stacked)
    return jax.tree.map(lambda value: value[None], function(jax.tree.map(lambda leaf: leaf[0], stacked)))


def on_every_device(placement: Placement, function: Function, outputs: Any = (SHARDED, SHARDED)) -> Function:
    """Cut a function's first argument, and all it returns, over the devices along the runs."""
    if len(placement.devices) == 1:
        return function

    def cut(own: Tree, *rest: Tree) -> Tree:
        specs = (SHARDED, *([REPLICATED] * len(rest)))
        spread = jax.shard_map(function, mesh=placement.mesh, in_specs=specs, out_specs=outputs, check_vma=False)
        return spread(own, *rest)

    return cut


def per_seed_epoch(
    step: Step,
    source: InMemory,
    placement: Placement,
    batch_size: int,
    steps: int | None,
    strong_view: Augment | None = None,
    cached_teacher: CachedTeacher | None = None,
    look_ahead: LookAhead | None = None,
) -> Epoch:
    """Yield the chunks of `resident_epoch`, for a stacked state with a key for each run, which draws its own order.

    `step` is that of one run, and `batch_size` that of each.
    """
    loop = make_per_seed_loop(step, source.augmentation, strong_view, placement, look_ahead)
    images, labels = placement.replicate((source.images, source.labels))
    most = chunk_steps(source, placement, batch_size, steps)

    def epoch(state: TrainState, done: int = 0) -> Iterator[Chunk]:
        taken, keys = int(state.step), list(copied(state.key))  # the state's own buffers go to the first chunk
        orders = [order_of(key, state.epoch, source) for key in keys]
        for each in zip(*(skip(cut(order, batch_size, most), done) for order in orders), strict=True):
            looked_up = cached_teacher and [
                cached_teacher.lookup(key, images, taken, indices) for key, indices in zip(keys, each, strict=True)
            ]
            cached = looked_up and jax.tree.map(lambda *outputs: np.stack(outputs), *looked_up)
            taken += len(each[0])
            indices, cached = placement.shard_runs((np.stack(each), cached))
            yield Chunk(loop, (images, labels, indices, cached), each[0].shape[1])

    return epoch


@functools.lru_cache(maxsize=32)
def make_per_seed_loop(
    step: Step,
    augment: Augment | None,
    strong_view: Augment | None,
    placement: Placement,
    look_ahead: LookAhead | None = None,
) -> Wrapped:
    """Build `run(state, images, labels, indices, cached=None) -> (state, logs)` for a state with a key for each run.

    `indices` is `[n, S, B]` and `cached` `[n, S, B, …]`; the logs are `[S, n]`.
    """
    over_runs = mapped_over_runs(placement)

    def run(
        state: TrainState, images: jax.Array, labels: jax.Array, indices: jax.Array, cached: CachedOutputs | None = None
    ) -> tuple[TrainState, Logs]:
        ahead = None if look_ahead is None else look_ahead.shared_by(len(indices))
        take_steps = resident_steps(step, augment, strong_view, look_ahead=ahead)

        def on_device(given: Tree, common: TrainState, images: jax.Array, labels: jax.Array) -> tuple[Tree, Logs]:
            def of_one(given: Tree) -> tuple[Tree, Logs]:
                own, indices, cached = given
                after, logs = take_steps(replace(common, **own), images, labels, indices, cached)
                return {name: getattr(after, name) for name in own}, logs

            return over_runs(of_one, given)

        own = owned(state)
        own, logs = on_every_device(placement, on_device)((own, indices, cached), shared(state, own), images, labels)
        after = replace(state, step=state.step + indices.shape[1], **own)
        return after, {name: jnp.moveaxis(values, 0, 1) for name, values in logs.items()}

    return jax.jit(run, donate_argnums=0)
