"""Quantities by their names in words, in the order in which they are shown, and numbers as text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from jaxkd.history import is_share

# The order in which quantities are shown; loss terms, which have names of their own, come where the star is.
_ORDER = (
    *("val_accuracy", "val_ema_accuracy", "accuracy", "val_top5", "val_ema_top5", "top5"),
    *("val_loss", "val_ema_loss", "loss", "*", "_temperature", "_lambda"),
    *("learning_rate", "images_per_second", "teacher_cache_hits"),
)

_TITLES = {
    "val_accuracy": "Test accuracy",
    "val_ema_accuracy": "Test accuracy of the averaged weights",
    "accuracy": "Training accuracy",
    "val_top5": "Test top-5 accuracy",
    "val_ema_top5": "Test top-5 accuracy of the averaged weights",
    "top5": "Training top-5 accuracy",
    "val_loss": "Test cross-entropy",
    "val_ema_loss": "Test cross-entropy of the averaged weights",
    "loss": "Training loss, all terms",
    "learning_rate": "Learning rate",
    "images_per_second": "Images per second",
    "teacher_cache_hits": "Teacher outputs recalled",
}


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A name in the logs.

    Attributes:
      name: in the logs.
      title: in words, the unit included.
      percent: whether it is a part of 1, shown in percent.
    """

    name: str
    title: str
    percent: bool

    def number(self, value: float) -> float:
        """Return a value in the unit that is shown."""
        return 100.0 * value if self.percent else value

    def text(self, value: float) -> str:
        """Return a value as text, without its unit.

        Example:
          >>> quantity("accuracy").text(0.93456), quantity("loss").text(2.34567), quantity("learning_rate").text(0.0005)
          ('93.5', '2.346', '0.0005')
        """
        if not math.isfinite(value):
            return str(value)
        return f"{self.number(value):.1f}" if self.percent else f"{value:.4g}"


def quantity(name: str) -> Quantity:
    """Return what a name in the logs means.

    Example:
      >>> quantity("val_accuracy").title, quantity("kd_temperature").title, quantity("ce").title
      ('Test accuracy, %', 'Temperature of kd', 'Loss term ce')
    """
    name = name.removeprefix("measured_")  # in a sweep over a setting of the same name
    percent = is_share(name)
    if name in _TITLES:
        title = _TITLES[name]
    elif name.endswith("_temperature"):
        title = f"Temperature of {name.removesuffix('_temperature')}"
    elif name.endswith("_lambda"):
        title = f"λ of {name.removesuffix('_lambda')}"
    elif name.startswith("val_"):
        title = f"Test {name.removeprefix('val_').replace('_', ' ')}"
    else:
        title = f"Training {name}" if percent else f"Loss term {name}"
    return Quantity(name, f"{title}, %" if percent else title, percent)


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names of quantities into the order in which they are shown.

    Example:
      >>> in_order(["kd_temperature", "kd", "learning_rate", "ce", "val_accuracy"])
      ['val_accuracy', 'ce', 'kd', 'kd_temperature', 'learning_rate']
    """

    def rank(name: str) -> int:
        name = name.removeprefix("measured_")
        if name in _ORDER:
            return _ORDER.index(name)
        return next((_ORDER.index(end) for end in ("_temperature", "_lambda") if name.endswith(end)), _ORDER.index("*"))

    return sorted(dict.fromkeys(names), key=lambda name: (rank(name), name))


def accuracy(value: float | None) -> str:
    """Return an accuracy in percent with two digits, as the tables of papers have it.

    Example:
      >>> accuracy(0.70661), accuracy(None)
      ('70.66', '–')
    """
    return "–" if value is None else f"{100 * value:.2f}"


def mean_text(mean: float, deviation: float | None) -> str:
    """Return an accuracy and its deviation over seeds as text.

    Example:
      >>> mean_text(0.7066, 0.0021), mean_text(0.7066, None)
      ('70.66 ± 0.21', '70.66')
    """
    return accuracy(mean) if deviation is None else f"{accuracy(mean)} ± {accuracy(deviation)}"


def signed(value: float) -> str:
    """Return a difference of accuracies in percentage points, with its sign.

    Example:
      >>> signed(0.0123), signed(-0.004), signed(0.0)
      ('+1.23', '−0.40', '0.00')
    """
    points = round(100 * value, 2)
    return f"{'+' if points > 0 else '−' if points < 0 else ''}{abs(points):.2f}"


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun.

    Example:
      >>> counted(1, "run"), counted(1437, "image")
      ('1 run', '1,437 images')
    """
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
