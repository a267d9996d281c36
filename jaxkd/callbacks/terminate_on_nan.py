"""Termination at the first loss that is not a finite number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxkd.callbacks.base import Callback, Logs


class TerminateOnNaN(Callback):
    """Raise an error as soon as a loss term is NaN or infinite, naming the term and the step.

    The compiled chunk of steps has run to its end by then: the state holds the NaN, the last checkpoint does not.

    Raises:
      FloatingPointError: from `on_train_batch_end`.

    Example:
      >>> import numpy as np
      >>> from types import SimpleNamespace
      >>> stop = TerminateOnNaN()
      >>> stop.set_trainer(SimpleNamespace(last_steps={"kd": np.array([2.5, np.nan])}, last_steps_start=100))
      >>> stop.on_train_batch_end(2)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      FloatingPointError: loss term 'kd' became nan at step 101 (epoch 1). ...
    """

    def __init__(self) -> None:
        self._epoch = 1

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch + 1

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        check_finite(self.trainer.last_steps, self.trainer.last_steps_start, self._epoch)


def check_finite(terms: Mapping[str, np.ndarray], first_step: int, epoch: int) -> None:
    """Raise an error for losses that are NaN or infinite.

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
