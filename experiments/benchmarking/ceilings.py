"""How fast a device multiplies matrices and copies memory at most, the yardstick of a benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PRECISIONS = ("float32", "bfloat16")

PATIENCE = 5.0
"""Seconds; a CPU without arithmetic for bfloat16 would exceed it."""


class Size(NamedTuple):
    """What is measured.

    Attributes:
      matrix: rows and columns of square matrices.
      copied: bytes of an array, many times what a cache holds.
    """

    matrix: int
    copied: int


SMALL, LARGE = Size(1536, 1 << 28), Size(8192, 1 << 30)
"""For a CPU, and for an accelerator."""


def measure(repeats: int = 5, size: Size | None = None) -> dict[str, Any]:
    """The ceilings of the default device.

    Args:
      repeats: the fastest of so many counts.
      size: by default one that suits the device.

    Returns:
      `matmul`: FLOP/s for each precision, of JAX or PyTorch, whichever is faster (at TensorFloat-32 for float32 where
      the device has it); `matmul_by`: of each; `copy`: bytes read and written per second.

    Example:
      >>> sorted(measure(repeats=1, size=Size(64, 4096))["matmul"])
      ['bfloat16', 'float32']
    """
    matrix, copied = size or (SMALL if jax.default_backend() == "cpu" else LARGE)
    products = {"jax": jax_products(matrix), **torch_products(matrix)}
    speeds = {
        library: {precision: 2 * matrix**3 / fastest(multiply, repeats) for precision, multiply in own.items()}
        for library, own in products.items()
    }
    values = jax.random.normal(jax.random.key(2), (copied // 4,), jnp.float32)
    negate = jax.jit(jnp.negative)  # a plain copy might be left out
    return {
        "matmul": {name: max(own[name] for own in speeds.values()) for name in PRECISIONS},
        "matmul_by": speeds,
        "copy": 2 * copied / fastest(lambda: negate(values).block_until_ready(), repeats),
    }


def jax_products(size: int) -> dict[str, Callable[[], object]]:
    """Products of square matrices, for each precision."""
    multiply = jax.jit(jnp.matmul)

    def product(precision: str) -> Callable[[], object]:
        left, right = (jax.random.normal(jax.random.key(seed), (size, size), precision) for seed in (0, 1))
        return lambda: multiply(left, right).block_until_ready()

    return {precision: product(precision) for precision in PRECISIONS}


def torch_products(size: int) -> dict[str, dict[str, Callable[[], object]]]:
    """The same in PyTorch, under its name; nothing where it is not installed."""
    try:
        import torch

        from benchmarking.torch_peer import device, wait
    except ImportError:
        return {}
    torch.set_float32_matmul_precision("high")

    def product(precision: str) -> Callable[[], object]:
        left, right = torch.randn(2, size, size, dtype=getattr(torch, precision), device=device())

        def multiply() -> None:
            torch.mm(left, right)
            wait()

        return multiply

    return {"torch": {precision: product(precision) for precision in PRECISIONS}}


def fastest(compute: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some repeats, after two that do not count; of the first one if that takes long."""
    seconds: list[float] = []
    while len(seconds) < repeats + 2:
        start = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - start)
        if seconds[0] > PATIENCE:
            return seconds[0]
    return min(seconds[2:])
