"""Ends before the last epoch: no more progress, or a loss that is not a finite number."""

from __future__ import annotations

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd.callbacks.base import Callback, Logs
from jaxkd.checks import check_finite
from jaxkd.history import Mode, direction


class EarlyStopping(Callback):
    """End training once `patience` epochs in a row, at least one, have brought no improvement.

    Only epochs in which the quantity was measured count, and NaN is never an improvement. A resumed run, and a `fit`
    with an `initial_epoch`, count the epochs of the history as well, and so end where they would have in one go; a
    second `fit` counts anew.

    Note that stopping or choosing by a test set's accuracy reports its best epoch: monitor held-out training images.

    Args:
      monitor: a name in the logs, for example `"val_loss"`.
      patience: how many epochs without improvement end training.
      min_delta: how much better than the best so far is an improvement, ≥ 0.
      mode: whether `"max"` or `"min"` is best; `"auto"` knows accuracies and losses by name.
      restore_best: whether to put the whole training state of the best epoch back at the end. It keeps a copy of the
        state on the device, and knows only the epochs since `fit` was called.

    Raises:
      ValueError: for a negative `patience` or `min_delta`, or when `"auto"` cannot tell; from `on_epoch_end`, when
        nothing of this name is measured, with what is.

    Example:
      >>> EarlyStopping("kd")
      Traceback (most recent call last):
      ValueError: mode='auto' cannot tell whether high or low 'kd' is good: say mode='max' or mode='min'
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 0,
        min_delta: float = 0.0,
        mode: Mode = "auto",
        restore_best: bool = False,
    ):
        for name, value in {"patience": patience, "min_delta": min_delta}.items():
            if not value >= 0:
                raise ValueError(f"{name} is {value}; it must be at least 0")
        self.monitor = monitor
        self.patience = max(patience, 1)
        self.min_delta = min_delta
        self.restore_best = restore_best
        self._best_state: Any = None
        self._sign = 1.0 if direction(monitor, mode) == "max" else -1.0
        self._forget()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._forget()
        resumed = getattr(self, "params", {}).get("resumed", True)
        before = self.trainer.history.history.get(self.monitor, []) if resumed else []  # else perhaps on other data
        for value in before:
            if value is not None:
                self._observe(value)
        if self._waited >= self.patience:
            self.trainer.stop_training = True
            warnings.warn(
                f"{self.monitor!r} had not improved for {self._waited} epochs when this run was interrupted: "
                "EarlyStopping ends it at once. Raise its patience, or leave it out, to train on",
                stacklevel=2,
            )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        if self.monitor not in logs:
            self._excuse(logs)
            return
        if self._observe(float(logs[self.monitor])) and self.restore_best:
            # A copy, because the next step overwrites the buffers of the state it is given.
            self._best_state = jax.tree.map(jnp.copy, self.trainer.state)
        if self._waited >= self.patience:
            self.trainer.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if math.isnan(self._best):
            warnings.warn(f"EarlyStopping never saw {self.monitor!r} as a number: it did nothing", stacklevel=2)
        elif self.restore_best and self._best_state is not None:
            self.trainer.state = self._best_state
        elif self.restore_best:
            warnings.warn(
                f"the best {self.monitor!r}, {self._best:g}, is from before this run was resumed: its state is gone, "
                "that of the last epoch stays",
                stacklevel=2,
            )
        self._best_state = None

    def _forget(self) -> None:
        self._best = math.nan
        self._waited = 0
        self._best_state = None

    def _observe(self, value: float) -> bool:
        """Take the next value and return whether it is the best so far."""
        improvement = self._sign * (value - self._best)
        if not math.isnan(value) and (math.isnan(self._best) or improvement > self.min_delta):
            self._best = value
            self._waited = 0
            return True
        self._waited += 1
        return False

    def _excuse(self, logs: Logs) -> None:
        """Raise an error for a missing quantity, unless no validation took place in this epoch."""
        validated = any(name.startswith("val_") for name in logs)
        if validated or not self.monitor.startswith("val_"):
            raise ValueError(
                f"EarlyStopping(monitor={self.monitor!r}): the logs have no such value; give one of "
                f"{', '.join(logs) or 'those of a later epoch'}"
            )


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
