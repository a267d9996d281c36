"""The base class of losses, what they may hold beside parameters, and losses from one of several teachers."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
from flax import nnx

from jaxkd.types import Batch, Key, Outputs, Progress


class HyperParameter(nnx.Variable[jax.Array]):
    """A constant of a loss, kept as an array so that a sweep can run many values in one program. It is not trained."""


class Monitor(nnx.Variable[jax.Array]):
    """A value a loss computes at every step for the logs, under the name of its attribute (`kd_temperature`).

    Made with `low` and `high`, as `Monitor(value, low=1.0, high=21.0)`, it is watched: training warns when it stays at
    one of these bounds for a whole epoch.
    """


class Network(NamedTuple):
    """A network as a loss sees it before training.

    Attributes:
      model: the network itself.
      outputs: the shapes and types of its outputs for a batch of two images.
    """

    model: nnx.Module
    outputs: Outputs

    def feature(self, position: int) -> jax.ShapeDtypeStruct:
        """Return the shape and type of one of the features.

        Raises:
          ValueError: where the network has none at this position; the error lists those it has.
        """
        return _at(self, "features", position)

    def preactivation(self, position: int) -> jax.ShapeDtypeStruct:
        """Return the shape and type of one of the preactivations; raise as `feature`."""
        return _at(self, "preactivations", position)


def _at(network: Network, kind: str, position: int) -> jax.ShapeDtypeStruct:
    offered = getattr(network.outputs, kind)
    if not hasattr(position, "__index__"):
        raise TypeError(f"position={position!r}: give a whole number, as in 2")
    if not -len(offered) <= position < len(offered):
        shapes = ", ".join(f"{i}: {list(entry.shape[1:])}" for i, entry in enumerate(offered)) or "none"
        name = getattr(network.model, "name", type(network.model).__name__)
        cure = "; losses.FromTeacher(0, loss) is one from its first network alone" if network.outputs.each else ""
        raise ValueError(f"{name} has no {kind} at position {position}; it has {shapes}{cure}")
    return offered[position]


class Loss(nnx.Module):
    """The base of every loss; a subclass only has to be callable as below.

    `nnx.Param` attributes are trained with the student, in the same optimizer; any other variable is carried from step
    to step and saved with the run, and a `Monitor` also appears in the logs. To change a variable, assign to
    `self.name[...]`.

    Parts that depend on the networks, such as a regressor between two widths, are made in an optional method
    `build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs)`, which `compile` calls, also on parts of a
    loss such as its temperature rule. One that looks up what it remembers of each example says so by `needs_index`.

    Attributes:
      needs_index: whether `batch.index` has to be the true position of each example in the training set; batches of the
        user's own that bring none are then refused.

    Example:
      >>> import jax.numpy as jnp
      >>> class LogitL2(Loss):
      ...     '''Mean squared difference of the logits (Ba & Caruana 2014).'''
      ...     def __call__(self, student, teacher, batch, progress, key):
      ...         return jnp.mean(jnp.square(student.logits - teacher.logits))
      >>> ones, zeros = Outputs(jnp.ones((2, 3))), Outputs(jnp.zeros((2, 3)))
      >>> float(LogitL2()(ones, zeros, None, None, None))
      1.0
    """

    needs_index: ClassVar[bool] = False

    # Any stands for None, so that a loss which needs a teacher may declare `teacher: Outputs`.
    def __call__(
        self, student: Outputs, teacher: Outputs | Any, batch: Batch, progress: Progress, key: Key
    ) -> jax.Array:
        """Return the loss of one batch.

        Args:
          student: outputs in training mode; gradients flow through them.
          teacher: outputs in evaluation mode, constant; None without a teacher.
          batch: images as the student saw them, labels and indices.
          progress: steps taken so far and the epoch, counted from 1.
          key: a random key of this step's own.

        Returns:
          A float32 scalar.
        """
        raise TypeError(f"{type(self).__name__} defines no __call__(student, teacher, batch, progress, key)")


class FromTeacher(Loss):
    """A loss against one of several teachers, as if it were the only one.

    With `Distiller(teacher=[a, b])`, one such term for each teacher gives each its own loss and weight. Images are run
    through the teachers that a term reads, and through no others.

    Args:
      position: which of the teachers, counted from 0.
      loss: any loss.

    Raises:
      ValueError: at compile, for a single teacher or a position that there is not; and as `loss`.

    Example:
      >>> from jaxkd.losses import KD
      >>> import jax.numpy as jnp
      >>> each = Outputs(jnp.array([[3.0, 0.0]])), Outputs(jnp.array([[1.0, 0.0]]))
      >>> batch = Batch(images=None, labels=jnp.array([0]), index=None)
      >>> second = FromTeacher(1, KD(4.0))
      >>> float(second(each[1], Outputs(logits=None, each=each), batch, None, None))
      0.0
    """

    builds_its_parts = True

    def __init__(self, position: int, loss: Loss):
        if isinstance(position, bool) or not isinstance(position, int) or position < 0:
            raise ValueError(f"position={position!r}: the teachers are counted from 0, in the order of the list")
        self.position = position
        self.loss = loss

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        count = 0 if teacher is None else len(teacher.outputs.each)
        if teacher is None or self.position >= count:
            there_are = f"there are {count}, counted from 0" if count else "there are not several"
            raise ValueError(
                f"a loss from teacher {self.position}, but {there_are}: give jaxkd.Distiller(teacher=[first, second])"
            )
        networks: Any = teacher.model
        chosen = Network(networks.networks[self.position], teacher.outputs.each[self.position])
        for part in buildable(nnx.Dict({"loss": self.loss})):
            part.build(student, chosen, rngs)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        chosen = teacher.each[self.position]
        if teacher.strong is not None:
            chosen = chosen._replace(strong=teacher.strong.each[self.position])
        return self.loss(student, chosen, batch, progress, key)


def buildable(losses: nnx.Dict[Any]) -> list[Any]:
    """Return the parts of losses that `build` anything; what lies within one that `builds_its_parts` is left to it."""
    modules = list(nnx.iter_modules(losses))
    whole = [path for path, part in modules if getattr(part, "builds_its_parts", False)]
    return [
        part
        for path, part in modules
        if hasattr(part, "build") and not any(path[: len(one)] == one != path for one in whole)
    ]
