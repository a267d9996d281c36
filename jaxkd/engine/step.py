"""One training step as a pure function of the state and a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxkd.base import Batch, Normalization, Outputs, Progress
from jaxkd.engine.program import Program
from jaxkd.engine.state import LOSSES, TrainState, Tree, split
from jaxkd.engine.terms import log_name
from jaxkd.losses import Monitor

Logs = dict[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Logs]]


@functools.lru_cache(maxsize=32)
def make_step(
    program: Program, normalization: Normalization | None, teacher_normalization: Normalization | None
) -> Step:
    """Builds `step(state, batch) -> (state, logs)`.

    uint8 images are normalised for each network with its own statistics; float images are taken as they are. The logs
    hold `loss`, every unweighted term, every metric on the batch, monitored values and the learning rate, as float32
    scalars.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Logs]:
        progress = Progress(state.step, state.epoch + 1)
        seen = _as_seen(batch, normalization)
        teacher = _teach(program, state.teacher, batch, teacher_normalization)
        key = state.random(LOSSES, state.step)

        def objective(params: Tree):
            student, terms, variables, monitored = _forward(
                program, params, state.variables, seen, teacher, progress, key
            )
            weighted = [weight(progress.epoch) * terms[name] for name, weight in program.weights]
            return sum(weighted[1:], weighted[0]), (student, terms, variables, monitored)

        (loss, aux), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        student, terms, variables, monitored = aux
        updates, opt_state = program.optimizer.update(gradients, state.opt_state, state.params, epoch=progress.epoch)
        logs = {"loss": loss, **terms, **_measure(program, student, batch), **monitored, **_rate(opt_state)}
        after = replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            variables=variables,
            opt_state=opt_state,
        )
        return after, logs

    return step


def network_input(images: jax.Array, normalization: Normalization | None) -> jax.Array:
    """uint8 pixels normalised, float images as they are.

    Raises:
      ValueError: for uint8 pixels when the statistics are not known.
    """
    if images.dtype == jnp.uint8:
        if normalization is None:
            raise ValueError(
                "uint8 images, but no mean and std to normalise them with: fit a data.Dataset first, or set "
                "model.normalization = jaxkd.Normalization(mean, std)"
            )
        return normalization(images)
    return images


def _as_seen(batch: Batch, normalization: Normalization | None) -> Batch:
    strong = None if batch.strong is None else network_input(batch.strong, normalization)
    return batch._replace(images=network_input(batch.images, normalization), strong=strong)


def _outputs(network: Any, batch: Batch, train: bool) -> Outputs:
    """What a network says of the images and, where there is one, of their strong view."""
    outputs = network(batch.images, train=train)
    if not isinstance(outputs, Outputs):
        raise TypeError(
            f"{type(network).__name__} returned {type(outputs).__name__}: a network returns "
            "jaxkd.Outputs(logits, features)"
        )
    if batch.strong is None:
        return outputs
    return outputs._replace(strong=network(batch.strong, train=train))


def _teach(program: Program, variables: Tree, batch: Batch, normalization: Normalization | None) -> Outputs | None:
    if program.teacher is None:
        return None
    teacher = nnx.merge(program.teacher, variables)
    return jax.lax.stop_gradient(_outputs(teacher, _as_seen(batch, normalization), train=False))


def _forward(program: Program, params, variables, batch: Batch, teacher, progress: Progress, key):
    model = nnx.merge(program.model, params["model"], variables["model"])
    losses = nnx.merge(program.losses, params["losses"], variables["losses"])
    student = _outputs(model, batch, train=True)
    terms = {}
    for position, (name, _) in enumerate(program.weights):
        value = jnp.asarray(losses[name](student, teacher, batch, progress, jax.random.fold_in(key, position)))
        if value.shape != ():
            raise ValueError(f"loss {name!r} returned shape {value.shape}: a loss is one number for the whole batch")
        terms[name] = value.astype(jnp.float32)
    return student, terms, {"model": split(model)[2], "losses": split(losses)[2]}, monitored_values(losses)


def monitored_values(losses: nnx.Module) -> Logs:
    """The `Monitor`s of all terms as `{term}_{attribute}`."""
    paths = nnx.to_flat_state(nnx.state(losses, Monitor))
    return {log_name(path): variable[...] for path, variable in paths}


def _measure(program: Program, student: Outputs, batch: Batch) -> Logs:
    return {name: jnp.mean(metric(student.logits, batch.labels)) for name, metric in program.metrics}


def _rate(opt_state: Tree) -> Logs:
    rates = optax.tree_utils.tree_get_all_with_path(opt_state, "learning_rate")
    return {"learning_rate": jnp.float32(rates[0][1])} if rates else {}
