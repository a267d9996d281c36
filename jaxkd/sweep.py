"""Many students at once: seeds and hyper-parameters of losses against one teacher, in as few programs as possible."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import os
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkd.callbacks import (
    Callback,
    CallbackList,
    Checkpoint,
    CSVLogger,
    EarlyStopping,
    ReduceLROnPlateau,
    TensorBoard,
    WandB,
)
from jaxkd.callbacks.base import in_a_list
from jaxkd.callbacks.terminal import EpochTable, with_warnings_apart
from jaxkd.checks import check_at_least, warn_caller
from jaxkd.data.sampling import padded_batches
from jaxkd.formats.files import write_text
from jaxkd.history import History
from jaxkd.losses import cross_entropy
from jaxkd.models.ensemble import Ensemble
from jaxkd.nn.convolution import slow_in_a_loop
from jaxkd.trainer import Trainer
from jaxkd.training.compiled_epoch import make_resident_loop
from jaxkd.training.ema import own_and_average
from jaxkd.training.epoch_progress import Means
from jaxkd.training.epochs import BoundProgram, check_same_batches, resident_epoch, seed_of
from jaxkd.training.inputs import Data, InMemory, check_names
from jaxkd.training.loop import Runs, train, under_way
from jaxkd.training.preemption import Termination
from jaxkd.training.stacked_runs import make_stacked_evaluate, make_stacked_step, per_seed_epoch
from jaxkd.training.state import TrainState, Tree

EVALUATION_BATCH = 256

Cell = Mapping[str, Any]


def grid(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """Return all combinations of the values, the last name varying fastest.

    Raises:
      TypeError: for a single value in the place of several.

    Example:
      >>> grid(correct=(1.0, 2.0), seed=(0, 1))[:2]
      [{'correct': 1.0, 'seed': 0}, {'correct': 1.0, 'seed': 1}]
    """
    for name, several in values.items():
        if isinstance(several, str) or not isinstance(several, Iterable):
            raise TypeError(f"grid: {name}={several!r}: give its values in a tuple, as in {name}=({several!r},)")
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep, trained.

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
        """Return one dict for each run and epoch: its settings, the epoch counted from 1, and all that was measured.

        What has the name of a setting, as a learning rate that falls, is there as `measured_learning_rate`.
        """
        settings = self._settings()
        return [
            {
                **cell,
                "epoch": epoch + 1,
                **{f"measured_{name}" if name in settings else name: of[i] for name, of in history.history.items()},
            }
            for cell, history in zip(self.cells, self.histories, strict=True)
            for i, epoch in enumerate(history.epoch)
        ]

    def last(self, quantity: str) -> np.ndarray:
        """Return the last value of a quantity in each run, `[cells]`."""
        return np.array([history.last(quantity) for history in self.histories])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `rows()` to a file."""
        rows = self.rows()
        columns = dict.fromkeys([*self._settings(), "epoch", *(name for row in rows for name in row)])
        table = io.StringIO()
        writer = csv.DictWriter(table, list(columns))
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, table.getvalue())  # whole: readers take a sweep that has its table for finished

    def _settings(self) -> dict[str, None]:
        """Return the names of all settings, in their order."""
        return dict.fromkeys(name for cell in self.cells for name in cell)


@with_warnings_apart
def sweep(
    make: Callable[..., Trainer],
    cells: Sequence[Cell],
    data: Data,
    validation_data: Data | None = None,
    epochs: int = 1,
    batch_size: int = 64,
    validation_freq: int = 1,
    at_once: int | None = None,
    callbacks: Callable[..., Sequence[Callback] | Callback | None] | None = None,
    resume: str | None = None,
    verbose: int | bool = 1,
) -> Sweep:
    """Train one student for each cell; each ends as it would have in a `fit` of its own.

    Runs that differ in arrays only (seed, initial weights, temperatures and other hyper-parameters of losses) and share
    the teacher become one program. Runs of one seed see the same batches, each of which is cut, augmented and shown to
    the teacher once for all of them; runs that differ in their seeds have batches of their own. Runs with other loss
    weights or networks are other programs, one after the other. Several devices take equal parts of the runs; what does
    not fit into memory is halved until it does. A run that diverges records NaN and does not stop the others; one whose
    callbacks refuse that (`TerminateOnNaN`, `Checkpoint`) ends after its epoch.

    Args:
      make: called as `make(**cell)`; returns a compiled `Distiller` (or `Trainer`). Let all share one teacher object.
      cells: the settings of each run; see `grid`.
      data: a `data.Dataset` or a tuple of arrays.
      validation_data: likewise; measured after every `validation_freq` epochs and after the last.
      epochs: of each run.
      batch_size: of each run.
      validation_freq: how often to validate.
      at_once: at most so many runs in one program; by default all that can be.
      callbacks: called as `callbacks(**cell)`; returns those of a run, which hear all that those of a `fit` do.
      resume: "auto" resumes each run from the newest good checkpoint of the `Checkpoint` among its callbacks.
      verbose: 1 reports each epoch.

    Returns:
      The runs, in the order of the cells.

    Warns:
      UserWarning: of each run that diverged, by its settings.

    Raises:
      ValueError: for no cells, a setting called "epoch", runs that were not compiled or of which a device cannot take
        the whole, two runs with checkpoints in one directory, or data that cannot be right.

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
    if any("epoch" in cell for cell in cells):
        raise ValueError('a setting cannot be called "epoch", which counts the rows of the table: give it another name')
    most = len(cells) if at_once is None else at_once
    check_at_least(1, epochs=epochs, batch_size=batch_size, validation_freq=validation_freq, at_once=most)
    trainers = [_new(make(**cell)) for cell in cells]
    if callbacks is not None and not callable(callbacks):
        raise TypeError(
            f"callbacks={callbacks!r}: give a function that makes those of each run, as in lambda seed: […]"
        )
    own = [in_a_list(callbacks and callbacks(**cell)) for cell in cells]
    _check_apart(trainers, own)
    networks = trainers[0]._networks
    source, held_out = networks.source(data, epochs, training=True), None
    if validation_data is not None:
        held_out = networks.source(validation_data, epochs, source.normalization)
        check_names(data, validation_data)
    if not isinstance(source, InMemory) or not isinstance(held_out, InMemory | None):
        raise ValueError("a sweep needs data that can be on the device: a data.Dataset, or arrays (images, labels)")
    for trainer in {trainer._compiled_program().model: trainer for trainer in trainers}.values():
        networks, devices = trainer._networks, len(trainer._placement.devices)
        networks.for_training(source, batch_size, trainer._compiled_program(), devices)
        networks.for_evaluation(source)
        if held_out is not None:
            networks.for_validation(held_out, source)
    members = []
    for trainer, each, cell in zip(trainers, own, cells, strict=True):
        trainer._resume(resume, each, bool(verbose))
        check_same_batches(trainer._run.resumed, source.examples, batch_size)
        resumed = trainer._restored_epochs > 0
        members.append(_Member(trainer, trainer._follow(each, epochs, batch_size, source.examples, resumed), cell))
    for bound, trainer in {trainer._bind(source): trainer for trainer in trainers}.items():  # before callbacks act
        _check_whole_runs(bound)
        bound.cached_teacher(trainer._run.compiled_state(), source, batch_size, trainer._cache, verbose=False)
    with Termination(any(member.hooks.listens_to("on_termination") for member in members)) as termination:
        for member in members:
            member.hooks.on_train_begin()
        due = [member for member in members if member.going(epochs)]
        for member in members:
            if not member.going(epochs):
                member.hooks.on_train_end()
        waiting = [
            part for group in _groups(due, source) for part in group.cut(group.at_once(most, source, batch_size))
        ]
        while waiting:
            group = waiting.pop(0)
            if verbose:
                print(f"{len(group.members)} of {len(trainers)} runs in one program", flush=True)
            try:
                going = group.train(source, held_out, epochs, batch_size, validation_freq, bool(verbose), termination)
            except jax.errors.JaxRuntimeError as error:
                begun = any(member.within_epoch for member in group.members)
                if "RESOURCE_EXHAUSTED" not in str(error) or len(group.members) == 1 or begun:
                    raise
                waiting[:0] = group.cut(-(-len(group.members) // 2))
            else:
                waiting[:0] = [_Group(group.bound, going)] if going else []
        if termination.noticed:  # in the last epoch, when there was nothing left to save
            termination.end()
    _warn_of_diverged(members)
    return Sweep(tuple(cells), tuple(trainers))


def _warn_of_diverged(members: Sequence[_Member]) -> None:
    """Warn of runs that trained on although a loss was no number, which nobody else told."""
    for member in members:
        history = member.trainer.history
        losses = np.asarray(history.history.get("loss", []), np.float64)
        broken = np.flatnonzero(~np.isfinite(losses))
        if broken.size and not member.trainer.stop_training:
            warn_caller(
                f"the run {_named(member.cell)} diverged: its loss is {losses[broken[0]]} from epoch "
                f"{history.epoch[broken[0]] + 1} on, and its accuracy says nothing; the others are not touched. Lower "
                "its learning rate or the weight of its losses"
            )


def _named(cell: Cell) -> str:
    return "with " + ", ".join(f"{name}={value!r}" for name, value in cell.items()) if cell else "of the sweep"


class _Member(NamedTuple):
    """A compiled run, its callbacks, which training has begun for, and its settings."""

    trainer: Trainer
    hooks: CallbackList
    cell: Cell

    @property
    def state(self) -> TrainState:
        return self.trainer._run.compiled_state()

    def going(self, epochs: int) -> bool:
        """Return whether it has epochs left."""
        return int(self.state.epoch) < epochs and not self.trainer.stop_training

    @property
    def within_epoch(self) -> bool:
        """Tell whether it was given a state from the middle of an epoch, which it cannot begin again from."""
        begun_at = self.trainer._run.begun_at
        return begun_at is not None and int(self.state.step) != begun_at


class _StackedRuns(Runs):
    """Runs whose epochs are told as ranges over all of them."""

    epochs: int | None = None
    """The number of all; None tells nothing."""

    cells: Sequence[Cell] = ()
    """The settings of each run."""

    @functools.cached_property
    def table(self) -> EpochTable:
        """Return the progress bar of them."""
        return EpochTable(sys.stdout)

    def call_one(self, index: int, hook: str, *arguments: Any) -> None:
        """Call a hook of one run's callbacks; where they find that it diverged, it ends after this epoch, alone."""
        run, hooks = self.members[index]
        assert isinstance(hooks, CallbackList)
        for callback in hooks.in_order(hook):  # what one of them refuses, the others still hear
            try:
                getattr(CallbackList([callback]), hook)(*arguments)
            except FloatingPointError as error:
                if not run.stop_training:
                    end = "ends after this epoch, and the others go on"
                    warn_caller(f"the run {_named(self.cells[index])} {end}: {error}")
                run.stop_training = True

    def end_epoch(self, epoch: int, logs: Sequence[Means]) -> None:
        super().end_epoch(epoch, logs)
        if self.epochs is not None:
            self.table.add(f"{epoch + 1}/{self.epochs}", _shown(logs))


@dataclass(frozen=True)
class _Group:
    """Runs with the same program, teacher and step; each batch serves all of them if they have the same seed."""

    bound: BoundProgram
    members: tuple[_Member, ...]

    def cut(self, size: int) -> list[_Group]:
        """Return parts of at most `size` runs."""
        starts = range(0, len(self.members), size)
        return [_Group(self.bound, self.members[start : start + size]) for start in starts]

    def at_once(self, most: int, source: InMemory, batch_size: int) -> int:
        """Return how many of the runs, at most, one program takes; the CPU goes over them in a loop."""
        bound = self.bound
        if bound.placement.devices[0].platform != "cpu" or min(most, len(self.members)) == 1:
            return most
        loop = make_resident_loop(bound.step(), source.augmentation, bound.program.strong_view)
        state, indices = self.members[0].state, np.zeros((1, batch_size), np.int32)
        return 1 if slow_in_a_loop(loop.trace(state, source.images, source.labels, indices).jaxpr.jaxpr) else most

    def train(
        self,
        source: InMemory,
        held_out: InMemory | None,
        epochs: int,
        batch_size: int,
        validation_freq: int,
        verbose: bool,
        termination: Termination,
    ) -> tuple[_Member, ...]:
        """Train all runs, each as its own `fit` would, until one of them is to stop; return those that go on.

        Where memory runs out before a callback was given a state, the runs are as they were.
        """
        bound, first = self.bound, self.members[0]
        runs = _StackedRuns([(trainer._run, hooks) for trainer, hooks, _ in self.members], bound.placement)
        runs.epochs, runs.cells = epochs if verbose else None, [member.cell for member in self.members]
        if runs.state.key.ndim:  # seeds of their own
            step, in_memory = bound.step(), per_seed_epoch
        else:
            step, in_memory = (
                make_stacked_step(bound.program, bound.normalization, bound.teacher_normalization, bound.placement),
                partial(resident_epoch, cut_runs=True),
            )
        start_epoch, cached_teacher = bound.epochs(
            step, first.state, source, batch_size, epochs, first.trainer._cache, verbose, in_memory
        )
        measure = None if held_out is None else self._measure(held_out)
        numbers = range(int(first.state.epoch), epochs)
        with under_way([member.trainer._run for member in self.members]):
            logs = train(
                runs, numbers, start_epoch, bound.program, termination, cached_teacher, measure, validation_freq
            )
        for member in self.members:  # those that go on do so from between epochs
            member.trainer._run.begun_at = None
        # Callbacks may put back a state from an earlier epoch, so that the states do not tell who is done.
        done = first.trainer.history.epoch[-1] + 1
        going = tuple(member for member in self.members if done < epochs and not member.trainer.stop_training)
        for index, (member, own) in enumerate(zip(self.members, logs, strict=True)):
            if member not in going:
                runs.call_one(index, "on_train_end", own)
                member.trainer._update_model()
        return going

    def _measure(self, held_out: InMemory) -> Callable[[TrainState], list[dict[str, float]]]:
        """Return what evaluates every run on held-out examples, which are put in place now."""
        bound = self.bound
        metrics = (("loss", cross_entropy), *bound.program.metrics)
        evaluate = make_stacked_evaluate(bound.program, bound.normalization, metrics, bound.placement)
        examples = held_out.examples
        indices = padded_batches(examples, min(EVALUATION_BATCH, examples))
        on_devices = bound.placement.replicate((held_out.images, held_out.labels, indices))

        def means_of(*weights: Tree) -> dict[str, np.ndarray]:
            sums = evaluate(*weights, *on_devices)
            return {name: np.asarray(total) / examples for name, total in sums.items()}

        def measure(state: TrainState) -> list[dict[str, float]]:
            means = own_and_average(means_of, state)
            return [{name: float(values[i]) for name, values in means.items()} for i in range(len(self.members))]

        return measure


def _groups(members: Sequence[_Member], source: InMemory) -> list[_Group]:
    """Group runs that can be trained as one program.

    Those of one seed share their batches. Those that are the only ones of their seed make a group in which each has
    its own.
    """
    groups: dict[tuple[Any, ...], dict[int, list[_Member]]] = {}
    for member in members:
        bound, state = member.trainer._bind(source), member.state
        alike = (bound, int(state.epoch), int(state.step), _identity(member.trainer._networks.teacher))
        groups.setdefault(alike, {}).setdefault(seed_of(state), []).append(member)
    found = []
    for (bound, *_), by_seed in groups.items():
        single = [member for same in by_seed.values() if len(same) == 1 for member in same]
        found += [_Group(bound, tuple(same)) for same in by_seed.values() if len(same) > 1]
        found += [_Group(bound, tuple(single))] if single else []
    return found


def _identity(teacher: Any) -> Hashable:
    """Return what tells teachers apart; each run that was given several networks has an ensemble of its own."""
    if not isinstance(teacher, Ensemble):
        return id(teacher)
    return teacher.average, tuple(np.asarray(teacher.weights[...])), tuple(map(id, teacher.networks))


def _check_whole_runs(bound: BoundProgram) -> None:
    """Refuse runs of which a device cannot take the whole, as it does in a sweep.

    Raises:
      ValueError: with the cure.
    """
    if len(bound.placement.processes) > 1:
        raise ValueError(
            f"devices of {len(bound.placement.processes)} processes, but a sweep is one process's: start "
            "each process by itself, without jaxkd.distributed.initialize, and give it cells of its own"
        )
    if bound.program.bn_mesh is not None:
        raise ValueError(
            f"batch_norm='per_device' on {bound.program.bn_mesh.size} devices, but a sweep gives each device whole "
            "runs, and no parts of batches: compile with batch_norm='global' or devices=jax.devices()[:1]"
        )


def _shown(logs: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return of what each run measured that which is told."""
    names = [name for name in logs[0] if name in ("loss", "val_loss") or name.endswith("accuracy")]
    return [{name: own[name] for name in names} for own in logs]


def _new(run: Trainer) -> Trainer:
    """Return a run that can begin."""
    if run.state is None or int(run.state.step):
        raise ValueError("a sweep begins with runs that were compiled and not trained: make() has to return such")
    run._networks.warn_of_new_weights()
    return run


_OF_ONE_RUN = (Checkpoint, CSVLogger, EarlyStopping, ReduceLROnPlateau, TensorBoard, WandB)
"""Callbacks that remember the run they serve."""


def _check_apart(trainers: Sequence[Trainer], callbacks: Sequence[Sequence[Callback]]) -> None:
    """Refuse runs that would be one and the same, or take each other's callbacks, checkpoints or logs for their own."""
    if len({id(trainer) for trainer in trainers}) < len(trainers):
        raise ValueError("several cells are one run: let make(**cell) return a new Trainer or Distiller for each")
    served = [callback for own in callbacks for callback in {id(one): one for one in own}.values()]
    for callback in served:  # one of the user's own may mean to hear of all runs
        if isinstance(callback, _OF_ONE_RUN) and sum(other is callback for other in served) > 1:
            raise ValueError(f"several runs have the same {callback!r}: let callbacks(**cell) make new ones for each")
    places = [
        (kind, os.fspath(getattr(callback, name)))
        for callback in served
        for kind, name in ((Checkpoint, "directory"), (CSVLogger, "path"), (TensorBoard, "directory"))
        if isinstance(callback, kind)
    ]
    for kind, place in sorted(set(places), key=str):
        if places.count((kind, place)) > 1:
            what = "their checkpoints" if kind is Checkpoint else f"a {kind.__name__}"
            raise ValueError(f"several runs have {what} in {place}: name a directory for each cell")
