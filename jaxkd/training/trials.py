"""Try a network before it is trained: what it returns, what evaluation changes, what BatchNorm would divide by.

Networks of the zoo are tried only where the batch decides; others may do what nobody expects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.checks import warn_caller
from jaxkd.nn.modes import Trainable
from jaxkd.nn.outputs import layer_name
from jaxkd.training.forward import called, forward
from jaxkd.training.program import Program, name_of
from jaxkd.training.state import Tree, split

Paths = dict[str, Any]
"""Arrays, or what stands for them while tracing, by the path of their variable, such as `bn.mean`."""


class Trials:
    """Networks that were tried, each once for a shape of images `(H, W, C)`."""

    def __init__(self) -> None:
        self._tried: set[tuple[int, tuple[int, ...], str]] = set()

    def trained(self, network: nnx.Module) -> Callable[[tuple[int, ...]], None]:
        """Return what tries a network that is to be trained on images of a shape."""
        return lambda image_shape: self._try(network, image_shape, warn_of_probabilities)

    def evaluated(self, network: nnx.Module) -> Callable[[tuple[int, ...]], None]:
        """Return what tries a network that is to be evaluated on images of a shape."""

        def check(image_shape: tuple[int, ...]) -> None:
            self._try(network, image_shape, warn_of_probabilities)
            self._try(network, image_shape, warn_of_changes)

        return check

    def _try(
        self, network: nnx.Module, image_shape: tuple[int, ...], trial: Callable[[nnx.Module, tuple[int, ...]], None]
    ) -> None:
        key = (id(network), image_shape, trial.__name__)
        if key not in self._tried:
            self._tried.add(key)
            trial(network, image_shape)


def warn_of_changes(network: nnx.Module, image_shape: tuple[int, ...]) -> None:
    """Warn where evaluation changes variables of a network: it then computes as in training.

    Networks of the zoo are not tried.
    """
    if getattr(network, "heeds_mode", False):
        return
    changed = changed_by_evaluation(network, image_shape)
    if changed:
        modules = ", ".join(dict.fromkeys(path.rpartition(".")[0] or path for path in changed))
        warn_caller(
            f"{type(network).__name__} changes {', '.join(changed)} in evaluation, so that it is evaluated as in "
            f"training, with each batch's own statistics and dropout: pass train on to {modules}, as in "
            "self.bn(x, use_running_average=not train) and self.dropout(x, deterministic=not train)"
        )


def warn_of_probabilities(network: nnx.Module, image_shape: tuple[int, ...]) -> None:
    """Warn where a network ends in softmax or sigmoid: losses take the softmax of what it returns.

    Networks of the zoo are not tried.
    """
    if getattr(network, "heeds_mode", False):
        return
    last = _last_function(network, image_shape)
    if last is not None:
        warn_caller(
            f"{name_of(network)} ends in {last}, and losses, temperatures and calibration take the softmax of what it "
            f"returns: leave {last} out, and return the logits"
        )


def _last_function(network: nnx.Module, image_shape: tuple[int, ...]) -> str | None:
    """Return "softmax" or "sigmoid" where a network's logits come out of it; the network is only traced."""
    graph, variables = nnx.split(network)

    def logits(variables: Any, images: jax.Array) -> jax.Array:
        return forward(nnx.merge(graph, variables), images, False, "float32").logits

    traced = jax.make_jaxpr(logits)(variables, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)).jaxpr
    sources = {variable: equation for equation in traced.eqns for variable in equation.outvars}

    def source(variable: Any) -> jax.extend.core.JaxprEqn | None:
        return sources.get(variable) if isinstance(variable, jax.extend.core.Var) else None

    found = source(traced.outvars[0])
    while found is not None and found.primitive.name == "convert_element_type":
        found = source(found.invars[0])
    if found is None:
        return None
    named = str(found.params.get("name", ""))
    if found.primitive.name == "logistic" or named == "sigmoid":
        return "sigmoid"
    above = source(found.invars[0]) if found.primitive.name == "div" else None
    if named in ("softmax", "_softmax") or (above is not None and above.primitive.name == "exp"):
        return "softmax"
    return None


def changed_by_evaluation(network: nnx.Module, image_shape: tuple[int, ...]) -> list[str]:
    """Return the paths of the variables, parameters apart, that a network changes in evaluation mode."""
    return _changed(network, image_shape, train=False)


def check_parameters(name: str, params: Tree) -> None:
    """Refuse a network without parameters, and warn where those that are trained have 16 bits.

    These round away steps of less than some thousandths.

    Raises:
      ValueError: nothing would be trained.
    """
    if not jax.tree.leaves(params):
        raise ValueError(
            f"{name} has no parameters, so that nothing would be trained: an array is one as nnx.Param(array)"
        )
    dtypes = {path: value.dtype for path, value in _by_path(params).items()}
    if short := [path for path, dtype in dtypes.items() if dtype in (jnp.bfloat16, jnp.float16)]:
        more = f" and {len(short) - 1} more" if len(short) > 1 else ""
        warn_caller(
            f"{short[0]}{more} of {name} are {dtypes[short[0]]}, in which small steps are rounded away: "
            "keep parameters in float32, as Flax's param_dtype does by default, and compute in fewer bits with "
            'compile(precision="bfloat16")'
        )


def check_frozen(network: nnx.Module, image_shape: tuple[int, ...], trainable: Trainable) -> None:
    """Refuse a network that moves running statistics of frozen layers in training.

    Networks of the zoo are not tried.

    Raises:
      ValueError: with the first of them, and how the layer is left to decide.
    """
    if getattr(network, "heeds_mode", False):
        return
    statistics = _statistics(network)
    changed = _changed(network, image_shape, True, trainable)
    moved = [path for path in changed if path in statistics and not trainable.covers(path.split("."))]
    if moved:
        layer = moved[0].rpartition(".")[0] or moved[0]
        raise ValueError(
            f"{layer} is frozen, and {type(network).__name__} tells it in its call to use and move the statistics of "
            "each batch: leave use_running_average to the layer, which knows, as in self.bn(x, "
            f"use_running_average=None if train else True), or add {layer!r} to trainable"
        )


def _changed(
    network: nnx.Module, image_shape: tuple[int, ...], train: bool, trainable: Trainable | None = None
) -> list[str]:
    """Return the paths of the variables, parameters apart, that a network changes.

    It is only traced. What tracing leaves open, since a transformation hands every variable back, is computed.
    """
    call, variables = _call_of(network, train, trainable)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    traced, found = jax.make_jaxpr(call, return_shape=True)(variables, images)
    before = dict(zip(_by_path(variables), traced.jaxpr.invars, strict=False))  # the last one is the images
    after = dict(zip(_by_path(found), traced.jaxpr.outvars, strict=True))
    if all(after.get(path) is variable for path, variable in before.items()):
        return []
    given, left = _by_path(variables), _by_path(jax.jit(call)(variables, _noise(2, image_shape, seed=0)))
    return [path for path, value in given.items() if path in left and (_plain(left[path]) != _plain(value)).any()]


def constant_variances(network: nnx.Module, image_shape: tuple[int, ...]) -> list[str]:
    """Return the paths of running statistics that training on a single image moves in the same way, whatever it shows.

    They are variances of one value for each channel, which are zero: PyTorch refuses such a batch.
    """
    statistics = _statistics(network)
    if not statistics:
        return []
    call, variables = _call_of(network, train=True)
    compiled = jax.jit(call)
    before, one, other = (
        _by_path(tree) for tree in (variables, *(compiled(variables, _noise(1, image_shape, seed)) for seed in (0, 1)))
    )
    return [
        path
        for path in before
        if path in statistics
        and np.ndim(one[path])
        and (_plain(one[path]) != _plain(before[path])).any()
        and np.array_equal(_plain(one[path]), _plain(other[path]), equal_nan=True)
    ]


def refuse_single(network: nnx.Module, image_shape: tuple[int, ...], what: str, cure: str) -> None:
    """Refuse to train a network on one image at a time where its BatchNorm has a single value for each channel.

    Args:
      network: it is tried only if it has running statistics.
      image_shape: `(H, W, C)`.
      what: that has one image, as an error begins.
      cure: as it ends.

    Raises:
      ValueError: with the first such variable.
    """
    if found := constant_variances(network, image_shape):
        module = found[0].rpartition(".")[0] or found[0]
        raise ValueError(
            f"{what} has one image, and BatchNorm at {module} then sees one value for each channel, which has no "
            f"variance: {cure}"
        )


def check_batch_parts(
    network: nnx.Module, image_shape: tuple[int, ...], examples: int, batch_size: int, program: Program, devices: int
) -> None:
    """Refuse batches of which BatchNorm would see a part with a single value for each channel.

    Args:
      network: that is trained.
      image_shape: `(H, W, C)`.
      examples: of the data.
      batch_size: over all devices.
      program: says how a batch is cut.
      devices: over how many a batch is split.

    Raises:
      ValueError: with the nearest batch size that fits.
    """

    def smallest(size: int) -> int:
        sizes = {min(size, examples), examples % size or size}
        return min(smallest_seen(size, program) for size in sizes)

    if smallest(batch_size) == 1:
        divides = program.microbatches * devices
        near = fitting_batch_size(batch_size, lambda size: smallest(size) > 1 and not size % divides)
        cure = "give more examples" if near is None else f"choose another batch_size, such as {near}"
        what = f"with {examples} examples and batch_size={batch_size}, a batch or a part of it"
        refuse_single(network, image_shape, what, cure)


def smallest_seen(size: int, program: Program) -> int:
    """Return how many images of a batch of a size BatchNorm sees at once, at least, in training by a program."""
    return smallest_part(size, program.microbatches, 1 if program.bn_mesh is None else program.bn_mesh.size)


def smallest_part(size: int, microbatches: int, devices: int) -> int:
    """Return the number of examples in the smallest part of a batch that BatchNorm sees.

    Example:
      >>> smallest_part(13, microbatches=4, devices=1), smallest_part(8, microbatches=2, devices=4)
      (1, 1)
    """
    each = -(-size // microbatches)
    parts = {each, size % each or each}
    return min(part // devices if part % devices == 0 else part for part in parts)


def fitting_batch_size(batch_size: int, fits: Callable[[int], bool]) -> int | None:
    """Return the batch size nearest to this one that fits; None where none is near."""
    near = sorted(range(2, 2 * batch_size + 3), key=lambda size: abs(size - batch_size))
    return next((size for size in near if fits(size)), None)


def _call_of(
    network: nnx.Module, train: bool, trainable: Trainable | None = None
) -> tuple[Callable[[Tree, jax.Array], Tree], Tree]:
    """Return `call(variables, images) -> variables` and the variables; parameters are constants."""
    graph, params, variables = split(network)

    def call(variables: Tree, images: jax.Array) -> Tree:
        merged = nnx.merge(graph, params, variables)
        called(merged, images, train, trainable)
        return split(merged)[2]

    return call, variables


def _statistics(network: nnx.Module) -> set[str]:
    return {layer_name(path) for path, _ in nnx.to_flat_state(nnx.state(network, nnx.BatchStat))}


def _by_path(tree: Tree) -> Paths:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path): leaf for path, leaf in leaves}


def _noise(count: int, image_shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *image_shape), np.float32)


def _plain(value: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(value) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value)
