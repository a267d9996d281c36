"""What a network must at least compute and move: the work that a device's ceilings are compared with."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarking.work import RECIPE
from jaxkd import models

BYTES = {"float32": 4, "bfloat16": 2}


class Cost(NamedTuple):
    """Of one image.

    Attributes:
      flops: two for each multiply-accumulate of the convolutions and linear layers.
      values: numbers that these read and write. Everything in between can be done on the way, so that a device that
        moves less does not compute the network.
    """

    flops: float
    values: float


def cost(passes: Mapping[str, int], batch_size: int) -> Cost:
    """Of an image in a batch that goes through some networks.

    The backward pass costs two forward passes: one convolution for the gradient of its input, and one for that of its
    weights, each of the same size and over as many numbers.

    Args:
      passes: how often through which, as `work.passes_of` has it.
      batch_size: images that share what is read and written of the weights.

    Example:
      >>> round(cost({"resnet20": 3}, 64).flops / 1e6)
      245
    """
    flops = values = 0.0
    for name, times in passes.items():
        moved, weights = _traffic(name)
        flops += times * 2 * models.describe(name, RECIPE.num_classes).macs
        values += times * (moved + weights / batch_size)
    return Cost(flops, values)


def fractions(spent: Cost, precision: str, images_per_second: float, ceilings: Mapping[str, Any]) -> dict[str, float]:
    """How much of the device's measured speed is used.

    Args:
      spent: for an image.
      precision: of the networks.
      images_per_second: as measured.
      ceilings: from `ceilings.measure`.

    Returns:
      `matmul`, the part of the fastest matrix product in that precision, and `copy`, that of the fastest copy.

    Example:
      >>> fractions(Cost(2e9, 1e6), "float32", 100.0, {"matmul": {"float32": 1e12}, "copy": 4e9})
      {'matmul': 0.2, 'copy': 0.1}
    """
    return {
        "matmul": spent.flops * images_per_second / ceilings["matmul"][precision],
        "copy": spent.values * BYTES[precision] * images_per_second / ceilings["copy"],
    }


@functools.cache
def _traffic(name: str) -> tuple[int, int]:
    """Numbers that all convolutions and linear layers read and write for one image, and those of their weights."""
    model: Any = nnx.eval_shape(lambda: models.create(name, num_classes=RECIPE.num_classes))
    graph, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    program = jax.make_jaxpr(lambda *given: nnx.merge(graph, given[0])(given[1]).logits)(state, images)
    found = _products(program.jaxpr)
    return sum(turns * moved for turns, moved, _ in found), sum(turns * weights for turns, _, weights in found)


def _products(program: Any) -> list[tuple[int, int, int]]:
    """For each convolution and product: how often it runs, the numbers of its input and output, those of its weights.

    Of the ways to compute a convolution on different platforms, XLA's own counts, which comes last.
    """
    found = []
    for equation in program.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            images, weights = (operand.aval.size for operand in equation.invars)
            found.append((1, images + equation.outvars[0].aval.size, weights))
            continue
        turns, inside = equation.params.get("length", 1), list(_inside(equation.params))
        for inner in inside[-1:] if equation.primitive.name == "cond" else inside:
            found += [(turns * count, moved, weights) for count, moved, weights in _products(inner)]
    return found


def _inside(parameters: Mapping[str, Any]) -> Iterator[Any]:
    """The programs inside an operation: branches, a loop's body, a function with its own gradient rule."""
    for value in parameters.values():
        for candidate in value if isinstance(value, tuple) else (value,):
            if hasattr(candidate, "eqns"):
                yield getattr(candidate, "jaxpr", candidate)
