"""A callback made of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxkd.callbacks.base import Callback

_HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


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
