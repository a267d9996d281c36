"""Distiller: a Trainer whose student learns from a teacher's outputs as well."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from jaxkd.checks import check_network
from jaxkd.models.ensemble import Ensemble
from jaxkd.networks import Networks
from jaxkd.trainer import Trainer


class Distiller(Trainer):
    """Train a student with a frozen teacher, which runs in evaluation mode inside the same compiled step.

    Args:
      student: a network as `Trainer` takes it. Training changes its weights in place.
      teacher: likewise; it is never changed. One that carries its own `normalization` sees images normalised with it.
        Several in a list teach by the mean of their logits; `models.Ensemble` takes weights, and the mean of
        probabilities. `losses.FromTeacher(0, loss)` is a loss from the first of them alone.

    Raises:
      TypeError: for what is no network, such as the path of its weights.
      ValueError: the student is its own teacher, or for teachers that have no mean.

    Example:
      >>> from jaxkd import data, losses, models, optimizers
      >>> train, test = data.load("digits")
      >>> student, teacher = (models.create("resnet8", num_classes=10, seed=seed) for seed in (0, 1))
      >>> distiller = Distiller(student=student, teacher=teacher)
      >>> distiller.compile(
      ...     optimizer=optimizers.sgd(0.05, momentum=0.9, weight_decay=5e-4),
      ...     loss={"ce": losses.CrossEntropy(), "kd": losses.KD(temperature=losses.CurriculumTemperature())},
      ...     loss_weights={"ce": 0.1, "kd": 0.9})
      >>> history = distiller.fit(train.subset(64), epochs=1, batch_size=32, verbose=0)
      >>> sorted(name for name in history.history if name.startswith("kd"))
      ['kd', 'kd_lambda', 'kd_temperature']
    """

    def __init__(self, student: nnx.Module, teacher: nnx.Module | Sequence[nnx.Module]):
        check_network("student", student)
        networks = list(teacher) if isinstance(teacher, Sequence) and not isinstance(teacher, str) else [teacher]
        for network in networks:
            check_network("teacher", network)
        super().__init__(student)
        one = Ensemble(networks) if isinstance(teacher, Sequence) else teacher
        if any(network is student for network in (one.networks if isinstance(one, Ensemble) else [one])):
            raise ValueError("student and teacher are the same object: create or load the teacher separately")
        self._networks = Networks(student, one)

    @property
    def student(self) -> nnx.Module:
        """The student with the weights of `state`."""
        return self.model

    @property
    def teacher(self) -> nnx.Module:
        """The teacher, as it was given; of several, their ensemble."""
        assert self._networks.teacher is not None
        return self._networks.teacher
