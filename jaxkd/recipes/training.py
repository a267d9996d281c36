"""Training schedules of papers: `Training`, and a table of the published ones.

A new training is an entry in the table.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import optax

from jaxkd import optimizers
from jaxkd.recipes.methods import ASYMMETRIC, CONTRASTIVE, CURRICULUM, DECOUPLED, MULTI_LEVEL, STANDARDIZATION
from jaxkd.types import IMAGENET_NORMALIZATION, Normalization

_LIGHT = re.compile(r"(mobile|shuffle)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Training:
    """A training schedule: SGD on batches, with a learning rate that drops.

    Attributes:
      name: the name for `get_training`.
      paper: the paper that states it.
      epochs: the number of epochs.
      batch_size: examples per step.
      learning_rate: the first rate after the warm-up.
      drops: the numbers of completed epochs after which the rate falls to a tenth.
      warmup: epochs in which the rate rises from 1e-8.
      momentum: the momentum of SGD.
      weight_decay: the weight decay of every parameter.
      light_learning_rate: the first rate for MobileNets and ShuffleNets; None where it is the same.
      normalization: the statistics that images are normalised with; None means the data set's own.
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
        """Return the same training with some of its numbers changed; None keeps the recipe's own.

        Args:
          epochs: another length. Drops and warm-up are scaled with it and rounded to epochs; drops that round to the
            same epoch become one, and those at the very end are left out.
          batch_size: another number of examples per step. The learning rate does not change with it.
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
        """Return SGD with this schedule, scaled to another number of `epochs` where one is given.

        Example:
          >>> optimizer = get_training("ats").optimizer(epochs=48)
        """
        chosen = self.adapted(epochs=epochs)
        rate = optimizers.step_decay(chosen.learning_rate, chosen.drops, warmup=chosen.warmup)
        return optimizers.sgd(rate, momentum=chosen.momentum, weight_decay=chosen.weight_decay)


def trainings() -> list[str]:
    """Return the names of the training recipes.

    Example:
      >>> "ats" in trainings()
      True
    """
    return list(_TRAININGS)


def get_training(name: str) -> Training:
    """Return a training recipe by its name.

    Raises:
      ValueError: for an unknown name; the error lists the known ones.

    Example:
      >>> get_training("ats").batch_size
      128
    """
    if name not in _TRAININGS:
        raise ValueError(f"no training recipe is called {name!r}; there are {', '.join(_TRAININGS)}")
    return _TRAININGS[name]


_CIFAR_240 = Training(
    name="repdistiller",
    paper=f"{CONTRASTIVE}; also {CURRICULUM}",
    epochs=240,
    batch_size=64,
    learning_rate=0.05,
    light_learning_rate=0.01,
    drops=(150, 180, 210),
)

_IMAGENET = Training(
    name="imagenet-ctkd",
    paper=CURRICULUM,
    epochs=120,
    batch_size=256,
    learning_rate=0.1,
    drops=(30, 60, 90),
    weight_decay=1e-4,
)

_TRAININGS: Mapping[str, Training] = MappingProxyType(
    {
        training.name: training
        for training in (
            _CIFAR_240,
            dataclasses.replace(_CIFAR_240, name="mdistiller", paper=DECOUPLED, reported="best"),
            dataclasses.replace(_CIFAR_240, name="standardization", paper=STANDARDIZATION, reported="best"),
            # The drops stay where the 240 epochs have them: more than half of the run goes at the lowest rate.
            dataclasses.replace(
                _CIFAR_240,
                name="mlkd",
                paper=f"{MULTI_LEVEL}, as run by {STANDARDIZATION}",
                epochs=480,
                learning_rate=0.025,
                light_learning_rate=None,
                reported="best",
            ),
            Training(
                name="ats",
                paper=ASYMMETRIC,
                epochs=240,
                batch_size=128,
                learning_rate=0.05,
                drops=(150, 180, 210),
                warmup=5,
                normalization=IMAGENET_NORMALIZATION,
            ),
            _IMAGENET,
            dataclasses.replace(_IMAGENET, name="imagenet-teacher", epochs=100),
            dataclasses.replace(
                _IMAGENET,
                name="imagenet-mdistiller",
                paper=DECOUPLED,
                epochs=100,
                batch_size=512,
                learning_rate=0.2,
                reported="best",
            ),
            Training(
                name="digits",
                paper="no paper: a short schedule for the digits that come with jaxkd",
                epochs=30,
                batch_size=40,
                learning_rate=0.05,
                drops=(18, 26),
            ),
        )
    }
)
