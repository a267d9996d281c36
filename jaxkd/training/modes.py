"""Try a network in training and in evaluation mode, to find what neither loss nor accuracy would tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxkd.checks import warn_caller
from jaxkd.training.program import Program
from jaxkd.training.state import Tree, split

Paths = dict[str, Any]
"""Arrays, or what stands for them while tracing, by the path of their variable, such as `bn.mean`."""


class EvaluationWatch:
    """Warn of networks that evaluation changes, once for each shape of images."""

    def __init__(self) -> None:
        self._tried: set[tuple[int, tuple[int, ...]]] = set()

    def __call__(self, network: nnx.Module) -> Callable[[tuple[int, ...]], None]:
        """Return what tries a network on images of a shape `(H, W, C)`."""

        def check(image_shape: tuple[int, ...]) -> None:
            if (id(network), image_shape) not in self._tried:
                self._tried.add((id(network), image_shape))
                warn_of_changes(network, image_shape)

        return check


def warn_of_changes(network: nnx.Module, image_shape: tuple[int, ...]) -> None:
    """Warn where evaluation changes variables of a network: it then computes as in training.

    Networks of the zoo are not tried.
    """
    if type(network).__module__.startswith("jaxkd.models."):
        return
    changed = changed_by_evaluation(network, image_shape)
    if changed:
        modules = ", ".join(dict.fromkeys(path.rpartition(".")[0] or path for path in changed))
        warn_caller(
            f"{type(network).__name__} changes {', '.join(changed)} in evaluation, so that it is evaluated as in "
            f"training, with each batch's own statistics and dropout: pass train on to {modules}, as in "
            "self.bn(x, use_running_average=not train) and self.dropout(x, deterministic=not train)"
        )


def changed_by_evaluation(network: nnx.Module, image_shape: tuple[int, ...]) -> list[str]:
    """Return the paths of the variables, parameters apart, that a network changes when called with `train=False`.

    It is only traced. What tracing leaves open, since a transformation hands every variable back, is computed.
    """
    call, variables = _call_of(network, train=False)
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
    statistics = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(network, nnx.BatchStat))}
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
    apart = 1 if program.bn_mesh is None else program.bn_mesh.size

    def smallest(size: int) -> int:
        sizes = {min(size, examples), examples % size or size}
        return min(smallest_part(size, program.microbatches, apart) for size in sizes)

    if smallest(batch_size) == 1:
        divides = program.microbatches * devices
        near = fitting_batch_size(batch_size, lambda size: smallest(size) > 1 and not size % divides)
        cure = "give more examples" if near is None else f"choose another batch_size, such as {near}"
        what = f"with {examples} examples and batch_size={batch_size}, a batch or a part of it"
        refuse_single(network, image_shape, what, cure)


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


def _call_of(network: nnx.Module, train: bool) -> tuple[Callable[[Tree, jax.Array], Tree], Tree]:
    """Return `call(variables, images) -> variables` and the variables; parameters are constants."""
    graph, params, variables = split(network)

    def call(variables: Tree, images: jax.Array) -> Tree:
        merged = nnx.merge(graph, params, variables)
        merged(images, train=train)
        return split(merged)[2]

    return call, variables


def _by_path(tree: Tree) -> Paths:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path): leaf for path, leaf in leaves}


def _noise(count: int, image_shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *image_shape), np.float32)


def _plain(value: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(value) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value)
