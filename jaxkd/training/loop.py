"""The training loop: epochs, their compiled chunks, what is measured after them, and the order of all hooks.

`train` is the whole of it, for one run and for several that are stacked into one program alike. A run's state is read
anew for every chunk, since callbacks may replace it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import jax
import numpy as np

from jaxkd.history import History
from jaxkd.training.cached_teacher import CachedTeacher
from jaxkd.training.compiled_epoch import end_epoch
from jaxkd.training.epoch_progress import EpochProgress, Means
from jaxkd.training.epochs import Chunk, Epoch
from jaxkd.training.preemption import Termination
from jaxkd.training.program import Program
from jaxkd.training.sharding import Placement
from jaxkd.training.stacked_runs import check_together, placed, stack, unstack
from jaxkd.training.state import TrainState
from jaxkd.training.step import Logs


class Hooks(Protocol):
    """The hooks of a run's callbacks, by Keras's names; `jaxkd.callbacks.CallbackList` is one."""

    def listens_to(self, hook: str) -> bool:
        """Return whether any callback does something in this hook."""


@dataclass
class Run:
    """All of a run that training changes.

    Attributes:
      state: the arrays; None before they are made.
      history: what was measured, epoch by epoch.
      stop_training: whether a callback asked to end after the present epoch.
      progress: the epoch under way; None between epochs.
      resumed: the record of an epoch that was broken off, from restoring the run to the end of that epoch.
      last_steps: the value of every loss at each step of the last chunk.
      last_steps_start: the number of steps taken before that chunk.
      warned: the bounds that were warned of, each once in a run.
      diverged_state: a state that training ended in because it was not finite; the network is not given it.
      begun_at: the number of steps taken when its last epoch began or was resumed.
      under_way: whether a `fit` or a sweep trains it.
    """

    state: TrainState | None = None
    history: History = field(default_factory=History)
    stop_training: bool = False
    progress: EpochProgress | None = None
    resumed: Mapping[str, Any] | None = None
    last_steps: Mapping[str, np.ndarray] = field(default_factory=dict)
    last_steps_start: int = 0
    warned: set[str] = field(default_factory=set)
    diverged_state: TrainState | None = None
    begun_at: int | None = None
    under_way: bool = False

    def compiled_state(self) -> TrainState:
        """Return the state; raise a RuntimeError before `compile`."""
        if self.state is None:
            raise RuntimeError("call compile(optimizer=…, loss=…) first")
        return self.state

    def resume_where_it_is(self) -> None:
        """Let a run that was restored within an epoch, and broken off again in it, go on from its present step.

        A state that was set back since, to what was restored, goes on from there.
        """
        if self.resumed is None or self.progress is None or self.state is None:
            return
        if int(self.state.step) != self.resumed["first_step"] + self.resumed["meter"]["steps"]:
            self.resumed = self.progress.to_dict()

    @property
    def is_whole(self) -> bool:
        """Tell whether the state is there: a program that failed may have taken its buffers."""
        leaves = jax.tree.leaves(self.state)
        return not any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves)


class Runs:
    """The runs that one program trains, with their callbacks.

    A single run's state is its own. Those of several are stacked, and each gets its part back before a hook that one of
    its callbacks listens to, and by `hand_over`; where a callback put others in their place, they are stacked anew.

    Args:
      members: each run with its hooks.
      placement: where stacked states live; None for a single run that is not stacked.
    """

    def __init__(self, members: Sequence[tuple[Run, Hooks]], placement: Placement | None = None):
        self.members, self._placement = tuple(members), placement
        self._stacked: TrainState | None = None
        self._handed_over: list[list[jax.Array]] | None = None  # the arrays of each run; None where they are older
        if placement is not None:
            self._stack(placement)

    @property
    def state(self) -> TrainState:
        """The state that a chunk takes: a run's own, or the stacked one.

        Raises:
          ValueError: a callback put a state from another step in the place of a stacked run's.
        """
        if self._stacked is None or self._placement is None:
            return self.members[0][0].compiled_state()
        if self._handed_over is not None and not _same_arrays(self._handed_over, self._arrays()):
            check_together([self._stacked, *(run.compiled_state() for run, _ in self.members)])
            self._stack(self._placement)
        return self._stacked

    @state.setter
    def state(self, state: TrainState) -> None:
        if self._stacked is None:
            self.members[0][0].state = state
        else:
            self._stacked, self._handed_over = state, None

    @property
    def stop_training(self) -> bool:
        """Tell whether any of them is to end."""
        return any(run.stop_training for run, _ in self.members)

    def begin_epoch(self, program: Program, number: int) -> list[EpochProgress]:
        """Return the progress of each run in an epoch counted from 1, resumed where one was broken off."""
        waiting: list[tuple[Logs, int]] = []
        progress, step = [], int(self.state.step)
        for position, (run, _) in enumerate(self.members):
            run.begun_at = step
            column = None if self._stacked is None else position
            run.progress = EpochProgress(program, number, step, waiting, column, run.resumed, run.warned)
            progress.append(run.progress)
        return progress

    def publish_last_steps(self) -> None:
        """Let each run know its last steps."""
        for run, _ in self.members:
            if run.progress is not None:
                run.last_steps, run.last_steps_start = run.progress.last_steps, run.progress.last_steps_start

    def record(self, epoch: int, logs: Sequence[Means]) -> None:
        """Write down what was measured in an epoch so far."""
        for (run, _), own in zip(self.members, logs, strict=True):
            run.history.append(epoch, own)

    def end_epoch(self, epoch: int, logs: Sequence[Means]) -> None:
        """Write down what an epoch measured."""
        self.record(epoch, logs)

    def call(self, hook: str, *position: int, logs: Sequence[Means] | None = None) -> None:
        """Call a hook of every run's callbacks."""
        if any(hooks.listens_to(hook) for _, hooks in self.members):
            self.hand_over()
        for index in range(len(self.members)):
            self.call_one(index, hook, *position, *([] if logs is None else [logs[index]]))

    def call_one(self, index: int, hook: str, *arguments: Any) -> None:
        """Call a hook of one run's callbacks."""
        getattr(self.members[index][1], hook)(*arguments)

    def hand_over(self) -> None:
        """Give each stacked run its part of the state."""
        if self._stacked is None or self._placement is None or self._handed_over is not None:
            return
        for position, (run, _) in enumerate(self.members):
            own = self._placement.replicate(unstack(self._stacked, position))
            run.state = replace(own, teacher=run.compiled_state().teacher)
        self._handed_over = self._arrays()

    def _stack(self, placement: Placement) -> None:
        """Stack the states that the runs have."""
        states = [run.compiled_state() for run, _ in self.members]
        missing = -len(states) % len(placement.devices)  # the last is repeated until all devices have equally many
        self._stacked = placed(stack([*states, *[states[-1]] * missing]), placement)
        self._handed_over = self._arrays()

    def _arrays(self) -> list[list[jax.Array]]:
        return [jax.tree.leaves(run.state) for run, _ in self.members]


def _same_arrays(one: list[list[jax.Array]], other: list[list[jax.Array]]) -> bool:
    """Return whether the very arrays are the same; their values are not looked at."""
    return [list(map(id, arrays)) for arrays in one] == [list(map(id, arrays)) for arrays in other]


@contextlib.contextmanager
def under_way(runs: Sequence[Run]) -> Iterator[None]:
    """Mark runs as being trained, so that nothing puts others in their place meanwhile."""
    for run in runs:
        run.under_way = True
    try:
        yield
    finally:
        for run in runs:
            run.under_way = False


def train(
    runs: Runs,
    epochs: range,
    start_epoch: Epoch,
    program: Program,
    termination: Termination,
    cached_teacher: CachedTeacher | None = None,
    measure: Callable[[TrainState], list[Means]] | None = None,
    validation_freq: int = 1,
) -> list[Means]:
    """Train some epochs, until they are done or a callback of any run asks to stop.

    Args:
      runs: what is trained.
      epochs: their numbers, counted from 0.
      start_epoch: gives the chunks of each.
      program: of the runs.
      termination: notices SIGTERM, SIGHUP and Ctrl-C; where one arrives, callbacks save before the exception that it
        stands for.
      cached_teacher: the teacher whose outputs are cached, if they are.
      measure: evaluates the runs on held-out data; None without them.
      validation_freq: after how many epochs that is done; it is always done after the last.

    Returns:
      For each run, the logs of the last epoch.
    """

    def end_if_asked() -> None:
        if termination.requested():
            runs.call("on_termination", logs=[{"signal": termination.signal}] * len(runs.members))
            termination.end()

    logs: list[Means] = [{} for _ in runs.members]
    for epoch in epochs:
        if runs.stop_training:
            break
        runs.call("on_epoch_begin", epoch)
        progress = runs.begin_epoch(program, epoch + 1)
        chunks = start_epoch(runs.state, progress[0].steps)
        for _ in prefetch_logs(chunks, runs, progress, termination):
            runs.publish_last_steps()
            runs.call("on_train_batch_end", progress[0].steps, logs=[own.logs() for own in progress])
            end_if_asked()
        if termination.noticed:  # before the first chunk
            end_if_asked()
        for own in progress:
            own.warn()
        cached = {} if cached_teacher is None else {"teacher_cache_hits": cached_teacher.hit_rate()}
        logs = [own.logs() | cached for own in progress]
        with termination.held():
            for run, _ in runs.members:
                run.progress = run.resumed = None
            runs.state = end_epoch(runs.state)
            runs.record(epoch, logs)  # now: what stops its evaluation leaves an epoch that is done
        if measure and ((epoch + 1) % validation_freq == 0 or epoch + 1 == epochs.stop):
            runs.call("on_test_begin")
            measured = [{f"val_{name}": value for name, value in own.items()} for own in measure(runs.state)]
            runs.call("on_test_end", logs=measured)
            logs = [own | found for own, found in zip(logs, measured, strict=True)]
        runs.end_epoch(epoch, logs)
        runs.call("on_epoch_end", epoch, logs=logs)
        if epoch + 1 < epochs.stop:
            end_if_asked()
    runs.hand_over()
    return logs


def prefetch_logs(
    chunks: Iterator[Chunk],
    runs: Runs,
    progress: Sequence[EpochProgress],
    termination: Termination,
) -> Iterator[None]:
    """Take the chunks, and add the logs of each to the progress of every run when the next is under way; then yield.

    So the device always has something to work on while the host reads. What was taken and not added yet is in the
    `waiting` that all progress shares, whenever Ctrl-C comes: a chunk takes the buffers of the state before it, which
    must not be gone without the next, and no step may be missing in what is saved. Nothing more is taken once this
    process was asked to end.
    """
    waiting = progress[0].waiting

    def hear() -> None:
        logs, batch_size = waiting[0]
        values = {name: np.asarray(value) for name, value in logs.items()}  # waits for the device
        with termination.held():
            waiting.pop(0)
            for own in progress:
                own.add(values, batch_size)

    for chunk in chunks:
        if termination.noticed:
            break
        with termination.held():
            runs.state, logs = chunk.run(runs.state)
            waiting.append((logs, chunk.batch_size))
        if len(waiting) > 1:
            hear()
            yield
    while waiting:
        hear()
        yield
