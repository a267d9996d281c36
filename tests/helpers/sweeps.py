"""Sweeps over many values, of which a few represent all in the core: the rest is marked `thorough`, or `slow`."""

import pytest


def sweep(names, values, core, thorough=None, **options):
    """Return a decorator that runs a test for each value, unmarked for those of `core` alone."""
    several = "," in names or not isinstance(names, str)
    return pytest.mark.parametrize(names, marked(values, core, thorough, several), **options)


def marked(values, core, thorough=None, several=False):
    """Return the values as pytest's parameters, all but those of `core` marked; marks they have already stay.

    Args:
      values: what a test runs for; tuples of arguments, if `several`.
      core: those of them that run unmarked.
      thorough: those that run in CI as well, by default all others; what is left is slow.
      several: whether a value is a tuple of arguments.
    """
    values, core = list(values), list(core)
    often = values if thorough is None else list(thorough)
    unknown = [value for value in [*core, *often] if value not in values]
    assert not unknown, f"the core has what the sweep has not: {unknown}"
    return [
        value
        if hasattr(value, "marks") or value in core
        else pytest.param(
            *(value if several else (value,)), marks=pytest.mark.thorough if value in often else pytest.mark.slow
        )
        for value in values
    ]
