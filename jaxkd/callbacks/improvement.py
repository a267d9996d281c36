"""Ends training, or lowers the learning rate, when a quantity improves no more."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxkd.callbacks.base import Callback, Logs
from jaxkd.checks import check_at_least, check_number
from jaxkd.history import Mode, direction


class _Monitor(Callback):
    """Watch a quantity: its best value so far, and how many epochs it has not improved for.

    Only epochs in which it was measured count, and NaN is never an improvement. A resumed run, and a `fit` with an
    `initial_epoch`, count the epochs of the history as well; a second `fit` counts anew.
    """

    def __init__(self, monitor: str, patience: int, min_delta: float, mode: Mode):
        for name, value in {"patience": patience, "min_delta": min_delta}.items():
            if not value >= 0:
                raise ValueError(f"{name} is {value}; it must be at least 0")
        self.monitor = monitor
        self.patience = max(patience, 1)
        self.min_delta = min_delta
        self._sign = 1.0 if direction(monitor, mode) == "max" else -1.0
        self._forget()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._forget()
        resumed = getattr(self, "params", {}).get("resumed", True)
        before = self.trainer.history.history.get(self.monitor, []) if resumed else []  # else perhaps on other data
        for value in before:
            if value is not None:
                self._observe(value)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if math.isnan(self._best):
            said = f"{type(self).__name__} never saw {self.monitor!r} as a number: it did nothing"
            warnings.warn(said, stacklevel=2)

    def _forget(self) -> None:
        self._best = math.nan
        self._waited = 0

    def _observe(self, value: float) -> bool:
        """Take the next value and return whether it is the best so far."""
        improvement = self._sign * (value - self._best)
        if not math.isnan(value) and (math.isnan(self._best) or improvement > self.min_delta):
            self._best = value
            self._waited = 0
            return True
        self._waited += 1
        return False

    def _measured(self, logs: Logs | None) -> float | None:
        """Return the quantity; None where no validation took place in this epoch.

        Raises:
          ValueError: nothing of this name is measured.
        """
        logs = logs or {}
        if self.monitor in logs:
            return float(logs[self.monitor])
        validated = any(name.startswith("val_") for name in logs)
        if validated or not self.monitor.startswith("val_"):
            raise ValueError(
                f"{type(self).__name__}(monitor={self.monitor!r}): the logs have no such value; give one of "
                f"{', '.join(logs) or 'those of a later epoch'}"
            )
        return None


class EarlyStopping(_Monitor):
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
        self.restore_best = restore_best
        self._best_state: Any = None
        super().__init__(monitor, patience, min_delta, mode)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self._best_state = None
        if self._waited >= self.patience:
            self.trainer.stop_training = True
            warnings.warn(
                f"{self.monitor!r} had not improved for {self._waited} epochs when this run was interrupted: "
                "EarlyStopping ends it at once. Raise its patience, or leave it out, to train on",
                stacklevel=2,
            )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self._measured(logs)
        if value is None:
            return
        if self._observe(value) and self.restore_best:
            # A copy, because the next step overwrites the buffers of the state it is given.
            self._best_state = jax.tree.map(jnp.copy, self.trainer.state)
        if self._waited >= self.patience:
            self.trainer.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        if self.restore_best and self._best_state is not None:
            self.trainer.state = self._best_state
        elif self.restore_best and not math.isnan(self._best):
            warnings.warn(
                f"the best {self.monitor!r}, {self._best:g}, is from before this run was resumed: its state is gone, "
                "that of the last epoch stays",
                stacklevel=2,
            )
        self._best_state = None


class ReduceLROnPlateau(_Monitor):
    """Multiply the learning rate by `factor` whenever `patience` epochs in a row have brought no improvement.

    What the schedule of the optimizer says is multiplied; the optimizer has to be from `jaxkd.optimizers`, or to end in
    `optimizers.scale_by_epoch_rate`. How far the rate was lowered is part of the state, and so of checkpoints.

    Args:
      monitor: a name in the logs, for example `"val_loss"`.
      factor: between 0 and 1.
      patience: after how many epochs without improvement, at least one.
      min_delta: how much better than the best so far is an improvement, ≥ 0.
      cooldown: for how many epochs after that nothing is counted.
      min_lr: the rate is not lowered below it, ≥ 0.
      mode: whether `"max"` or `"min"` is best; `"auto"` knows accuracies and losses by name.

    Raises:
      ValueError: for a number outside its range, or when `"auto"` cannot tell; from `on_train_begin`, for an optimizer
        without such a rate; from `on_epoch_end`, when nothing of this name is measured, with what is.

    Example:
      >>> ReduceLROnPlateau(factor=2.0)
      Traceback (most recent call last):
      ValueError: factor=2.0: give a number between 0 and 1
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        mode: Mode = "auto",
    ):
        if not 0 < factor < 1:
            raise ValueError(f"factor={factor}: give a number between 0 and 1")
        check_at_least(0, cooldown=cooldown)
        check_number("min_lr", min_lr)
        self.factor, self.cooldown, self.min_lr = factor, cooldown, min_lr
        super().__init__(monitor, patience, min_delta, mode)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        if not optax.tree_utils.tree_get_all_with_path(self.trainer.state.opt_state, "rate_factor"):
            raise ValueError(
                "ReduceLROnPlateau: the optimizer has no rate that it can change: take one of jaxkd.optimizers, or end "
                "an optax.chain in optimizers.scale_by_epoch_rate(…)"
            )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self._measured(logs)
        if value is not None:
            self._observe(value)
            if self._due:
                self._lower()

    def _forget(self) -> None:
        super()._forget()
        self._cooling, self._due = 0, False

    def _observe(self, value: float) -> bool:
        better = super()._observe(value)
        if self._cooling:
            self._cooling, self._waited = self._cooling - 1, 0
        self._due = self._waited >= self.patience
        if self._due:
            self._cooling, self._waited = self.cooldown, 0
        return better

    def _lower(self) -> None:
        state = self.trainer.state
        (_, before), *_ = optax.tree_utils.tree_get_all_with_path(state.opt_state, "rate_factor")
        (_, rate), *_ = optax.tree_utils.tree_get_all_with_path(state.opt_state, "learning_rate")
        scheduled = float(rate) / float(before)
        if scheduled <= self.min_lr:
            return
        lowered = max(float(before) * self.factor, self.min_lr / scheduled)
        if lowered < float(before):
            after = jax.device_put(np.float32(lowered), before.sharding)
            opt_state = optax.tree_utils.tree_set(state.opt_state, rate_factor=after)
            self.trainer.state = dataclasses.replace(state, opt_state=opt_state)
