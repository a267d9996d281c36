"""Sweeps over many values, of which a few represent all in the core: the rest is marked `thorough`, or `slow`."""

import pytest


def sweep(names, values, core, rest="thorough", **options):
    """Return a decorator that runs a test for each value, unmarked for those of `core` alone."""
    return pytest.mark.parametrize(
        names, marked(values, core, several="," in names or not isinstance(names, str), rest=rest), **options
    )


def marked(values, core, several=False, rest="thorough"):
    """Return the values as pytest's parameters, all but those of `core` marked; marks they have already stay.

    Args:
      values: what a test runs for; tuples of arguments, if `several`.
      core: those of them that run unmarked.
      several: whether a value is a tuple of arguments.
      rest: the mark of the others.
    """
    values, core = list(values), list(core)
    assert all(value in values for value in core), f"the core has what the sweep has not: {core}"
    return [
        value
        if hasattr(value, "marks") or value in core
        else pytest.param(*(value if several else (value,)), marks=getattr(pytest.mark, rest))
        for value in values
    ]
