"""Which steps the CPU should not take in a compiled loop.

There, XLA runs the convolutions that autodiff writes for gradients 15 to 30 times slower inside a loop than outside.
The zoo's convolutions bring gradients of their own; networks with others take one step a call, and one run at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

from jax import lax
from jax.extend import core

from jaxkd.nn.convolution import LAYOUT

STANDARD = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), LAYOUT)
"""The layout of a forward convolution; autodiff writes its gradients as convolutions in others."""


def slow_in_a_loop(jaxpr: core.Jaxpr) -> bool:
    """Return whether a program has a convolution, at any depth, that the CPU would run much slower in a loop.

    Example:
      >>> import jax
      >>> images, kernel = jax.numpy.ones((1, 4, 4, 1)), jax.numpy.ones((3, 3, 1, 1))
      >>> convolved = lambda kernel: lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)
      >>> total = lambda kernel: convolved(kernel).sum()
      >>> [slow_in_a_loop(jax.make_jaxpr(function)(kernel).jaxpr) for function in (total, jax.grad(total))]
      [False, True]
    """
    return any(_is_slow(equation) for equation in jaxpr.eqns)


def _is_slow(equation: core.JaxprEqn) -> bool:
    if equation.primitive is lax.conv_general_dilated_p:
        return equation.params["dimension_numbers"] != STANDARD
    return any(slow_in_a_loop(inner) for inner in _on_cpu(equation))


def _on_cpu(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Yield the programs within an equation; of `lax.platform_dependent`, only the branch that the CPU takes."""
    platforms = equation.params.get("branches_platforms")
    if platforms is None:
        yield from core.jaxprs_in_params(equation.params)
    else:
        branches = zip(equation.params["branches"], platforms, strict=True)
        yield next(branch.jaxpr for branch, names in branches if names is None or "cpu" in names)
