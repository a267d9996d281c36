"""One training step as a pure function of the state and a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxkd.losses import Monitor
from jaxkd.training.forward import as_seen, both_views
from jaxkd.training.gradient_accumulation import Lesson, in_parts
from jaxkd.training.program import Program, log_name
from jaxkd.training.sharding import on_each
from jaxkd.training.state import LOSSES, TrainState, Tree, split
from jaxkd.types import Batch, Normalization, Outputs, Progress

Logs = dict[str, jax.Array]
Teach = Callable[[Tree, Batch, "Kept | None"], Outputs | None]
Learn = Callable[..., Lesson]
Step = Callable[..., tuple[TrainState, Logs]]


class Kept(NamedTuple):
    """What is known from before of a teacher's outputs for the very images of a batch.

    Attributes:
      logits: `[B, K]`.
      embedding: `[B, C]`, the last of the features; None where no loss reads it.
    """

    logits: jax.Array
    embedding: jax.Array | None


@functools.lru_cache(maxsize=32)
def make_step(
    program: Program, normalization: Normalization | None, teacher_normalization: Normalization | None
) -> Step:
    """Builds `step(state, batch, kept=None) -> (state, logs)`.

    uint8 images are normalised for each network with its own statistics; float images are taken as they are. The logs
    hold `loss`, every unweighted term, every metric on the batch, monitored values and the learning rate, as float32
    scalars.
    """
    teach, learn = make_teach(program, teacher_normalization), make_learn(program, normalization)

    def step(state: TrainState, batch: Batch, kept: Kept | None = None) -> tuple[TrainState, Logs]:
        def learn_part(variables: Tree, batch: Batch, kept: Kept | None, part) -> Lesson:
            return learn(replace(state, variables=variables), batch, teach(state.teacher, batch, kept), part)

        lesson = in_parts(program.parts, learn_part, state.params, state.variables, batch, kept)
        return take_step(program, state, lesson)

    return step


@functools.lru_cache(maxsize=32)
def make_teach(program: Program, normalization: Normalization | None) -> Teach:
    """Builds `teach(variables, batch, kept) -> Outputs`, constant for the gradient; None without a teacher."""

    def teach(variables: Tree, batch: Batch, kept: Kept | None) -> Outputs | None:
        if program.teacher is None:
            return None
        teacher = nnx.merge(program.teacher, variables)
        outputs = both_views(teacher, as_seen(batch, normalization), train=False, precision=program.precision)
        if kept is not None:  # what is replaced here is dead code, which XLA drops
            embedding = outputs.features[-1:] if kept.embedding is None else (kept.embedding,)
            outputs = outputs._replace(logits=kept.logits, features=(*outputs.features[:-1], *embedding))
        return jax.lax.stop_gradient(outputs)

    return teach


@functools.lru_cache(maxsize=32)
def make_learn(program: Program, normalization: Normalization | None) -> Learn:
    """Builds `learn(state, batch, teacher's outputs, part=None) -> Lesson`; each part of a batch has draws of its own.

    The logs of the lesson are those of a step, but for the learning rate.
    """

    def learn(state: TrainState, batch: Batch, teacher: Outputs | None, part: jax.Array | int | None = None) -> Lesson:
        progress = Progress(state.step, state.epoch + 1)
        seen = as_seen(batch, normalization)
        key = state.random(LOSSES, state.step)
        if part is not None:
            key = jax.random.fold_in(key, part)

        def objective(params: Tree):
            student, terms, variables, monitored = _forward(
                program, params, state.variables, seen, teacher, progress, key
            )
            weighted = [weight(progress.epoch) * terms[name] for name, weight in program.weights]
            return sum(weighted[1:], weighted[0]), (student, terms, variables, monitored)

        (loss, aux), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        student, terms, variables, monitored = aux
        return Lesson(gradients, variables, {"loss": loss, **terms, **_measure(program, student, batch), **monitored})

    return learn


def take_step(program: Program, state: TrainState, lesson: Lesson) -> tuple[TrainState, Logs]:
    """The optimizer's step after what was learned from a batch."""
    updates, opt_state = program.optimizer.update(
        lesson.gradients, state.opt_state, state.params, epoch=state.epoch + 1
    )
    after = replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        variables=lesson.variables,
        opt_state=opt_state,
    )
    return after, lesson.logs | _rate(opt_state)


def _forward(program: Program, params, variables, batch: Batch, teacher, progress: Progress, key):
    look = on_each(program.apart, functools.partial(_look, program))
    student, model_variables = look(params["model"], variables["model"], batch)
    losses = nnx.merge(program.losses, params["losses"], variables["losses"])
    terms = {}
    for position, (name, _) in enumerate(program.weights):
        value = jnp.asarray(losses[name](student, teacher, batch, progress, jax.random.fold_in(key, position)))
        if value.shape != ():
            raise ValueError(f"loss {name!r} returned shape {value.shape}: a loss is one number for the whole batch")
        terms[name] = value.astype(jnp.float32)
    return student, terms, {"model": model_variables, "losses": split(losses)[2]}, monitored_values(losses)


def _look(program: Program, params: Tree, variables: Tree, batch: Batch) -> tuple[Outputs, Tree]:
    """What the student says in training, and its variables after it."""
    model = nnx.merge(program.model, params, variables)
    outputs = both_views(model, batch, train=True, precision=program.precision)
    return outputs, split(model)[2]


def monitored_values(losses: nnx.Module) -> Logs:
    """The `Monitor`s of all terms as `{term}_{attribute}`."""
    paths = nnx.to_flat_state(nnx.state(losses, Monitor))
    return {log_name(path): variable[...] for path, variable in paths}


def _measure(program: Program, student: Outputs, batch: Batch) -> Logs:
    return {name: jnp.mean(metric(student.logits, batch.labels)) for name, metric in program.metrics}


def _rate(opt_state: Tree) -> Logs:
    rates = optax.tree_utils.tree_get_all_with_path(opt_state, "learning_rate")
    return {"learning_rate": jnp.float32(rates[0][1])} if rates else {}
