"""The state of a run: plain pytrees, all of what a resumed run needs to end where an uninterrupted one would."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxkd.nn.modes import Trainable
from jaxkd.training.optimizer_calls import first_state

Tree = Any

SHUFFLE, AUGMENT, LOSSES, MIX, POLICY = range(5)
"""Independent random streams, so that adding draws to one leaves the others as they were."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything training changes, and the teacher it learns from.

    Attributes:
      step: int32 scalar, steps taken.
      epoch: int32 scalar, epochs completed.
      key: the run's random key; it never changes, every draw folds in what it is for.
      params: what the optimizer trains: `{"model": …, "losses": …}`.
      variables: what is carried along: running statistics, memories, hyper-parameters, monitored values, frozen layers,
        and the averaged network, where there is one.
      opt_state: the optimizer's state.
      teacher: all variables of the teacher, constant; None without one.
    """

    step: jax.Array
    epoch: jax.Array
    key: jax.Array
    params: Tree
    variables: Tree
    opt_state: Tree
    teacher: Tree

    def random(self, stream: int, count: jax.Array) -> jax.Array:
        """Return the key of draw number `count` in one of the streams."""
        return random_key(self.key, stream, count)

    def without_teacher(self) -> TrainState:
        """Return what has to be saved: the teacher is somebody else's file."""
        return replace(self, teacher=None)


def random_key(key: jax.Array, stream: int, count: jax.Array) -> jax.Array:
    """Return the key of draw number `count` in one of the streams of a run's key."""
    return jax.random.fold_in(jax.random.fold_in(key, stream), count)


def split(module: nnx.Module, trainable: Trainable | None = None) -> tuple[nnx.GraphDef[Any], Tree, Tree]:
    """Split a module into its static structure, what is trained and its other variables, the latter two plain dicts.

    Parameters of layers that are not trained are among the other variables.
    """
    graph, params, rest = nnx.split(module, trainable or nnx.Param, ...)  # type: ignore[misc]
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def copied(tree: Tree) -> Tree:
    """Return the same arrays in buffers of their own, without a program: each process may do it by itself."""
    return jax.tree.map(_copied, tree)


def _copied(leaf: jax.Array) -> jax.Array:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return jax.device_put(leaf, may_alias=False)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_copied(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    own = [jax.device_put(shard.data, may_alias=False) for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, own)


def create_state(
    model: nnx.Module,
    losses: nnx.Module,
    teacher: nnx.Module | None,
    optimizer: optax.GradientTransformationExtraArgs,
    seed: int,
    trainable: Trainable | None = None,
) -> TrainState:
    """Return the state before the first step, in copies: it is donated to each step, the modules live on."""
    _, model_params, model_rest = split(model, trainable)
    _, loss_params, loss_rest = split(losses)
    params = {"model": model_params, "losses": loss_params}
    state = TrainState(
        step=jnp.int32(0),
        epoch=jnp.int32(0),
        key=jax.random.key(seed, impl="threefry2x32"),  # others draw otherwise under vmap, and on each platform
        params=params,
        variables={"model": model_rest, "losses": loss_rest},
        opt_state=first_state(optimizer, params),
        teacher=None if teacher is None else nnx.to_pure_dict(nnx.state(teacher)),
    )
    return copied(jax.tree.map(_strongly_typed, state))


def _strongly_typed(leaf: jax.Array) -> jax.Array:
    """Never weakly typed: the first update would change that, and the whole program be compiled again."""
    return jnp.asarray(leaf, dtype=leaf.dtype) if getattr(leaf, "weak_type", False) else leaf


def fingerprint(arrays: Sequence[jax.Array | np.ndarray]) -> str:
    """Return a short digest of the values of arrays, random keys among them."""
    digest = hashlib.blake2b(digest_size=16)
    for leaf in arrays:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)  # bfloat16 is no type of buffers
    return digest.hexdigest()
