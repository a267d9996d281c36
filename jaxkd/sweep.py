"""Many students at once: seeds and hyper-parameters of losses against one teacher, in as few programs as possible."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxkd.callbacks import Callback, Checkpoint
from jaxkd.checks import check_at_least
from jaxkd.history import History
from jaxkd.resuming import take_up
from jaxkd.together import Member, together
from jaxkd.trainer import Data, Trainer
from jaxkd.training.inputs import Resident, feed
from jaxkd.training.loop import follow

Cell = Mapping[str, Any]


def grid(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """All combinations of the values, the last name varying fastest.

    Example:
      >>> grid(correct=(1.0, 2.0), seed=(0, 1))[:2]
      [{'correct': 1.0, 'seed': 0}, {'correct': 1.0, 'seed': 1}]
    """
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
      cells: the settings of each run.
      runs: the trained `Distiller` (or `Trainer`) of each, with its weights and history.
    """

    cells: tuple[Cell, ...]
    runs: tuple[Trainer, ...]

    @property
    def histories(self) -> tuple[History, ...]:
        """The history of each run."""
        return tuple(run.history for run in self.runs)

    def rows(self) -> list[dict[str, Any]]:
        """One dict for each run and epoch: its settings, the epoch counted from 1, and all that was measured."""
        return [
            {**cell, "epoch": epoch + 1, **{name: values[i] for name, values in history.history.items()}}
            for cell, history in zip(self.cells, self.histories, strict=True)
            for i, epoch in enumerate(history.epoch)
        ]

    def last(self, quantity: str) -> np.ndarray:
        """The last value of a quantity in each run, `[cells]`."""
        return np.array([history.last(quantity) for history in self.histories])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes `rows()` to a file."""
        rows = self.rows()
        with Path(path).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)


def sweep(
    make: Callable[..., Trainer],
    cells: Sequence[Cell],
    data: Data,
    validation_data: Data | None = None,
    epochs: int = 1,
    batch_size: int = 64,
    validation_freq: int = 1,
    at_once: int | None = None,
    callbacks: Callable[..., Sequence[Callback]] | None = None,
    resume: str | None = None,
    verbose: int | bool = 1,
) -> Sweep:
    """Trains one student for each cell; each ends as it would have in a `fit` of its own.

    Runs that differ in arrays only (seed, initial weights, temperatures and other hyper-parameters of losses) and share
    the teacher become one program. Runs of one seed see the same batches, each of which is cut, augmented and shown to
    the teacher once for all of them; runs that differ in their seeds have batches of their own. Runs with other loss
    weights or networks are other programs, one after the other. Several devices take equal parts of the runs; what does
    not fit into memory is halved until it does. A run that diverges records NaN and does not stop the others, unless a
    callback does.

    Args:
      make: called as `make(**cell)`; returns a compiled `Distiller` (or `Trainer`). Let all share one teacher object.
      cells: the settings of each run; see `grid`.
      data: a `data.Dataset` or a tuple of arrays.
      validation_data: likewise; measured after every `validation_freq` epochs and after the last.
      epochs: of each run.
      batch_size: of each run.
      validation_freq: how often to validate.
      at_once: at most so many runs in one program; by default all that can be.
      callbacks: called as `callbacks(**cell)`; returns those of a run, which hear of epochs, but not of batches.
      resume: "auto" goes on with each run from the newest good checkpoint of the `Checkpoint` among its callbacks; one
        that was broken off within an epoch goes on by itself.
      verbose: 1 reports each epoch.

    Returns:
      The runs, in the order of the cells.

    Raises:
      ValueError: for no cells, runs that were not compiled or of which a device cannot take the whole, two runs with
        checkpoints in one directory, or data that cannot be right.

    Example:
      >>> from jaxkd import Distiller, data, losses, models, optimizers
      >>> train, test = data.load("digits")
      >>> teacher = models.create("resnet8", num_classes=10, seed=1)
      >>> def make(correct, wrong):
      ...     distiller = Distiller(student=models.create("resnet8", num_classes=10), teacher=teacher)
      ...     distiller.compile(optimizers.sgd(0.05), loss=losses.KD(temperature=losses.ATS(correct, wrong)))
      ...     return distiller
      >>> found = sweep(make, grid(correct=(2.0, 4.0), wrong=(2.0,)), train.subset(64), epochs=1, verbose=0)
      >>> found.last("loss").shape
      (2,)
    """
    if not cells:
        raise ValueError("a sweep needs at least one cell, for example grid(temperature=(2.0, 4.0))")
    most = len(cells) if at_once is None else at_once
    check_at_least(1, epochs=epochs, batch_size=batch_size, validation_freq=validation_freq, at_once=most)
    runs = [_new(make(**cell)) for cell in cells]
    own = [[] if callbacks is None else list(callbacks(**cell)) for cell in cells]
    _check_directories(own)
    source, held_out = (None if given is None else feed(given, runs[0].model) for given in (data, validation_data))
    if not isinstance(source, Resident) or not isinstance(held_out, Resident | None):
        raise ValueError("a sweep needs data that can be on the device: a data.Dataset, or arrays (images, labels)")
    members = []
    for run, hooks in zip(runs, own, strict=True):
        take_up(run, resume, hooks, bool(verbose))
        if run.resumed is not None:
            run.fit(data, validation_data, epochs, batch_size, hooks, validation_freq, verbose=verbose)
            continue
        member = Member(run, follow(run, hooks, epochs, batch_size, source.examples))
        member.hooks.on_train_begin()
        if int(run.compiled_state().epoch) < epochs and not run.stop_training:
            members.append(member)
        else:
            member.hooks.on_train_end()
    groups = together(members, source)
    waiting = [part for group in groups for part in group.cut(group.at_once(most, source, batch_size))]
    while waiting:
        group = waiting.pop(0)
        if verbose:
            print(f"{len(group.members)} of {len(runs)} runs in one program", flush=True)
        try:
            going = group.train(source, held_out, epochs, batch_size, validation_freq, bool(verbose))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or len(group.members) == 1:
                raise
            waiting[:0] = group.cut(-(-len(group.members) // 2))
        else:
            waiting[:0] = [] if going is None else [going]
    return Sweep(tuple(cells), tuple(runs))


def _new(run: Trainer) -> Trainer:
    """The run, if it can begin."""
    if run.state is None or int(run.state.step):
        raise ValueError("a sweep begins with runs that were compiled and not trained: make() has to return such")
    return run


def _check_directories(callbacks: Sequence[Sequence[Callback]]) -> None:
    """Refuses runs that would take each other's checkpoints for their own."""
    places = [callback.directory for own in callbacks for callback in own if isinstance(callback, Checkpoint)]
    if twice := sorted({place for place in places if places.count(place) > 1}):
        raise ValueError(f"several runs have their checkpoints in {twice[0]}: name a directory for each cell")
