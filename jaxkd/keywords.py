"""Names that do not exist: say what was meant, or what to do in the place of a keyword of Keras's."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

OF_COMPILE = dict.fromkeys(
    ("jit_compile", "run_eagerly"), "every step is compiled; trainer.step runs one by itself"
) | {
    "weighted_metrics": "examples have no weights; a metric is a function, see jaxkd.metrics",
    "optimizer_params": "give the optimizer made, as in optimizers.sgd(0.05, momentum=0.9)",
}
_WEIGHTS = (
    "examples have no weights: leave it out, and draw rare classes as often as others by "
    "data.from_arrays(…).replace(balanced=True), or look weights up in a loss of your own, "
    "`self.weights[...][batch.index]`"
)
OF_DATA = dict.fromkeys(("sample_weight", "class_weight"), _WEIGHTS) | {
    "validation_split": "hold images out by train, held_out = data.from_arrays(images, labels).split(0.1), and give "
    "validation_data=held_out",
    "shuffle": "arrays and data sets are shuffled anew for every epoch, batches are taken as they come",
    "data": "name it x",
    **dict.fromkeys(
        ("steps_per_epoch", "validation_steps", "steps"),
        "an epoch is all there is: give a part of the data, as in data_set.subset(640)",
    ),
    **dict.fromkeys(("workers", "use_multiprocessing", "max_queue_size"), "a data.StreamedDataset has workers="),
}
"""By keyword, what to do instead."""


def did_you_mean(wanted: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> str:
    """Return the known names that are most like one that is not among them, as errors say it; "" where none is.

    Example:
      >>> did_you_mean("epoch", ["epochs", "seed"]), did_you_mean("x", ["epochs", "seed"])
      ('did you mean epochs? ', '')
    """
    close = difflib.get_close_matches(wanted, list(known), n=most, cutoff=cutoff)
    return f"did you mean {', '.join(close)}? " if close else ""


def names_cures(cures: Mapping[str, str]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Let a method say what to do in the place of a keyword that it does not have.

    Args:
      cures: by keyword, those of other libraries that have such a method; for any other the nearest keyword is named.

    Example:
      >>> @names_cures({"shuffle": "every epoch is shuffled"})
      ... def fit(x, epochs=1): ...
      >>> fit(1, shuffle=True)
      Traceback (most recent call last):
      TypeError: fit has no shuffle=: every epoch is shuffled
      >>> fit(1, epoch=3)
      Traceback (most recent call last):
      TypeError: fit has no epoch=: did you mean epochs=?
    """

    def decorated(method: Callable[_P, _R]) -> Callable[_P, _R]:
        known = [name for name in inspect.signature(method).parameters if name != "self"]

        @functools.wraps(method)
        def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for name in kwargs:
                if name not in known:
                    guess = (
                        did_you_mean(f"{name}=", [f"{own}=" for own in known]).strip() or f"it takes {', '.join(known)}"
                    )
                    raise TypeError(f"{method.__name__} has no {name}=: {cures.get(name, guess)}")
            return method(*args, **kwargs)

        return called

    return decorated
