"""Lower bounds of the time of a network: what it must compute and move, and how fast a device can."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd import models

BYTES = {"float32": 4, "bfloat16": 2}

PATIENCE = 5.0
"""Seconds; a product on a CPU without arithmetic for bfloat16 would exceed it."""


class Size(NamedTuple):
    """The sizes with which a device is measured.

    Attributes:
      matrix: rows and columns of square matrices.
      copied: bytes of an array, many times what a cache holds.
    """

    matrix: int
    copied: int


SMALL, LARGE = Size(1536, 1 << 28), Size(8192, 1 << 30)
"""For a CPU, and for an accelerator."""


class Cost(NamedTuple):
    """The cost of one image.

    Attributes:
      flops: two for each multiply-accumulate of the convolutions and linear layers.
      values: numbers that these read and write. Everything in between can be done on the way, so that a device that
        moves less does not compute the network.
    """

    flops: float
    values: float


def cost(
    passes: Mapping[str, float],
    batch_size: int,
    num_classes: int = 100,
    image_shapes: Mapping[str, tuple[int, int, int]] = MappingProxyType({}),
) -> Cost:
    """Return what an image costs in a batch that goes through some networks.

    The backward pass costs two forward passes: one convolution for the gradient of its input, and one for that of its
    weights, each of the same size and over as many numbers.

    Args:
      passes: how often through which, as `work.passes_of` has it.
      batch_size: images that share what is read and written of the weights.
      num_classes: the width of the logits.
      image_shapes: `(H, W, C)` that networks see; others see what they were published for.

    Example:
      >>> round(cost({"resnet20": 3}, 64).flops / 1e6)
      245
    """
    flops = values = 0.0
    for name, times in passes.items():
        seen = image_shapes.get(name)
        moved, weights = _traffic(name, num_classes, seen)
        flops += times * 2 * models.describe(name, num_classes, seen).macs
        values += times * (moved + weights / batch_size)
    return Cost(flops, values)


def fractions(spent: Cost, precision: str, images_per_second: float, ceilings: Mapping[str, Any]) -> dict[str, float]:
    """Return how much of the device's measured speed is used.

    Args:
      spent: for an image.
      precision: of the networks.
      images_per_second: as measured.
      ceilings: from `ceilings_of`.

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
def _traffic(name: str, num_classes: int, image_shape: tuple[int, int, int] | None) -> tuple[int, int]:
    """Return how many numbers all convolutions and linear layers read and write for one image, and those of weights."""
    model: Any = nnx.eval_shape(lambda: models.create(name, num_classes=num_classes))
    graph, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((1, *(image_shape or model.image_shape)), jnp.float32)
    # In training mode one convolution serves both sides of a ReLU; in evaluation mode each side has its own, fused.
    program = jax.make_jaxpr(lambda *given: nnx.merge(graph, given[0])(given[1], train=True).logits)(state, images)
    found = _products(program.jaxpr)
    return sum(turns * moved for turns, moved, _ in found), sum(turns * weights for turns, _, weights in found)


def _products(program: Any) -> list[tuple[int, int, int]]:
    """Yield of each convolution and product how often it runs, its inputs and outputs, and its weights, as counts.

    Of the ways to compute a convolution on different platforms, XLA's own counts, which comes last.
    """
    found = []
    for equation in program.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            images, weights = (operand.aval.size for operand in equation.invars)
            moved = images + equation.outvars[0].aval.size
            found.append((1, moved + weights, 0) if _is_attention(equation) else (1, moved, weights))
            continue
        turns, inside = equation.params.get("length", 1), list(_inside(equation.params))
        for inner in inside[-1:] if equation.primitive.name == "cond" else inside:
            found += [(turns * count, moved, weights) for count, moved, weights in _products(inner)]
    return found


def _is_attention(equation: Any) -> bool:
    """Return whether a product is of two arrays of the same images, image by image, so that neither is of weights."""
    return equation.primitive.name == "dot_general" and bool(equation.params["dimension_numbers"][1][0])


def _inside(parameters: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the programs inside an operation: branches, a loop's body, a function with its own gradient rule."""
    for value in parameters.values():
        for candidate in value if isinstance(value, tuple) else (value,):
            if hasattr(candidate, "eqns"):
                yield getattr(candidate, "jaxpr", candidate)


def measured(library: str, size: Size, repeats: int = 5) -> dict[str, Any]:
    """Return how fast the default device is in "jax" or "torch".

    Returns:
      `matmul`: FLOP/s for each precision (at TensorFloat-32 for float32 where the device has it); and with JAX `copy`:
      bytes read and written per second.

    Raises:
      ImportError: the library is not installed.

    Example:
      >>> sorted(measured("jax", Size(64, 4096), repeats=1)["matmul"])
      ['bfloat16', 'float32']
    """
    if library == "torch":
        from benchmarks import torch_side

        return {"matmul": _rates(torch_side.products(size.matrix), size, repeats)}
    values = jax.random.normal(jax.random.key(2), (size.copied // 4,), jnp.float32)
    negate = jax.jit(jnp.negative)  # a plain copy might be left out
    return {
        "matmul": _rates(_jax_products(size.matrix), size, repeats),
        "copy": 2 * size.copied / fastest(lambda: negate(values).block_until_ready(), repeats),
    }


def ceilings_of(libraries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the ceilings of a device, from what each library measured.

    Returns:
      `matmul`: the faster library's FLOP/s for each precision; `matmul_by`: of each; `copy`: bytes per second.

    Example:
      >>> ceilings_of({"jax": {"matmul": {"float32": 2.0}, "copy": 5.0}, "torch": {"matmul": {"float32": 3.0}}})
      {'matmul': {'float32': 3.0}, 'matmul_by': {'jax': {'float32': 2.0}, 'torch': {'float32': 3.0}}, 'copy': 5.0}
    """
    speeds = {library: dict(found["matmul"]) for library, found in libraries.items()}
    best = {name: max(own[name] for own in speeds.values()) for name in speeds["jax"]}
    return {"matmul": best, "matmul_by": speeds, "copy": libraries["jax"]["copy"]}


def _rates(products: Mapping[str, Callable[[], object]], size: Size, repeats: int) -> dict[str, float]:
    return {precision: 2 * size.matrix**3 / fastest(multiply, repeats) for precision, multiply in products.items()}


def _jax_products(size: int) -> dict[str, Callable[[], object]]:
    """Return products of square matrices, for each precision."""
    multiply = jax.jit(jnp.matmul)

    def product(precision: str) -> Callable[[], object]:
        left, right = (jax.random.normal(jax.random.key(seed), (size, size), precision) for seed in (0, 1))
        return lambda: multiply(left, right).block_until_ready()

    return {precision: product(precision) for precision in BYTES}


def fastest(compute: Callable[[], object], repeats: int) -> float:
    """Return the fastest of some repeats in seconds, after two that do not count; the first one if that takes long."""
    seconds: list[float] = []
    while len(seconds) < repeats + 2:
        start = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - start)
        if seconds[0] > PATIENCE:
            return seconds[0]
    return min(seconds[2:])
