"""What the losses of a run read of the teacher's outputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxkd.base import Batch, Outputs
from jaxkd.engine.program import Program
from jaxkd.engine.state import TrainState
from jaxkd.engine.step import make_learn, make_teach


def teacher_reads(program: Program, state: TrainState, image_shape: tuple[int, ...]) -> tuple[set[str], Outputs]:
    """Which parts of the teacher's outputs have a part in the losses, found by tracing a step.

    Args:
      program: of a run with a teacher.
      state: of the run.
      image_shape: `(H, W, C)`.

    Returns:
      Of "logits", "embedding" (the last of the features), "maps" (all others) and "classify" those that are read; and
      the shapes of the teacher's outputs for two images.
    """
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    batch = Batch(jax.ShapeDtypeStruct((2, *image_shape), jnp.float32), labels, labels)  # type: ignore[arg-type]
    teach, learn = make_teach(program, None), make_learn(program, None)
    outputs = jax.eval_shape(lambda variables, batch: teach(variables, batch, None), state.teacher, batch)
    assert outputs is not None
    traced = jax.make_jaxpr(lambda outputs, state, batch: learn(state, batch, outputs))
    jaxpr = traced(outputs, state.without_teacher(), batch).jaxpr
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(outputs)]
    used = {id(var) for equation in jaxpr.eqns for var in equation.invars} | {id(var) for var in jaxpr.outvars}
    last = len(outputs.features) - 1
    # The outputs come first among the arguments.
    read = {_part(path, last) for path, var in zip(paths, jaxpr.invars, strict=False) if id(var) in used}
    return read, outputs


def _part(path: tuple, last: int) -> str:
    name = path[0].name
    if name == "features":
        return "embedding" if path[1].idx == last else "maps"
    return name if name in ("logits", "classify") else "maps"
