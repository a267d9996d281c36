"""How training calls an optimizer: what it is told by name, and block by block if it does not know of stacked ones."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxkd.optimizers import path_keys
from jaxkd.schedules import described

Paths = tuple[tuple[Any, ...], ...]

_TOLD = ("epoch", "stacked")
"""What training tells an optimizer's update by name."""


@functools.lru_cache(maxsize=128)
def with_named_arguments(
    optimizer: optax.GradientTransformation, stacked: Paths = ()
) -> optax.GradientTransformationExtraArgs:
    """Return the optimizer as one that may be told all that training tells, and is given what its update names.

    Optimizers that are not this library's see each of several blocks that share an array by itself: they may treat
    parameters by their number of axes, or scale each by its length.

    Args:
      optimizer: any of optax's form.
      stacked: where among the parameters an array holds those of several blocks.
    """
    parameters = inspect.signature(optimizer.update).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    names = [name for name in _TOLD if takes_all or name in parameters]
    apart = stacked if described(optimizer) is None else ()
    if not apart and takes_all and isinstance(optimizer, optax.GradientTransformationExtraArgs):
        return optimizer

    def init(params: optax.Params) -> optax.OptState:
        return optimizer.init(_blocks_apart(params, apart))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        told = {name: extra[name] for name in names if name in extra}
        if apart and "stacked" in told:
            told["stacked"] = ()
        found, state = optimizer.update(_blocks_apart(updates, apart), state, _blocks_apart(params, apart), **told)
        return _blocks_together(found, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _blocks_apart(tree: Any, stacked: Paths) -> Any:
    """Return parameters with a tuple of arrays where one holds those of several blocks."""

    def of_blocks(path: tuple[Any, ...], leaf: jax.Array) -> Any:
        keys = path_keys(path)
        return _parts(leaf, sum(keys[: len(one)] == one for one in stacked))

    return jax.tree_util.tree_map_with_path(of_blocks, tree) if stacked else tree


def _parts(leaf: jax.Array, depth: int) -> Any:
    return tuple(_parts(leaf[number], depth - 1) for number in range(len(leaf))) if depth else leaf


def _blocks_together(tree: Any, like: Any) -> Any:
    """Return what `_blocks_apart` took apart, in the form of `like`."""
    return jax.tree.map(lambda _, part: _joined(part), like, tree)


def _joined(part: Any) -> jax.Array:
    return jnp.stack([_joined(one) for one in part]) if isinstance(part, tuple) else part


def check_update(
    optimizer: optax.GradientTransformationExtraArgs, params: optax.Params, state: optax.OptState, stacked: Paths
) -> None:
    """Refuse an optimizer that cannot take a step with what training tells it; the step is only traced.

    Raises:
      TypeError: with what it raised.
    """

    def update(params: optax.Params, state: optax.OptState) -> optax.Updates:
        return optimizer.update(params, state, params, epoch=jnp.int32(1), stacked=stacked)[0]

    try:
        with jax.numpy_dtype_promotion("standard"):  # what is asked is what it wants to be told
            jax.eval_shape(update, params, state)
    except Exception as error:
        raise _cannot_take_a_step(error) from error


def first_state(optimizer: optax.GradientTransformationExtraArgs, params: optax.Params) -> optax.OptState:
    """Return the state of an optimizer before its first step.

    Raises:
      TypeError: with what it raised.
    """
    try:
        return jax.jit(optimizer.init)(params)
    except Exception as error:
        if described(optimizer) is not None:  # ours say themselves what is wrong
            raise
        raise _cannot_take_a_step(error) from error


def _cannot_take_a_step(error: Exception) -> TypeError:
    said = str(error).partition("\n")[0].rstrip(".")
    return TypeError(
        f"the optimizer cannot take a step: {type(error).__name__}: {said}. Its update is called as (gradients, "
        "state, parameters, epoch=…, stacked=…), so that line searches such as optax.lbfgs, and rates that follow "
        "the loss, cannot be used: give another, as in optimizers.sgd(0.05); an update of your own names what it "
        "takes of these, or ends in **extra, as all must in an optax.chain. Parameters are {'model': {'conv': …, "
        "'fc': …}, 'losses': {…}}, which masks and labels have to follow; optimizers.by_layer and "
        "compile(trainable=…) go by the names of layers"
    )
