"""Published hyper-parameters as data: how a paper trains (`Training`) and what it minimises (`Method`).

A new row is an entry in one of the two tables below, never a branch in the code.

Example:
  >>> from jaxkd import recipes
  >>> training, method = recipes.get_training("repdistiller"), recipes.get_method("kd", temperature=2.0)
  >>> training.epochs, training.drops, method.weights["kd"], method.settings["temperature"]
  (240, (150, 180, 210), 0.9, 2.0)
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal

import optax

from jaxkd import optimizers
from jaxkd.base import Normalization
from jaxkd.losses import ATS, KD, CrossEntropy, CurriculumTemperature, Loss, cosine_curriculum

_LIGHT = re.compile(r"(mobile|shuffle)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Training:
    """How networks are trained: SGD on batches, with a learning rate that drops.

    Attributes:
      name: what `get_training` knows it by.
      paper: where it comes from.
      epochs: how many.
      batch_size: examples per step.
      learning_rate: the first one, after the warm-up.
      drops: after so many completed epochs the rate falls to a tenth.
      warmup: epochs in which the rate rises from 1e-8.
      momentum: of SGD.
      weight_decay: of every parameter.
      light_learning_rate: the first rate for MobileNets and ShuffleNets; None where they get no other.
      normalization: what images are normalised with; None means the data set's own statistics.
      reported: the epoch whose accuracy the paper's tables state.
    """

    name: str
    paper: str
    epochs: int
    batch_size: int
    learning_rate: float
    drops: tuple[int, ...]
    warmup: int = 0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    light_learning_rate: float | None = None
    normalization: Normalization | None = None
    reported: Literal["last", "best"] = "last"

    def adapted(
        self,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        network: str | None = None,
    ) -> Training:
        """The same with some of its numbers changed; None keeps the recipe's own.

        Args:
          epochs: another length. Drops and warm-up keep their place as parts of the whole, rounded to epochs; drops
            that round to the same epoch become one, and those at the very end are left out.
          batch_size: another number of examples per step. The rate stays: give it as well if it should follow.
          learning_rate: another first rate.
          network: the name of the network to train, which decides between the two rates of the recipe.

        Raises:
          ValueError: for a number that is not positive.

        Example:
          >>> get_training("repdistiller").adapted(epochs=24).drops
          (15, 18, 21)
          >>> get_training("repdistiller").adapted(network="MobileNetV2").learning_rate
          0.01
        """
        for title, value in (("epochs", epochs), ("batch_size", batch_size), ("learning_rate", learning_rate)):
            if value is not None and not value > 0:
                raise ValueError(f"{title}={value}: give a number above 0")
        changes: dict[str, object] = {}
        if epochs is not None and epochs != self.epochs:
            part = epochs / self.epochs
            warmup = round(self.warmup * part)
            drops = sorted({round(drop * part) for drop in self.drops})
            changes |= {"epochs": epochs, "warmup": warmup, "drops": tuple(d for d in drops if warmup < d < epochs)}
        if batch_size is not None:
            changes["batch_size"] = batch_size
        if learning_rate is not None:
            changes["learning_rate"] = learning_rate
        elif network is not None and self.light_learning_rate is not None and _LIGHT.search(network):
            changes["learning_rate"] = self.light_learning_rate
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def optimizer(self, epochs: int | None = None) -> optax.GradientTransformationExtraArgs:
        """SGD with this schedule, its drops scaled to another number of `epochs` where one is given.

        Example:
          >>> optimizer = get_training("ats").optimizer(epochs=48)
        """
        chosen = self.adapted(epochs=epochs)
        rate = optimizers.step_decay(chosen.learning_rate, chosen.drops, warmup=chosen.warmup)
        return optimizers.sgd(rate, momentum=chosen.momentum, weight_decay=chosen.weight_decay)


@dataclasses.dataclass(frozen=True)
class Method:
    """What a student minimises: a weighted sum of named losses.

    Attributes:
      name: what `get_method` knows it by.
      title: in words, for tables and legends.
      paper: where it comes from.
      build: makes the loss terms by name from the settings; every call gives new ones.
      weights: the published weight of each term.
      settings: the published value of everything `build` takes.
    """

    name: str
    title: str
    paper: str
    build: Callable[..., dict[str, Loss]]
    weights: Mapping[str, float]
    settings: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("weights", "settings"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def losses(self) -> dict[str, Loss]:
        """New loss terms for `compile(loss=…)`: what a run learns or remembers must not leak into the next.

        Example:
          >>> sorted(get_method("ctkd").losses())
          ['ce', 'kd']
        """
        return self.build(**self.settings)

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares the student with a teacher."""
        return self.teaching_term is not None

    @property
    def teaching_term(self) -> str | None:
        """The name of the term that compares the logits with the teacher's; None for a student alone."""
        return next((name for name in self.weights if name != "ce"), None)

    def adapted(self, weights: Mapping[str, float] | None = None, **settings: float) -> Method:
        """The same with other weights or settings; what is not named keeps its published value.

        Raises:
          ValueError: for a term or a setting the method does not have, or a value the loss refuses.

        Example:
          >>> get_method("kd").adapted(weights={"kd": 0.5}).weights["ce"]
          0.1
          >>> get_method("ats").adapted(temperature=4.0)
          Traceback (most recent call last):
          ValueError: method 'ats' has no setting 'temperature'; it has correct, wrong, student
        """
        weights = dict(weights or {})
        for name, weight in weights.items():
            if not math.isfinite(weight):
                raise ValueError(f"the weight of {name!r} is {weight}: give a finite number")
        for kind, given, own in (("term", weights, self.weights), ("setting", settings, self.settings)):
            for unknown in given.keys() - own.keys():
                has = f"it has {', '.join(own)}" if own else "it has none"
                raise ValueError(f"method {self.name!r} has no {kind} {unknown!r}; {has}")
        changed = dataclasses.replace(self, weights={**self.weights, **weights}, settings={**self.settings, **settings})
        changed.losses()  # so that a temperature of -1 is refused here, by name
        return changed


def trainings() -> list[str]:
    """The names of the training recipes.

    Example:
      >>> "ats" in trainings()
      True
    """
    return list(_TRAININGS)


def get_training(name: str) -> Training:
    """A training recipe by its name.

    Raises:
      ValueError: for an unknown one, with those that exist.

    Example:
      >>> get_training("ats").batch_size
      128
    """
    if name not in _TRAININGS:
        raise ValueError(f"no training recipe is called {name!r}; there are {', '.join(_TRAININGS)}")
    return _TRAININGS[name]


def methods() -> list[str]:
    """The names of the methods.

    Example:
      >>> "ctkd+std" in methods()
      True
    """
    return list(_METHODS)


def get_method(name: str, *, weights: Mapping[str, float] | None = None, **settings: float) -> Method:
    """A method by its name, with the published numbers or, where given, others.

    Args:
      name: one of `methods()`.
      weights: of the terms named; the others keep theirs.
      **settings: what the method's losses take: `temperature` (kd), `correct`, `wrong`, `student` (ats), `t_start`,
        `t_end`, `curriculum_epochs` (ctkd).

    Raises:
      ValueError: for an unknown method, with those that exist; a term or a setting it does not have; a value that its
        loss refuses.

    Example:
      >>> get_method("kd").weights["kd"], get_method("kd+std").weights["kd"]
      (0.9, 9.0)
      >>> get_method("ats", correct=5.0).settings["correct"]
      5.0
    """
    if name not in _METHODS:
        raise ValueError(f"no method is called {name!r}; there are {', '.join(_METHODS)}")
    return _METHODS[name].adapted(weights, **settings)


def _kd(temperature: float, standardize: bool = False) -> dict[str, Loss]:
    return {"ce": CrossEntropy(), "kd": KD(temperature, standardize)}


def _ats(correct: float, wrong: float, student: float, standardize: bool = False) -> dict[str, Loss]:
    return {"ce": CrossEntropy(), "ats": ATS(correct, wrong, student, standardize)}


def _ctkd(t_start: float, t_end: float, curriculum_epochs: float, standardize: bool = False) -> dict[str, Loss]:
    # The published curriculum is left to the class: equal losses are then one compiled program.
    curriculum = None if curriculum_epochs == 10 else cosine_curriculum(int(curriculum_epochs))
    return {"ce": CrossEntropy(), "kd": KD(CurriculumTemperature(t_start, t_end, curriculum), standardize)}


def _by_name(entries: Iterable):
    return MappingProxyType({entry.name: entry for entry in entries})


_HINTON = "Hinton et al., Distilling the Knowledge in a Neural Network, 2015"
_LI_ATS = "Li et al., Asymmetric Temperature Scaling Makes Larger Networks Teach Well Again, NeurIPS 2022"
_LI_CTKD = "Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023"
_UNPUBLISHED = "a combination of Li et al. (NeurIPS 2022) and Sun et al. (CVPR 2024), published by neither"
_SUN = "Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024"

_CIFAR_240 = Training(
    name="repdistiller",
    paper="Tian et al., Contrastive Representation Distillation, ICLR 2020; also Li et al. (CTKD), AAAI 2023",
    epochs=240,
    batch_size=64,
    learning_rate=0.05,
    light_learning_rate=0.01,
    drops=(150, 180, 210),
)

_TRAININGS: Mapping[str, Training] = _by_name(
    [
        _CIFAR_240,
        dataclasses.replace(
            _CIFAR_240,
            name="standardization",
            paper=_SUN,
            reported="best",
        ),
        Training(
            name="ats",
            paper=_LI_ATS,
            epochs=240,
            batch_size=128,
            learning_rate=0.05,
            drops=(150, 180, 210),
            warmup=5,
            normalization=Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ),
        Training(
            name="digits",
            paper="no paper: a short schedule for the digits that come with jaxkd",
            epochs=30,
            batch_size=40,
            learning_rate=0.05,
            drops=(18, 26),
        ),
    ]
)

_TEMPERATURES = {"correct": 4.0, "wrong": 2.0, "student": 1.0}
_CURRICULUM = {"t_start": 1.0, "t_end": 20.0, "curriculum_epochs": 10}
_KD, _ATS, _HEAVY_KD = {"ce": 0.1, "kd": 0.9}, {"ce": 0.5, "ats": 0.5}, {"ce": 0.1, "kd": 9.0}

_METHODS: Mapping[str, Method] = _by_name(
    [
        Method("ce", "student alone", "no teacher", lambda: {"ce": CrossEntropy()}, {"ce": 1.0}),
        Method("kd", "KD", _HINTON, _kd, _KD, {"temperature": 4.0}),
        Method("ats", "ATS", _LI_ATS, _ats, _ATS, _TEMPERATURES),
        Method("ctkd", "CTKD", _LI_CTKD, _ctkd, _KD, _CURRICULUM),
        Method("kd+std", "standardised KD", _SUN, partial(_kd, standardize=True), _HEAVY_KD, {"temperature": 2.0}),
        Method("ctkd+std", "standardised CTKD", _SUN, partial(_ctkd, standardize=True), _HEAVY_KD, _CURRICULUM),
        Method("ats+std", "standardised ATS", _UNPUBLISHED, partial(_ats, standardize=True), _ATS, _TEMPERATURES),
    ]
)
