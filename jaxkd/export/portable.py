"""Rewrite a traced function so that any library can take it: plain operations, no loops, no branches by platform.

Networks compute convolutions by kernels of this machine's CPU, in loops over equal blocks, with gradient rules of their
own, and fold BatchNorm as they go. The rewritten function has none of this: of a choice between platforms XLA's own
form is kept, calls are inlined, loops written out, everything that depends on weights alone is computed, and what no
output needs is left out.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

CALLS = frozenset(
    ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat", "remat2")
)
"""Operations that do nothing but run a program."""


def portable(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Return the same function in plain operations, to be traced by an exporter.

    Example:
      >>> loop = lambda x: jax.lax.fori_loop(0, 3, lambda turn, total: total * x, x)
      >>> [equation.primitive.name for equation in jax.make_jaxpr(portable(loop))(jnp.float32(1)).jaxpr.eqns]
      ['mul', 'mul', 'mul']
    """

    def run(images: jax.Array) -> jax.Array:
        result: jax.Array = core.jaxpr_as_fun(program(function, images))(images)[0]
        return result

    return run


def program(function: Callable[[jax.Array], jax.Array], images: Any) -> core.ClosedJaxpr:
    """Return the plain operations of a function from one array to another.

    Args:
      function: traced once.
      images: an array, or the shape and type of one; dimensions may be symbolic.
    """

    def inlined(images: jax.Array) -> jax.Array:
        result: jax.Array = _evaluate(jax.make_jaxpr(function)(images), images)[0]
        return result

    flat = jax.make_jaxpr(inlined)(images)
    return core.ClosedJaxpr(flat.jaxpr.replace(eqns=_needed(flat.jaxpr)), flat.consts)


def _needed(jaxpr: core.Jaxpr) -> list[core.JaxprEqn]:
    """Return the operations that the outputs depend on."""
    wanted, kept = set(map(id, jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if any(id(variable) in wanted for variable in equation.outvars):
            wanted |= set(map(id, equation.invars))
            kept.append(equation)
    return kept[::-1]


def _evaluate(closed: core.ClosedJaxpr, *arguments: Any) -> list[Any]:
    """Run a program operation by operation: at once where all is known, else into the trace of the caller.

    What is known may still have a size that is not: a token that is repeated for each image of a batch of any size.
    """
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *arguments], strict=True))

    def value_of(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in _needed(jaxpr):
        given = [value_of(atom) for atom in equation.invars]
        sized = all(isinstance(size, int) for out in equation.outvars for size in getattr(out.aval, "shape", ()))
        with _at_once_if_known(given) if sized else contextlib.nullcontext():
            values.update(zip(equation.outvars, _apply(equation, given), strict=True))
    return [value_of(atom) for atom in jaxpr.outvars]


def _at_once_if_known(values: Sequence[Any]) -> contextlib.AbstractContextManager[None]:
    """Let what depends on these values be computed now, where none of them is being traced."""
    traced = any(isinstance(value, jax.core.Tracer) for value in values)
    return contextlib.nullcontext() if traced else jax.ensure_compile_time_eval()


def _apply(equation: core.JaxprEqn, given: Sequence[Any]) -> Sequence[Any]:
    name, parameters = equation.primitive.name, equation.params
    if (platforms := parameters.get("branches_platforms")) is not None:  # of lax.platform_dependent
        default = parameters["branches"][list(platforms).index(None)]
        return _evaluate(default, *given[1:])
    if name == "platform_index":
        return [jnp.int32(0)]  # only a choice between platforms reads it
    if name == "name":  # a mark for jax.checkpoint
        return given
    if name == "scan":
        return _written_out(equation, given)
    if name == "gather" and (part := _sliced(parameters, *given)) is not None:
        return [part]
    if name in CALLS:
        (inner,) = core.jaxprs_in_params(parameters)
        closed = next((value for value in parameters.values() if isinstance(value, core.ClosedJaxpr)), None)
        return _evaluate(closed or core.ClosedJaxpr(inner, ()), *given)
    found = equation.primitive.bind(*given, **parameters)
    return found if equation.primitive.multiple_results else [found]


def _written_out(equation: core.JaxprEqn, given: Sequence[Any]) -> list[Any]:
    """Return the results of a loop, one turn after the other."""
    parameters, body = equation.params, equation.params["jaxpr"]
    last = _same_in_each_turn(equation.invars, body.in_avals)
    first = last - _same_in_each_turn(equation.outvars, body.out_avals)
    constants, carry, stacked = given[:first], list(given[first:last]), given[last:]
    turns = range(parameters["length"])
    results = {}
    for turn in reversed(turns) if parameters["reverse"] else turns:
        with _at_once_if_known(stacked):
            parts = [part[turn] for part in stacked]
        found = _evaluate(body, *constants, *carry, *parts)
        carry, results[turn] = found[: len(carry)], found[len(carry) :]
    return [*carry, *(jnp.stack(parts) for parts in zip(*(results[turn] for turn in turns), strict=True))]


def _same_in_each_turn(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """Return how many values of a loop are not stacked over its turns; they come first.

    One that is stacked has one more dimension outside of the loop than inside. JAX's versions name the two differently.
    """
    return sum(outer.aval.ndim == inner.ndim for outer, inner in zip(outside, inside, strict=True))


def _sliced(parameters: dict[str, Any], values: jax.Array, places: Any) -> jax.Array | None:
    """Return what is gathered from one known place, `values[:, 0]`, or a grid, `values[:, ::2, 1::2]`, as slices.

    LiteRT knows no gather from a batch whose size is not known. Of anything else, None is returned.
    """
    numbers = parameters["dimension_numbers"]
    axes, whole = numbers.start_index_map, numbers.collapsed_slice_dims
    sizes, kept = parameters["slice_sizes"], tuple(axis for axis in range(values.ndim) if axis not in axes)
    if isinstance(places, jax.core.Tracer) or numbers.operand_batching_dims:
        return None
    if any(sizes[axis] != values.shape[axis] for axis in kept) or not all(
        isinstance(sizes[axis], int) for axis in axes
    ):
        return None
    found = np.asarray(places)
    if found.ndim == 1:
        lines = [np.arange(place, place + sizes[axis]) for axis, place in zip(axes, found, strict=True)]
    elif found.ndim != 1 + len(axes) or not found.size:
        return None
    else:
        lines = [
            np.moveaxis(found[..., turn], turn, 0).reshape(size, -1)[:, 0] for turn, size in enumerate(found.shape[:-1])
        ]
        as_grid = np.stack(np.meshgrid(*lines, indexing="ij"), -1)
        if not (whole == axes and numbers.offset_dims == kept and np.array_equal(found, as_grid)):
            return None
        whole = ()
    for axis, line in zip(axes, lines, strict=True):
        (stride, *others), size = set(np.diff(line).tolist()) or {1}, values.shape[axis]
        if others or stride < 1 or not isinstance(size, int) or line[0] < 0 or line[-1] >= size:
            return None
        before, after = values.shape[:axis], values.shape[axis + 1 :]
        # In three dimensions, since LiteRT slices no more than five.
        flat = values.reshape(math.prod(before), size, math.prod(after))
        part = jax.lax.slice_in_dim(flat, int(line[0]), int(line[-1]) + 1, stride, axis=1)
        values = part.reshape(*before, len(line), *after)
    return jax.lax.squeeze(values, whole)
