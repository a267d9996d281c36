"""A method from a file of one's own, as `--method my_loss.py:build` names it."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import numbers
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxkd.formats.files import sha256
from jaxkd.keywords import did_you_mean
from jaxkd.losses import Loss
from jaxkd.recipes.method import Method, MethodFile, Weight, check_weight

_RETURNS = (
    'return a loss, or losses by name such as {"ce": losses.CrossEntropy(), "mine": MyLoss()}, or these and their '
    "weights by name, as a tuple of two"
)


def is_in_a_file(name: str) -> bool:
    """Return whether a method's name is that of a file, with a function after a colon or without one.

    Example:
      >>> is_in_a_file("my_loss.py:build"), is_in_a_file("kd+std")
      (True, False)
    """
    return name.partition(":")[0].endswith(".py")


def read_method(name: str) -> Method:
    """Return the method that a function of a Python file builds.

    The function, or class of a loss, is called as `build(**settings)` and returns a loss, losses by name, or
    `(losses, weights)`; a weight is 1 where none is given. Its arguments with a number as default are the settings of
    the method; one called `labels` gets those of all training images. A term called `ce` is taken to need no teacher,
    any other to need one.

    Args:
      name: `FILE.py:FUNCTION`.

    Raises:
      ValueError: there is no such file or function, it cannot be imported, or it builds no losses.

    Example:
      >>> import tempfile
      >>> file = pathlib.Path(tempfile.mkdtemp(), "mine.py")
      >>> _ = file.write_text("from jaxkd import losses\\n"
      ...     "def build(temperature=4.0):\\n"
      ...     "    return {'ce': losses.CrossEntropy(), 'kd': losses.KD(temperature)}, {'kd': 0.5}\\n")
      >>> method = read_method(f"{file}:build")
      >>> method.name, dict(method.weights), dict(method.settings)
      ('mine.build', {'ce': 1.0, 'kd': 0.5}, {'temperature': 4.0})
    """
    text, _, function = name.partition(":")
    file = pathlib.Path(text).expanduser()
    if not file.is_file():
        raise ValueError(f"method {name!r}: there is no file {file}; it was looked for in {file.absolute().parent}")
    digest = sha256(file)
    made = _found(_module(file.absolute(), digest), function, name)
    settings, needs_labels = _arguments(made, name)
    labels = {"labels": np.arange(2, dtype=np.int32)} if needs_labels else {}
    try:
        built = made(**labels, **settings)
    except Exception as error:
        raise ValueError(f"method {name!r}: {function}() raised {type(error).__name__}: {error}") from error
    terms, weights = _read(built, name)
    return Method(
        name=f"{file.stem}.{function}",
        title=f"{file.stem}.{function}",
        paper=f"{file.name}, of one's own",
        build=_Builder(made, name),
        weights={term: weights.get(term, 1.0) for term in terms},
        settings=settings,
        needs_labels=needs_labels,
        file=MethodFile(file, function, digest),
    )


@dataclasses.dataclass(frozen=True)
class _Builder:
    """Builds the terms alone; equal to another of the same function."""

    made: Callable[..., Any]
    name: str

    def __call__(self, **given: Any) -> dict[str, Loss]:
        return _read(self.made(**given), self.name)[0]


@functools.lru_cache(maxsize=32)
def _module(file: pathlib.Path, digest: str) -> types.ModuleType:
    """Return a file as a module, the same one for the same content, so that equal losses share compiled programs."""
    known = f"jaxkd_method_{file.stem}_{digest[:12]}"
    described = importlib.util.spec_from_file_location(known, file)
    if described is None or described.loader is None:
        raise ValueError(f"method {file.name!r} is no Python file")
    module = importlib.util.module_from_spec(described)
    sys.modules[known] = module  # dataclasses look their module up
    try:
        described.loader.exec_module(module)
    except Exception as error:
        del sys.modules[known]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{file}, line {line}" if line else str(file)
        raise ValueError(f"{where}: {type(error).__name__}: {getattr(error, 'msg', None) or error}") from error
    return module


def _found(module: types.ModuleType, function: str, name: str) -> Callable[..., Any]:
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__ and not key.startswith("_")
    ]
    has = f"it has {', '.join(own)}" if own else "it has none"
    if not function:
        example = own[-1] if own else "build"
        raise ValueError(f"method {name!r} names no function of that file: write {name.rstrip(':')}:{example}; {has}")
    made = getattr(module, function, None)
    if made is None:
        raise ValueError(f"method {name!r}: that file has no {function!r}; {did_you_mean(function, own)}{has}")
    if isinstance(made, Loss) or not callable(made):
        raise ValueError(
            f"method {name!r} is {made!r}: name a function or class that makes a loss, since every run has its own"
        )
    return made


def _arguments(made: Callable[..., Any], name: str) -> tuple[dict[str, float], bool]:
    """Return the settings with their defaults, and whether the labels are wanted."""
    settings: dict[str, float] = {}
    needs_labels = False
    # The signature of a module's class is that of Flax's metaclass, which takes anything.
    initializer: Any = vars(made).get("__init__") if isinstance(made, type) else None
    given = inspect.signature(initializer or made).parameters.values()
    for argument in list(given)[initializer is not None :]:
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        if argument.name == "labels":
            needs_labels = True
        elif argument.default is argument.empty:
            raise ValueError(
                f"method {name!r}: its argument {argument.name!r} has no default, so that nobody knows its value: give "
                f"it one, as in {argument.name}=1.0; --setting {argument.name}=2 changes it"
            )
        elif isinstance(argument.default, numbers.Real) and not isinstance(argument.default, bool):
            settings[argument.name] = argument.default  # type: ignore[assignment]  # an int or a float
    return settings, needs_labels


def _read(built: Any, name: str) -> tuple[dict[str, Loss], Mapping[str, Weight]]:
    """Return losses and weights by name.

    Raises:
      ValueError: for anything else.
    """
    terms, weights = built if isinstance(built, tuple) and len(built) == 2 else (built, {})
    if isinstance(terms, Loss):
        terms = {type(terms).__name__.lower(): terms}
    if not isinstance(terms, Mapping) or not terms or not isinstance(weights, Mapping):
        raise ValueError(f"method {name!r} returned {_described(built)}: {_RETURNS}")
    for term, loss in terms.items():
        if isinstance(loss, type) or not callable(loss):
            raise ValueError(f"method {name!r}: its term {term!r} is {_described(loss)}, not a loss: {_RETURNS}")
    if unknown := sorted(set(weights) - set(terms)):
        raise ValueError(f"method {name!r}: a weight for {', '.join(unknown)}, but its terms are {', '.join(terms)}")
    for term, weight in weights.items():
        try:
            check_weight(term, weight)
        except TypeError as error:
            raise ValueError(f"method {name!r}: {error}") from None
    return dict(terms), weights


def _described(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"{type(value).__name__} {value!r}"
