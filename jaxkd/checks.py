"""Checks of arguments and of losses: each raises an error that names the value and the cure."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

_FOREIGN_NETWORKS = {
    "flax": "give flax.nnx.bridge.ToNNX(module, rngs=flax.nnx.Rngs(0)).lazy_init(images) of a linen module",
    "torch": "give jaxkd.convert.from_torch(file) of its saved weights, or write the network as a flax.nnx.Module",
}


def warn_caller(message: str) -> None:
    """Warn at the line outside of jaxkd that the call came from."""
    package, level, frame = os.path.dirname(__file__) + os.sep, 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def check_network(role: str, network: object) -> None:
    """Refuse what is no network of Flax's nnx, such as its name or the file with its weights.

    Raises:
      TypeError: it says how to get a network from what was given.

    Example:
      >>> check_network("teacher", "resnet56.pth")
      Traceback (most recent call last):
      TypeError: teacher='resnet56.pth': give a network, as jaxkd.convert.from_torch('resnet56.pth') returns one
    """
    if isinstance(network, nnx.Module):
        return
    if isinstance(network, str | os.PathLike):
        name = os.fspath(network)
        made = f"models.create({name!r}, num_classes=10)" if name.isidentifier() else f"convert.from_torch({name!r})"
        raise TypeError(f"{role}={name!r}: give a network, as jaxkd.{made} returns one")
    if isinstance(network, type):
        raise TypeError(f"{role}={network.__name__}: give an instance, {network.__name__}(…), not the class")
    libraries = {base.__module__.partition(".")[0] for base in type(network).__mro__}
    cure = next((cure for name, cure in _FOREIGN_NETWORKS.items() if name in libraries), "give a flax.nnx.Module")
    raise TypeError(f"{role}={type(network).__name__}: {cure}")


def check_epoch_function(what: str, function: Callable[[jax.Array], jax.Array]) -> None:
    """Refuse a function of the epoch that cannot be compiled, before any work is done.

    Args:
      what: the function's role, for the error message.
      function: takes the epoch, an int32 scalar counted from 1.

    Raises:
      ValueError: where the function decides in Python what is only known on the device, or returns no single number.
    """
    try:
        found = jax.eval_shape(function, jax.ShapeDtypeStruct((), jnp.int32))
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise ValueError(
            f"{what} cannot be compiled: write it with jax.numpy, for example "
            "lambda epoch: jnp.minimum(epoch / 20, 1.0) instead of min(epoch / 20, 1.0)"
        ) from error
    if getattr(found, "shape", None) != ():
        given = f"shape {found.shape}" if hasattr(found, "shape") else repr(found)
        raise ValueError(f"{what} is a function that returns {given}: a function of the epoch returns one number")


def check_at_least(least: int, **counts: int) -> None:
    """Refuse counts below `least` with a ValueError that names the first of them, and what is no whole number.

    Raises:
      TypeError: for a count such as 2.0 or None.

    Example:
      >>> check_at_least(1, batch_size=0)
      Traceback (most recent call last):
      ValueError: batch_size=0: must be at least 1
    """
    for name, count in counts.items():
        if not hasattr(count, "__index__"):
            raise TypeError(f"{name}={count!r}: give a whole number")
        if count < least:
            raise ValueError(f"{name}={count}: must be at least {least}")


def check_number(name: str, value: float, below: float = math.inf, positive: bool = False) -> None:
    """Refuse numbers outside [0, below), and 0 itself where a positive number is needed.

    Raises:
      TypeError: for anything that is not a number.
      ValueError: for a number outside the range.

    Example:
      >>> check_number("momentum", 1.5, below=1.0)
      Traceback (most recent call last):
      ValueError: momentum is 1.5; it must be in [0, 1)
    """
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; a number is needed") from None
    if not 0 <= value < below or (positive and value == 0):
        wanted = "a finite number above 0" if positive else "a finite number ≥ 0"
        raise ValueError(f"{name} is {value}; it must be {wanted if below == math.inf else f'in [0, {below:g})'}")


def check_finite(terms: Mapping[str, np.ndarray], first_step: int, epoch: int) -> None:
    """Refuse losses that are NaN or infinite.

    Args:
      terms: the value of every loss term, and of their total as `loss`, at each of some steps, `[S]`.
      first_step: the number of the first of these steps, counted from 0 over the whole training.
      epoch: they belong to, counted from 1.

    Raises:
      FloatingPointError: it names the step and the term.

    Example:
      >>> check_finite({"loss": np.array([3.0, np.nan]), "kd": np.array([2.5, np.nan])}, first_step=100, epoch=2)
      Traceback (most recent call last):
      FloatingPointError: loss term 'kd' became nan at step 101 (epoch 2). Lower the learning rate or begin with a ...
    """
    broken = {name: np.flatnonzero(~np.isfinite(values)) for name, values in terms.items()}
    if not any(steps.size for steps in broken.values()):
        return
    first = min(int(steps[0]) for steps in broken.values() if steps.size)
    names = [name for name, steps in broken.items() if steps.size and steps[0] == first]
    # A term that is not finite makes the total so: the total is named only when it stands alone.
    names = [name for name in names if name != "loss"] or names
    became = ", ".join(f"{name!r} became {terms[name][first]}" for name in names)
    raise FloatingPointError(
        f"loss term {became} at step {first_step + first} (epoch {epoch}). Lower the learning rate or begin with a "
        "warm-up, check the term's weight and temperature, that images are normalised once and, for CRD, that its "
        "labels are those of the training set in its order, then go on from the last checkpoint, which is from before"
    )
