"""What a student minimises: `Method`, a weighted sum of named losses."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from jaxkd.data import Dataset, StreamedDataset
from jaxkd.losses import Loss

Weight = float | Callable[[jax.Array], jax.Array]
"""A number, or a function of the epoch that is a dataclass, so that it can be compared and written down."""


@dataclasses.dataclass(frozen=True)
class Method:
    """What a student minimises: a weighted sum of named losses.

    Attributes:
      name: what `get_method` knows it by.
      title: in words, for tables and legends.
      paper: where it comes from.
      build: makes the loss terms by name from the settings; every call gives new ones.
      weights: the published weight of each term: a number, or a function of the epoch as `losses.warmup` makes them.
      settings: the published value of everything `build` takes.
      needs_labels: whether `build` also takes `labels`, those of all training images in their order.
    """

    name: str
    title: str
    paper: str
    build: Callable[..., dict[str, Loss]]
    weights: Mapping[str, Weight]
    settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    needs_labels: bool = False

    def __post_init__(self) -> None:
        for name in ("weights", "settings"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def losses(self, train: Dataset | StreamedDataset | None = None) -> dict[str, Loss]:
        """New loss terms for `compile(loss=…)`: what a run learns or remembers must not leak into the next.

        Args:
          train: what the student will be trained on; only methods that remember every example (CRD) ask for it.

        Raises:
          ValueError: where such a method is not given it.

        Example:
          >>> from jaxkd.recipes import get_method
          >>> sorted(get_method("ctkd").losses())
          ['ce', 'kd']
        """
        if not self.needs_labels:
            return self.build(**self.settings)
        if train is None:
            raise ValueError(f"method {self.name!r} remembers every training image: give losses(train) the data set")
        return self.build(labels=train.labels, **self.settings)

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares the student with a teacher."""
        return self.teaching_term is not None

    @property
    def teaching_term(self) -> str | None:
        """The name of the first term that compares with the teacher; None for a student alone."""
        return next((name for name in self.weights if name != "ce"), None)

    def adapted(self, weights: Mapping[str, Weight] | None = None, **settings: float) -> Method:
        """The same with other weights or settings; what is not named keeps its published value.

        A number given for a weight that is published with a warm-up holds from the first epoch.

        Raises:
          ValueError: for a term or a setting the method does not have, or a value the loss refuses.
          TypeError: for a weight that is neither a number nor a dataclass to be called with the epoch.

        Example:
          >>> from jaxkd.recipes import get_method
          >>> get_method("kd").adapted(weights={"kd": 0.5}).weights["ce"]
          0.1
          >>> get_method("ats").adapted(temperature=4.0)
          Traceback (most recent call last):
          ValueError: method 'ats' has no setting 'temperature'; it has correct, wrong, student
        """
        weights = dict(weights or {})
        for kind, given, own in (("term", weights, self.weights), ("setting", settings, self.settings)):
            for unknown in given.keys() - own.keys():
                has = f"it has {', '.join(own)}" if own else "it has none"
                raise ValueError(f"method {self.name!r} has no {kind} {unknown!r}; {has}")
        for name, weight in weights.items():
            _check_weight(name, weight)
        changed = dataclasses.replace(self, weights={**self.weights, **weights}, settings={**self.settings, **settings})
        labels = {"labels": np.arange(2, dtype=np.int32)} if self.needs_labels else {}
        changed.build(**labels, **changed.settings)  # so that a temperature of -1 is refused here, by name
        return changed

    def describe(self) -> dict[str, Any]:
        """Name, weights and settings as JSON values, for the record of a run.

        Example:
          >>> from jaxkd.recipes import get_method
          >>> get_method("dkd").describe()["weights"]
          {'ce': 1.0, 'dkd': {'function': 'Warmup', 'epochs': 20, 'weight': 1.0}}
        """
        weights = {name: _described(weight) for name, weight in self.weights.items()}
        return {"name": self.name, "weights": weights, "settings": dict(self.settings)}


def _check_weight(name: str, weight: Weight) -> None:
    if callable(weight) and dataclasses.is_dataclass(weight):
        return
    if not isinstance(weight, numbers.Real):
        raise TypeError(
            f"the weight of {name!r} is {weight!r}: give a number, or a dataclass that is called with the epoch, "
            "as losses.warmup(20)"
        )
    if not math.isfinite(weight):
        raise ValueError(f"the weight of {name!r} is {weight}: give a finite number")


def _described(weight: Weight) -> float | dict[str, Any]:
    if isinstance(weight, numbers.Real):
        return float(weight)
    return {"function": type(weight).__name__, **dataclasses.asdict(weight)}  # type: ignore[call-overload]
