"""Functions that return one object for equal arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Made = TypeVar("Made")


def remembered(make: Callable[Given, Made]) -> Callable[Given, Made]:
    """Makes a function return the same object whenever its arguments are equal, lists counting as tuples.

    What it returns is compared by identity (a closure, say), and so becomes comparable: a program that holds it equals
    another that holds one made alike, and need not be compiled again. Arguments without a hash are simply not
    remembered.

    Example:
      >>> @remembered
      ... def scaling(factors):
      ...     return lambda value: value * factors[0]
      >>> scaling([2, 3]) is scaling((2, 3)), scaling({}) is scaling({})
      (True, False)
    """
    kept = functools.lru_cache(maxsize=128, typed=True)(make)

    @functools.wraps(make)
    def made(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        args = tuple(map(_hashable, args))  # type: ignore[assignment]
        kwargs = {name: _hashable(value) for name, value in kwargs.items()}  # type: ignore[assignment]
        try:
            return kept(*args, **kwargs)  # type: ignore[arg-type]
        except TypeError:  # no hash, or a mistake in the arguments, which is then reported as usual
            return make(*args, **kwargs)

    return made


def _hashable(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
