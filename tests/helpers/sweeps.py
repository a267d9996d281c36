"""Sweeps over many values, of which a few represent the others in the core: the rest is marked `thorough`."""

import pytest


def sweep(names, values, core, **options):
    """Return a decorator that runs a test for each value, unmarked for those of `core` alone."""
    return pytest.mark.parametrize(
        names, marked(values, core, several="," in names or not isinstance(names, str)), **options
    )


def marked(values, core, several=False):
    """Return the values as pytest's parameters, all but those of `core` marked; marks they have already stay.

    Args:
      values: what a test runs for; tuples of arguments, if `several`.
      core: those of them that run unmarked.
    """
    values, core = list(values), list(core)
    assert all(value in values for value in core), f"the core has what the sweep has not: {core}"
    return [value if hasattr(value, "marks") or value in core else _thorough(value, several) for value in values]


def _thorough(value, several):
    return pytest.param(*(value if several else (value,)), marks=pytest.mark.thorough)
