"""Training schedules of papers: `Training`, and a table of the published ones.

A new training is an entry in the table.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

import optax

from jaxkd import optimizers
from jaxkd.data import Mixing, RandomErasing, policy
from jaxkd.data.transforms.policies import Policy
from jaxkd.recipes.methods import ASYMMETRIC, CONTRASTIVE, CURRICULUM, DECOUPLED, MULTI_LEVEL, STANDARDIZATION, TOKEN
from jaxkd.types import IMAGENET_NORMALIZATION, Normalization

Optimizer = Literal["sgd", "adamw", "lamb"]
Schedule = Literal["steps", "cosine"]

_LIGHT = re.compile(r"(mobile|shuffle)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Training:
    """A paper's training: schedule and optimizer, and what today's recipes put around the loss.

    Attributes:
      name: the name for `get_training`.
      paper: the paper that states it.
      epochs: the number of epochs.
      batch_size: examples per step.
      learning_rate: the first rate after the warm-up.
      drops: the numbers of completed epochs after which the rate falls to a tenth; none with a cosine.
      warmup: epochs in which the rate rises from 1e-8, or from `warmup_learning_rate` before a cosine.
      momentum: the momentum of SGD.
      weight_decay: the weight decay of every parameter, or of kernels alone.
      light_learning_rate: the first rate for MobileNets and ShuffleNets; None where it is the same.
      normalization: the statistics that images are normalised with; None means the data set's own.
      reported: the epoch whose accuracy the paper's tables state.
      optimizer_name: "sgd", "adamw" or "lamb".
      schedule: "steps", or "cosine" as `optimizers.timm_cosine` has it.
      warmup_learning_rate: the rate of the first epoch of a warm-up before a cosine.
      final_learning_rate: what a cosine falls to.
      decays_kernels_only: whether biases, norms, tokens and position embeddings are left out of the weight decay.
      clip_norm: the largest length of all gradients together; None does not clip.
      label_smoothing: ε of the cross-entropy with the labels.
      augment: a policy for the images of each batch, by its name in `data.policy`; "none" for none.
      random_erasing: the probability that an image has a part erased after that; 0 for none.
      mixup: α of mixup; 0 for none.
      cutmix: α of CutMix; 0 for none.
      ema_decay: of averaged weights; None keeps none.
      drop_path: the probability with which the last block's branch is left out; for networks that have it.
      drop: that of dropout; likewise.
      resize_to: height and width at which the trained network sees the images; None, as they come. Its teacher sees
        them as they come.
      resized_crop: whether training sees random parts of the images, as large as the whole, `data.CropAndResize`, in
        place of the data set's shifted crops. Images that are read from files are always cropped in this way.

    Raises:
      ValueError: for an optimizer, a schedule or a policy that is none of these, a probability that is none, and
        numbers for another schedule.
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
    optimizer_name: Optimizer = "sgd"
    schedule: Schedule = "steps"
    warmup_learning_rate: float = 0.0
    final_learning_rate: float = 0.0
    decays_kernels_only: bool = False
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    augment: str = "none"
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float | None = None
    drop_path: float = 0.0
    drop: float = 0.0
    resize_to: int | None = None
    resized_crop: bool = False

    def __post_init__(self) -> None:
        for name, known in (("optimizer_name", Optimizer), ("schedule", Schedule)):
            if (given := getattr(self, name)) not in get_args(known):
                raise ValueError(f"{name}={given!r}: choose one of {', '.join(get_args(known))}")
        if self.schedule == "cosine" and self.drops:
            raise ValueError(f"drops={self.drops}: a cosine schedule has none: leave them out")
        if self.schedule == "steps" and (self.warmup_learning_rate or self.final_learning_rate):
            raise ValueError("a schedule of steps has neither a final_learning_rate nor a warmup_learning_rate")
        _ = self.augmentations  # which refuses what is none

    @property
    def augmentations(self) -> tuple[Policy | RandomErasing, ...]:
        """Return what is applied to the images of each batch, one after the other."""
        drawn = () if self.augment == "none" else (policy(self.augment),)
        return (*drawn, RandomErasing(self.random_erasing)) if self.random_erasing else drawn

    @property
    def mixing(self) -> Mixing | None:
        """Return the mixing of batches; None where they are not mixed."""
        return Mixing(self.mixup, self.cutmix) if self.mixup or self.cutmix else None

    @property
    def network_options(self) -> dict[str, Any]:
        """Return the arguments of `models.create` beside the name."""
        return {name: value for name in ("drop_path", "drop") if (value := getattr(self, name))}

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

    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """Return the optimizer with this schedule.

        Example:
          >>> optimizer = get_training("ats").adapted(epochs=48).optimizer()
        """
        if self.schedule == "cosine":
            ends = {"final": self.final_learning_rate, "start": self.warmup_learning_rate}
            rate = optimizers.timm_cosine(self.learning_rate, self.epochs, self.warmup, **ends)
        else:
            rate = optimizers.step_decay(self.learning_rate, self.drops, warmup=self.warmup)
        decay: dict[str, Any] = {"weight_decay": self.weight_decay}
        if self.decays_kernels_only:
            decay["mask"] = optimizers.kernels
        if self.optimizer_name == "sgd":
            decay["momentum"] = self.momentum
        made = _OPTIMIZERS[self.optimizer_name](rate, **decay)
        return made if self.clip_norm is None else optimizers.clipped(made, self.clip_norm)


_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformationExtraArgs]] = {
    "sgd": optimizers.sgd,
    "adamw": optimizers.adamw,
    "lamb": optimizers.lamb,
}


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
            # On CIFAR-100 at 224 pixels, with teachers that see the images at 32. Images are normalised as the data set
            # says, which is what published teachers know, where the authors' own saw ImageNet's statistics.
            Training(
                name="transformers",
                paper=STANDARDIZATION,
                epochs=300,
                batch_size=128,
                learning_rate=5e-4,
                drops=(),
                warmup=20,
                weight_decay=0.05,
                reported="best",
                optimizer_name="adamw",
                schedule="cosine",
                warmup_learning_rate=5e-7,
                final_learning_rate=5e-6,
                decays_kernels_only=True,
                augment="rand-m9-mstd0.5-inc1",
                random_erasing=0.25,
                drop_path=0.1,
                resize_to=224,
                resized_crop=True,
            ),
            # On ImageNet; but for repeated augmentation.
            Training(
                name="deit",
                paper=TOKEN,
                epochs=300,
                batch_size=1024,
                learning_rate=1e-3,
                drops=(),
                warmup=5,
                weight_decay=0.05,
                normalization=IMAGENET_NORMALIZATION,
                optimizer_name="adamw",
                schedule="cosine",
                warmup_learning_rate=1e-6,
                final_learning_rate=1e-5,
                decays_kernels_only=True,
                label_smoothing=0.1,
                augment="rand-m9-n2-mstd0.5-inc1",
                random_erasing=0.25,
                mixup=0.8,
                cutmix=1.0,
                ema_decay=0.99996,
                drop_path=0.1,
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
