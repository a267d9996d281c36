"""One training step as a pure function of the state and a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxkd.losses import Monitor
from jaxkd.training.ema import update_average
from jaxkd.training.forward import as_seen, both_views, matmul_precision, still_pixels
from jaxkd.training.gradient_accumulation import GradFn, Number, StepGrads, accumulated
from jaxkd.training.program import Program, Term, log_name, per_example
from jaxkd.training.sharding import on_each_device
from jaxkd.training.state import LOSSES, MIX, POLICY, TrainState, Tree, split
from jaxkd.types import Batch, Key, Normalizer, Outputs, Progress

Logs = dict[str, jax.Array]
Numbers = TypeVar("Numbers")
TeacherForward = Callable[[Tree, Batch, "Known"], Outputs | None]
Step = Callable[..., tuple[TrainState, Logs]]
Forward = tuple[Outputs, Logs, Tree, Logs]
"""The student's outputs, the terms of the loss, the variables after the batch and the monitored values."""


class CachedOutputs(NamedTuple):
    """A teacher's outputs for the very images of a batch, computed before.

    Attributes:
      logits: `[B, K]`.
      embedding: `[B, C]`, the last of the features; None where no loss reads it.
      each: of several networks in one, those of each; None for one that no loss reads.
    """

    logits: jax.Array
    embedding: jax.Array | None
    each: tuple[CachedOutputs | None, ...] = ()

    def in_place_of(self, outputs: Outputs) -> Outputs:
        """Return the outputs with these in place of their own, which so become dead code that XLA drops."""
        embedding = outputs.features[-1:] if self.embedding is None else (self.embedding,)
        each = outputs.each
        if self.each:
            both = zip(outputs.each, self.each, strict=True)
            each = tuple(own if known is None else known.in_place_of(own) for own, known in both)
        return outputs._replace(logits=self.logits, features=(*outputs.features[:-1], *embedding), each=each)


Known = CachedOutputs | Outputs | None
"""What is known of a teacher's outputs for a batch before its step: some of them; all, of a batch that was `prepared`
for them; or none."""


@functools.lru_cache(maxsize=32)
def make_step(program: Program, normalization: Normalizer | None, teacher_normalization: Normalizer | None) -> Step:
    """Build `step(state, batch, known=None) -> (state, logs)`.

    uint8 images are normalised for each network with its own statistics; float images are taken as they are. The logs
    hold `loss`, every unweighted term, every metric on the batch, monitored values and the learning rate, as float32
    scalars.
    """
    teacher_forward = make_teacher_forward(program, teacher_normalization)
    grad_fn = make_grad_fn(program, normalization)
    prepare = make_prepare(program, normalization)

    def step(state: TrainState, batch: Batch, known: Known = None) -> tuple[TrainState, Logs]:
        batch = batch if isinstance(known, Outputs) else prepare(state, batch)

        def microbatch_grads(variables: Tree, batch: Batch, known: Known, number: Number) -> StepGrads:
            teacher = teacher_forward(state.teacher, batch, known)
            return grad_fn(replace(state, variables=variables), batch, teacher, number)

        grads = accumulated(program.microbatches, microbatch_grads, state.params, state.variables, batch, known)
        return take_step(program, state, grads)

    return step


def make_prepare(program: Program, normalization: Normalizer | None) -> Callable[[TrainState, Batch], Batch]:
    """Build `prepare(state, batch) -> batch`, which augments the images of a step and mixes them.

    A batch is prepared whole, before it is cut into parts. A strong view is what its loss asks for, and only mixed.
    Augmentations that fill in what images have on average, and were not told, take the network's `normalization`.
    """
    own = getattr(normalization, "each", (normalization,))[0]  # of an ensemble, the first network's
    augment = [
        replace(one, normalization=own) if is_dataclass(one) and getattr(one, "normalization", "") is None else one
        for one in program.augment
    ]

    def prepare(state: TrainState, batch: Batch) -> Batch:
        key = state.random(POLICY, state.step)
        images = batch.images
        for position, one in enumerate(augment):
            images = one(jax.random.fold_in(key, position), images)
        batch = batch._replace(images=still_pixels(images, batch.images, augment))
        # A batch is mixed whole, before it is cut into parts.
        return batch if program.mixing is None else program.mixing(state.random(MIX, state.step), batch)

    return prepare


@functools.lru_cache(maxsize=32)
def make_teacher_forward(program: Program, normalization: Normalizer | None) -> TeacherForward:
    """Build `teacher_forward(variables, batch, known) -> Outputs`, without gradients; None without a teacher."""

    def teacher_forward(variables: Tree, batch: Batch, known: Known) -> Outputs | None:
        if isinstance(known, Outputs):
            return known
        if program.teacher is None:
            return None
        teacher = nnx.merge(program.teacher, variables)
        with matmul_precision(program.precision):
            outputs = both_views(teacher, as_seen(batch, normalization), train=False, precision=program.precision)
        if known is not None:
            outputs = known.in_place_of(outputs)
        return jax.lax.stop_gradient(outputs)

    return teacher_forward


@functools.lru_cache(maxsize=32)
def make_grad_fn(program: Program, normalization: Normalizer | None) -> GradFn:
    """Build `grad_fn(state, batch, teacher, number=None) -> StepGrads`, with `teacher` its outputs for the batch.

    `number` is that of a microbatch, each of which has random draws of its own. The logs are those of a step, but for
    the learning rate.
    """

    def grad_fn(state: TrainState, batch: Batch, teacher: Outputs | None, number: Number = None) -> StepGrads:
        progress = Progress(state.step, state.epoch + 1)
        seen = as_seen(batch, normalization)
        key = state.random(LOSSES, state.step)
        if number is not None:
            key = jax.random.fold_in(key, number)

        def objective(params: Tree) -> tuple[jax.Array, Forward]:
            student, terms, variables, monitored = _forward(
                program, params, state.variables, seen, teacher, progress, key
            )
            weighted = [weight(progress.epoch) * terms[name] for name, weight in program.weights]
            return sum(weighted[1:], weighted[0]), (student, terms, variables, monitored)

        with matmul_precision(program.precision):
            (loss, aux), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        student, terms, variables, monitored = aux

        def measured(seen: Batch) -> tuple[Logs, None]:
            values = {name: per_example(name, metric, student.logits, seen.labels) for name, metric in program.metrics}
            return jax.tree.map(jnp.mean, values), None

        metrics, _ = under_both_labels(measured, batch)
        logs = {"loss": loss, **terms, **metrics, **monitored}
        return StepGrads(gradients, variables, logs)

    return grad_fn


def take_step(program: Program, state: TrainState, grads: StepGrads) -> tuple[TrainState, Logs]:
    """Take the optimizer's step with the gradients of a batch."""
    updates, opt_state = program.optimizer.update(
        grads.gradients, state.opt_state, state.params, epoch=state.epoch + 1, stacked=program.stacked
    )
    after = replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        variables=grads.variables,
        opt_state=opt_state,
    )
    return update_average(program.ema, after), grads.logs | _rate(opt_state)


def _forward(
    program: Program, params: Tree, variables: Tree, batch: Batch, teacher: Outputs | None, progress: Progress, key: Key
) -> Forward:
    student_forward = on_each_device(program.bn_mesh, functools.partial(_student_forward, program))
    student, model_variables = student_forward(params["model"], variables["model"], batch)

    def values(batch: Batch) -> tuple[tuple[Logs, Logs], Tree]:
        losses = nnx.merge(program.losses, params["losses"], variables["losses"])
        terms = _terms(program, losses, student, teacher, batch, progress, key)
        return (terms, monitored_values(losses)), split(losses)[2]

    (terms, monitored), loss_variables = under_both_labels(values, batch)
    return student, terms, {**variables, "model": model_variables, "losses": loss_variables}, monitored


def _terms(
    program: Program,
    losses: nnx.Dict[Term],
    student: Outputs,
    teacher: Outputs | None,
    batch: Batch,
    progress: Progress,
    key: Key,
) -> Logs:
    """Return the value of every loss of a batch."""
    terms = {}
    for position, (name, _) in enumerate(program.weights):
        try:
            value = jnp.asarray(losses[name](student, teacher, batch, progress, jax.random.fold_in(key, position)))
        except (TypeError, ValueError) as error:
            check_same_classes(name, student, teacher, error)
            raise
        if value.shape != ():
            raise ValueError(f"loss {name!r} returned shape {value.shape}: a loss is one number for the whole batch")
        terms[name] = value.astype(jnp.float32)
    return terms


def check_same_classes(name: str, student: Outputs, teacher: Outputs | None, error: Exception) -> None:
    """Say of a loss that failed that the networks have different numbers of classes, if that is so."""
    if teacher is not None and student.logits.shape != teacher.logits.shape:
        ours, theirs = student.logits.shape[-1], teacher.logits.shape[-1]
        raise ValueError(
            f"loss {name!r} compares logits, but the student has {ours} classes and the teacher {theirs}: create the "
            f"student with as many, or leave {name!r} out"
        ) from error


def _student_forward(program: Program, params: Tree, variables: Tree, batch: Batch) -> tuple[Outputs, Tree]:
    """Return the student's outputs in training, and its variables after it."""
    model = nnx.merge(program.model, params, variables)
    outputs = both_views(model, batch, True, program.precision, program.trainable)
    nnx.pop(model, nnx.Intermediate)  # what layers `sow`: it would grow from step to step
    return outputs, split(model, program.trainable)[2]


def monitored_values(losses: nnx.Module) -> Logs:
    """Return the `Monitor`s of all terms as `{term}_{attribute}`."""
    paths = nnx.to_flat_state(nnx.state(losses, Monitor))
    return {log_name(path): variable[...] for path, variable in paths}


def _rate(opt_state: Tree) -> Logs:
    rates = optax.tree_utils.tree_get_all_with_path(opt_state, "learning_rate")
    return {"learning_rate": jnp.float32(rates[0][1])} if rates else {}


def under_both_labels(function: Callable[[Batch], tuple[Numbers, Tree]], batch: Batch) -> tuple[Numbers, Tree]:
    """Return the numbers of a batch under its labels; of a mixed one the mean of those under both, by their shares.

    What does not depend on the labels is computed once.

    Args:
      function: called with a batch of one label each; returns numbers, and what else is left as the own labels have it.
      batch: `[B, …]`.
    """
    if batch.mixed is None:
        return function(batch)
    own, share = batch._replace(mixed=None), batch.mixed.share[0]
    labels = jnp.stack([batch.labels, batch.mixed.labels])
    numbers, rest = jax.vmap(lambda labels: function(own._replace(labels=labels)))(labels)
    mean = jax.tree.map(lambda value: share * value[0] + (1 - share) * value[1], numbers)
    return mean, jax.tree.map(lambda value: value[0], rest)
