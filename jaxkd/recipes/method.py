"""A method: named losses and their weights, which a student minimises."""

from __future__ import annotations

import dataclasses
import math
import numbers
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkd import losses
from jaxkd.data import Dataset, StreamedDataset
from jaxkd.losses import Loss

Weight = float | Callable[[jax.Array], jax.Array]
"""A number, or a function of the epoch that is a dataclass, so that it can be compared and recorded."""


class MethodFile(NamedTuple):
    """The file that a method of one's own is from.

    Attributes:
      path: of the file, as it was given.
      function: what builds the losses there.
      sha256: of the file; what it imports is not in it.
    """

    path: pathlib.Path
    function: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Method:
    """A weighted sum of named losses, which a student minimises.

    Attributes:
      name: the name for `get_method`.
      title: the name in tables and legends.
      paper: the paper that states it.
      build: creates the loss terms by name from the settings; every call returns new ones.
      weights: the published weight of each term: a number, or a function of the epoch such as `losses.warmup(20)`.
      settings: the published value of each argument of `build`.
      needs_labels: whether `build` also takes `labels`, those of all training images in their order.
      teacher_free: whether its terms compare with labels alone.
      file: where a method of one's own is from; None for those of the library.
    """

    name: str
    title: str
    paper: str
    build: Callable[..., dict[str, Loss]]
    weights: Mapping[str, Weight]
    settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    needs_labels: bool = False
    teacher_free: bool = False
    file: MethodFile | None = None

    def __post_init__(self) -> None:
        for name in ("weights", "settings"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def losses(self, train: Dataset | StreamedDataset | None = None, label_smoothing: float = 0.0) -> dict[str, Loss]:
        """Create new loss terms for `compile(loss=…)`, so that no run inherits what another has learned.

        Args:
          train: the training set; only methods with a memory of every example (CRD) need it.
          label_smoothing: ε of the cross-entropy with the labels.

        Raises:
          ValueError: where such a method is not given the training set; for smoothing without a cross-entropy.

        Example:
          >>> from jaxkd.recipes import get_method
          >>> sorted(get_method("ctkd").losses())
          ['ce', 'kd']
        """
        if self.needs_labels and train is None:
            raise ValueError(f"method {self.name!r} remembers every training image: give losses(train) the data set")
        labels = {"labels": train.labels} if self.needs_labels and train is not None else {}
        terms = self.build(**labels, **self.settings)
        if not label_smoothing:
            return terms
        smoothed: dict[str, Loss] = {}
        for kind in (losses.CrossEntropy, losses.TwoViewCrossEntropy):
            smoothed |= {name: kind(label_smoothing) for name, term in terms.items() if type(term) is kind}
        if not smoothed:
            raise ValueError(
                f"label_smoothing={label_smoothing}: method {self.name!r} has no cross-entropy with labels"
            )
        return terms | smoothed

    @property
    def needs_teacher(self) -> bool:
        """True where any term compares the student with a teacher."""
        return self.teaching_term is not None and not self.teacher_free

    @property
    def teaching_term(self) -> str | None:
        """The name of the first term that stands for the teacher; None for a student alone."""
        return next((name for name in self.weights if name != "ce"), None)

    def adapted(self, weights: Mapping[str, Weight] | None = None, **settings: float) -> Method:
        """Return the same method with other weights or settings; those not named keep their published values.

        A number given for a weight that is published with a warm-up holds from the first epoch.

        Raises:
          ValueError: for a term or a setting that the method does not have, or a value that the loss refuses.
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
            check_weight(name, weight)
        changed = dataclasses.replace(self, weights={**self.weights, **weights}, settings={**self.settings, **settings})
        labels = {"labels": np.arange(2, dtype=np.int32)} if self.needs_labels else {}
        changed.build(**labels, **changed.settings)  # so that a temperature of -1 is refused here, by name
        return changed

    def describe(self) -> dict[str, Any]:
        """Return name, weights and settings as JSON values, for the record of a run; of a file of one's own its hash.

        Example:
          >>> from jaxkd.recipes import get_method
          >>> get_method("dkd").describe()["weights"]
          {'ce': 1.0, 'dkd': {'function': 'Warmup', 'epochs': 20, 'weight': 1.0}}
        """
        weights = {name: _described(weight) for name, weight in self.weights.items()}
        described = {"name": self.name, "weights": weights, "settings": dict(self.settings)}
        return described if self.file is None else described | {"sha256": self.file.sha256}


def check_weight(name: str, weight: Weight) -> None:
    """Refuse a weight that cannot be compared or recorded.

    Raises:
      TypeError: for what is neither a number nor a dataclass to be called with the epoch.
      ValueError: for a number that is not finite.
    """
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
