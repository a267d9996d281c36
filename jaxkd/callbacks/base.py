"""Hooks of callbacks, and a list that calls them."""

from __future__ import annotations

import inspect
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol

import jax
import numpy as np

from jaxkd.history import History
from jaxkd.keywords import did_you_mean

Logs = dict[str, Any]


class TrainerView(Protocol):
    """Interface of the trainer that callbacks may use.

    Attributes:
      state: everything training changes, a pytree; assign an earlier copy to go back to it. In a sweep, whose
        runs share step and epoch, it has to have the present ones, unless the run ends with it.
      stop_training: set it to end training after this epoch.
      history: the records of the epochs so far.
      last_steps: for each loss term, its value at every step of the last compiled chunk.
      last_steps_start: number of steps taken before that chunk, in the whole training.
    """

    state: Any
    stop_training: bool
    history: History
    last_steps: Mapping[str, np.ndarray]
    last_steps_start: int

    def save(self, directory: str | os.PathLike[str], *, keep: int = ...) -> object:
        """Write a checkpoint, between epochs or in the middle of one; keep the last `keep` of complete epochs."""
        ...


class Callback:
    """Base of all callbacks; every hook does nothing until it is overridden.

    The hooks are Keras's, and so is their counting: `epoch` runs from 0. One is different: many steps are one compiled
    program, a chunk, and `on_train_batch_end` is called once per chunk.

    Attributes:
      every_process: whether it runs in every process of a run; otherwise in the first alone, because it writes or
        shows something.
      saves: whether it writes the state down, and so comes after all others at the end of an epoch.
      trainer: the trainer it serves.
      params: `"epochs"`, `"steps"` per epoch (None if unknown), `"batch_size"`, `"images"` per epoch, and `"resumed"`,
        whether the run goes on with epochs that were done before.

    Example:
      >>> class Shout(Callback):
      ...     def on_epoch_end(self, epoch, logs=None):
      ...         print(f"EPOCH {epoch + 1}: {logs['loss']}")
      >>> Shout().on_epoch_end(0, {"loss": 2.5})
      EPOCH 1: 2.5
    """

    every_process: ClassVar[bool] = True
    saves: ClassVar[bool] = False
    trainer: TrainerView
    params: Mapping[str, Any]

    def __repr__(self) -> str:
        given = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name, parameter.default)
            shown = reprlib.repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
            if shown != reprlib.repr(parameter.default):
                given.append(f"{name}={shown}")
        return f"{type(self).__name__}({', '.join(given)})"

    def set_trainer(self, trainer: Any) -> None:
        """Take the trainer, before anything else."""
        self.trainer = trainer

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Take the length of training."""
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Run before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Run after the last epoch, with its logs; not after an error."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Run before an epoch."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Run after an epoch; `logs` has its means and, as `val_…`, the validation's."""

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        """Run after a chunk of steps: `step` of them are done in this epoch, `logs` has the means over them."""

    def on_termination(self, logs: Logs | None = None) -> None:
        """Run when the process was asked to end, before it does; `logs["signal"]` is the number of the signal.

        That is SIGTERM or SIGHUP, which end it with exit code 75, or SIGINT (Ctrl-C), which raises KeyboardInterrupt.
        Overriding this hook makes training listen to them, between compiled chunks.
        """

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Run before an evaluation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Run after an evaluation, with its results."""


def in_a_list(callbacks: Iterable[Callback] | Callback | None) -> list[Callback]:
    """Return callbacks as a list, of one that is given alone, and of none.

    Example:
      >>> in_a_list(None), in_a_list(Callback())
      ([], [Callback()])
    """
    return [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())


class CallbackList(Callback):
    """Call several callbacks in order, as if they were one; in later processes only those for every process.

    At the end of an epoch those that save come last.

    All of them receive the same `logs`, so what one adds the later ones see.

    Args:
      callbacks: the callbacks.

    Raises:
      TypeError: for something that is not a `Callback`, such as the class instead of an instance, and for one with a
        method that is called much like a hook and is none.

    Example:
      >>> CallbackList([Callback])
      Traceback (most recent call last):
      TypeError: a callback is an instance of Callback: write Callback(...), not the class Callback
    """

    def __init__(self, callbacks: Iterable[Callback] = ()):
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if isinstance(callback, type):
                name = callback.__name__
                raise TypeError(f"a callback is an instance of Callback: write {name}(...), not the class {name}")
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"a callback is an instance of jaxkd.callbacks.Callback, not {callback!r}; LambdaCallback makes "
                    "one from functions"
                )
            for name in dir(callback):
                if name.startswith("on_") and name not in _HOOKS:
                    _refuse_hook(type(callback).__name__, name)
        if jax.process_index():
            self.callbacks = [callback for callback in self.callbacks if callback.every_process]

    def __repr__(self) -> str:
        return f"CallbackList({self.callbacks})"

    def listens_to(self, hook: str) -> bool:
        """Return whether any of them does something in a hook, as in `listens_to("on_termination")`."""
        nothing = getattr(Callback, hook)
        return any(getattr(getattr(each, hook), "__func__", None) is not nothing for each in self.callbacks)

    def set_trainer(self, trainer: Any) -> None:
        for callback in self.callbacks:
            callback.set_trainer(trainer)

    def set_params(self, params: Mapping[str, Any]) -> None:
        for callback in self.callbacks:
            callback.set_params(params)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._call("on_train_begin", logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._call("on_train_end", logs)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._call("on_epoch_begin", logs, epoch)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._call("on_epoch_end", logs, epoch)

    def on_train_batch_end(self, step: int, logs: Logs | None = None) -> None:
        self._call("on_train_batch_end", logs, step)

    def on_termination(self, logs: Logs | None = None) -> None:
        self._call("on_termination", logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self._call("on_test_begin", logs)

    def on_test_end(self, logs: Logs | None = None) -> None:
        self._call("on_test_end", logs)

    def _call(self, hook: str, logs: Logs | None, *position: int) -> None:
        logs = {} if logs is None else logs
        for callback in self.in_order(hook):
            getattr(callback, hook)(*position, logs)

    def in_order(self, hook: str) -> list[Callback]:
        """Return the callbacks in the order in which a hook is called: what the others change in an epoch is saved."""
        if hook != "on_epoch_end":
            return self.callbacks
        return sorted(self.callbacks, key=lambda callback: callback.saves is True)


_HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


def _refuse_hook(owner: str, name: str) -> None:
    """Refuse a method that is called much like a hook, as those of Keras's and Lightning's that are not here.

    Raises:
      TypeError: with the hooks that there are.
    """
    if hint := did_you_mean(name, _HOOKS):
        raise TypeError(f"{owner}.{name} would never be called: {hint}there are {', '.join(_HOOKS)}")


class LambdaCallback(Callback):
    """Call the given functions at the hooks they are named after.

    Args:
      **hooks: functions with the arguments of the hook, for example `on_epoch_end=lambda epoch, logs: …`.

    Raises:
      TypeError: for a name that is not a hook, with those that are.

    Example:
      >>> callback = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
      >>> callback.on_epoch_end(0, {"loss": 2.5})
      0 2.5
    """

    def __init__(self, **hooks: Callable[..., Any]):
        for name, function in hooks.items():
            if name not in _HOOKS:
                raise TypeError(f"there is no hook called {name!r}; there are {', '.join(_HOOKS)}")
            setattr(self, name, function)
        self._names = tuple(hooks)

    def __repr__(self) -> str:
        return f"LambdaCallback({', '.join(self._names)})"
