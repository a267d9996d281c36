"""Summaries of networks and runs: what is trained, by which losses, and the layers of student and teacher."""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
from flax import nnx

from jaxkd.losses.base import HyperParameter
from jaxkd.models.summary import NetworkSummary, summarize
from jaxkd.schedules import described
from jaxkd.tables import html_table, text_table
from jaxkd.training.program import ConstantWeight, Program, Weight
from jaxkd.training.state import TrainState
from jaxkd.types import tree_size

WIDTH = 100
"""Characters of a line at most, where student and teacher stand side by side."""


@dataclass(frozen=True)
class LossSummary:
    """A loss term of a run.

    Attributes:
      name: in the logs.
      loss: its class and what it was made with.
      weight: in the coming epoch.
      parameters: the number of values that it learns itself.
    """

    name: str
    loss: str
    weight: str
    parameters: int


@dataclass(frozen=True)
class RunSummary:
    """The parts of a run; its `str` and its HTML are tables.

    Attributes:
      student: the network that is trained.
      teacher: the network it learns from; None without one.
      losses: the loss terms; none before `compile`.
      optimizer: the call that made it, where that is known.
      trained: what the optimizer changes, in words.
    """

    student: NetworkSummary
    teacher: NetworkSummary | None
    losses: tuple[LossSummary, ...]
    optimizer: str
    trained: str

    def _loss_rows(self) -> list[tuple[str, ...]]:
        return [(term.name, term.loss, term.weight, f"{term.parameters:,}") for term in self.losses]

    def _facts(self) -> list[tuple[str, str]]:
        return [("optimizer", self.optimizer), ("trained", self.trained)] if self.losses else []

    def __str__(self) -> str:
        if self.teacher is None:
            networks = self.student.lines()
        else:
            left = ["teacher", *self.teacher.lines(kinds=False)]
            right = ["student", *self.student.lines(kinds=False)]
            width = max(map(len, left))
            beside = [
                f"{one:{width}}    {other}".rstrip() for one, other in itertools.zip_longest(left, right, fillvalue="")
            ]
            networks = beside if max(map(len, beside)) <= WIDTH else [*left, "", *right]
        if not self.losses:
            return "\n".join([*networks, "", "not compiled"])
        losses = text_table([_LOSS_COLUMNS, *self._loss_rows()], right=(2, 3))
        return "\n".join([*networks, "", *losses, "", *text_table(self._facts())])

    def _repr_html_(self) -> str:
        parts = (
            [("student", self.student)]
            if self.teacher is None
            else [("teacher", self.teacher), ("student", self.student)]
        )
        networks = "".join(
            f'<div style="display:inline-block;vertical-align:top;margin-right:2em"><b>{role}</b>'
            f"{network._repr_html_()}</div>"
            for role, network in parts
        )
        if not self.losses:
            return networks + "<div>not compiled</div>"
        facts = "".join(f"<div>{name}: {html.escape(text)}</div>" for name, text in self._facts())
        return networks + html_table(_LOSS_COLUMNS, self._loss_rows(), right=(2, 3)) + facts


_LOSS_COLUMNS = ("loss", "is", "weight", "parameters")


class _Summarized(Protocol):
    def summary(self, image_shape: Sequence[int] | None = None, depth: int | None = None) -> RunSummary: ...


def summary(
    network: nnx.Module | _Summarized, image_shape: Sequence[int] | None = None, depth: int | None = None
) -> NetworkSummary | RunSummary:
    """Return what a network or a run is made of: layers, shapes, parameters, multiply-accumulates, features, losses.

    It is only traced: nothing is computed. `print` shows it as text, and a notebook as tables.

    Args:
      network: of the zoo or your own; or a `Trainer` or `Distiller`, for what its method `summary` returns.
      image_shape: `(H, W, C)`; by default the one the network was published for.
      depth: how many levels of layers have rows of their own: 1 makes a row of each stage, 2 of each block. By
        default 1, and 2 where that would be one row for almost all of it.

    Raises:
      ValueError: where the shape of the images is not known, or the network cannot take them.

    Example:
      >>> from jaxkd import models
      >>> found = summary(models.create("resnet8", num_classes=10))
      >>> found.parameters, [layer.name for layer in found.layers]
      (78042, ['conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'fc'])
    """
    if isinstance(network, nnx.Module):
        return summarize(network, image_shape, depth)
    return network.summary(image_shape, depth)


def run_summary(
    student: nnx.Module,
    teacher: nnx.Module | None,
    program: Program | None,
    state: TrainState | None,
    image_shape: Sequence[int] | None = None,
    depth: int | None = None,
) -> RunSummary:
    """Return the summary of a run; see `Trainer.summary`.

    Args:
      student: the network that is trained.
      teacher: the one it learns from, if any.
      program: what was compiled; None before.
      state: of the run; None before.
      image_shape: `(H, W, C)`.
      depth: as in `summary`.
    """
    known = [shape for one in (student, teacher) if (shape := getattr(one, "image_shape", None)) is not None]
    shape = image_shape if image_shape is not None else known[0] if known else None
    own, others = summarize(student, shape, depth), None if teacher is None else summarize(teacher, shape, depth)
    if program is None or state is None:
        return RunSummary(own, others, (), "", "")
    losses: Any = nnx.merge(program.losses, state.params["losses"], state.variables["losses"])
    epoch = int(state.epoch) + 1
    terms = tuple(_loss(name, losses[name], weight, epoch) for name, weight in program.weights)
    optimizer = described(program.optimizer) or "a transformation of optax"
    return RunSummary(own, others, terms, optimizer, _trained(program, state, own))


def _loss(name: str, loss: Any, weight: Weight, epoch: int) -> LossSummary:
    value = f"{float(weight(jnp.int32(epoch))):g}"
    shown = value if isinstance(weight, ConstantWeight) else f"{value} in epoch {epoch}"
    size = tree_size(nnx.state(loss, nnx.Param)) if isinstance(loss, nnx.Module) else 0
    return LossSummary(name, _made_with(loss), shown, size)


def _made_with(part: Any) -> str:
    """Return the class of a loss, or of a part of it, with the numbers and parts that it was made with."""
    if not isinstance(part, nnx.Module):
        return getattr(part, "__name__", type(part).__name__)
    given = []
    for name, value in vars(part).items():
        if name.startswith("_"):
            continue
        if isinstance(value, HyperParameter) and value[...].ndim == 0:
            given.append(f"{name}={float(value[...]):g}")
        elif isinstance(value, bool | int | float | str) and value is not False:
            given.append(f"{name}={value!r}")
        elif isinstance(value, nnx.Module):
            given.append(f"{name}={type(value).__name__ if callable(value) else _made_with(value)}")
    return f"{type(part).__name__}({', '.join(given)})" if given else type(part).__name__


def _trained(program: Program, state: TrainState, network: NetworkSummary) -> str:
    own, learned = tree_size(state.params["model"]), tree_size(state.params["losses"])
    part = f"all {own:,} parameters of {network.name}"
    if program.trainable is not None:
        part = f"{own:,} of {network.parameters:,} parameters of {network.name}: {', '.join(program.trainable.layers)}"
    return part + (f", and {learned:,} of the losses" if learned else "")
