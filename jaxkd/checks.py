"""Checks of numbers, whose errors name the value and the cure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


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
        "warm-up, check the term's weight and temperature and that images are normalised once, then go on from the "
        "last checkpoint, which is from before"
    )
