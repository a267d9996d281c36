"""Ends training at a loss that is not a finite number."""

from __future__ import annotations

from jaxkd.callbacks.base import Callback, Logs
from jaxkd.checks import check_finite


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
