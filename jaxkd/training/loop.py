"""The training loop: epochs, their compiled chunks, what is measured after them, and the order of all hooks.

`train` is the whole of it, for one run and for several that are stacked into one program alike. A run's state is read
anew for every chunk, since callbacks may replace it.
"""

from __future__ import annotations

import contextlib
import copy
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import jax
import numpy as np

from jaxkd.checks import check_finite
from jaxkd.history import History
from jaxkd.training.cached_teacher import CachedTeacher
from jaxkd.training.compiled_epoch import end_epoch
from jaxkd.training.epochs import Chunk, Epoch
from jaxkd.training.preemption import Termination
from jaxkd.training.program import Program
from jaxkd.training.sharding import Placement
from jaxkd.training.stacked_runs import check_together, placed, stack, unstack
from jaxkd.training.state import TrainState
from jaxkd.training.step import Logs

Means = dict[str, float]

SATURATION_MARGIN = 0.01
"""The distance from a bound that counts as being there, as a part of the range."""


class Hooks(Protocol):
    """The hooks of a run's callbacks; `jaxkd.callbacks.CallbackList` is one."""

    def listens_to(self, hook: str) -> bool:
        """Return whether any callback does something in this hook."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Run before an epoch, counted from 0."""

    def on_train_batch_end(self, step: int, logs: Means) -> None:
        """Run after a chunk; `step` steps of the epoch are done."""

    def on_termination(self, logs: Means) -> None:
        """Run when the process was asked to end, by the signal of this number."""

    def on_test_begin(self) -> None:
        """Run before an evaluation."""

    def on_test_end(self, logs: Means) -> None:
        """Run after an evaluation."""

    def on_epoch_end(self, epoch: int, logs: Means) -> None:
        """Run after an epoch, with its means."""


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
      spoilt: a state that training ended in because it was not finite; the network is not given it.
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
    spoilt: TrainState | None = None
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

    def hear(self) -> None:
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
            own = self._placement.everywhere(unstack(self._stacked, position))
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
      termination: notices SIGTERM and Ctrl-C; where one arrives, callbacks save before the exception it stands for.
      cached_teacher: the teacher whose outputs are cached, if they are.
      measure: evaluates the runs on held-out data; None without them.
      validation_freq: after how many epochs that is done; it is always done after the last.

    Returns:
      For each run, the logs of the last epoch.
    """

    def take(chunk: Chunk) -> Logs:
        runs.state, logs = chunk.run(runs.state)
        return logs

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
        for _ in prefetch_logs(chunks, take, progress, termination):
            runs.hear()
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
    take: Callable[[Chunk], Logs],
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
            waiting.append((take(chunk), chunk.batch_size))
        if len(waiting) > 1:
            hear()
            yield
    while waiting:
        hear()
        yield


class EpochProgress:
    """The progress of a run in an epoch: means so far, bounds reached, and what is still being computed.

    Every example counts the same. It can be written down at any time, and resumed from that.

    Args:
      program: of the run.
      number: of the epoch, counted from 1.
      step: the number of steps taken in the whole training.
      waiting: the logs and batch size of chunks that are under way.
      column: of a stacked run in the logs, which are `[S, n]` then.
      record: of the same epoch, when it was broken off at this step.
      warned: the bounds that the run has been warned of; what is warned of now is added.

    Attributes:
      steps: of the epoch that have been heard of.
      last_steps: the value of every loss at each step of the chunk that was heard of last.
      last_steps_start: the number of steps taken before that chunk, in the whole training.
    """

    def __init__(
        self,
        program: Program,
        number: int,
        step: int,
        waiting: list[tuple[Logs, int]],
        column: int | None = None,
        record: Mapping[str, Any] | None = None,
        warned: set[str] | None = None,
    ):
        self._number, self._first_step = number, record["first_step"] if record else step
        self._terms = ["loss", *(name for name, _ in program.weights)]
        self._sums = dict.fromkeys(program.averaged, 0.0)
        self._latest: Means = {}
        self._monitor = SaturationMonitor(dict(program.bounds), warned)
        self._column = column
        self._start = time.perf_counter()
        self.steps = self.images = self._images_before = 0
        self.waiting = waiting
        self.last_steps: dict[str, np.ndarray] = {}
        self.last_steps_start = step
        if record is not None:
            meter = record["meter"]
            self._sums = {name: float(meter["sums"][name]) for name in self._sums}
            self._latest = dict(meter["latest"])
            self.steps, self.images = meter["steps"], meter["images"]
            self._images_before = self.images  # the rate counts what comes now
            self._monitor.resume(record["watch"])

    def add(self, logs: Mapping[str, np.ndarray], batch_size: int) -> None:
        """Add the logs of a chunk of S steps, `[S]` or `[S, n]`."""
        values = {name: value if self._column is None else value[:, self._column] for name, value in logs.items()}
        self.last_steps = {name: values[name] for name in self._terms}
        self.last_steps_start = self._first_step + self.steps
        for name, value in values.items():
            self._latest[name] = float(value[-1])
            if name in self._sums:
                self._sums[name] += float(np.sum(value, dtype=np.float64)) * batch_size
        self._monitor.add(values)
        steps = len(self.last_steps["loss"])
        self.steps += steps
        self.images += steps * batch_size

    def logs(self) -> Means:
        """Return the means so far, then the latest of all other values, and `images_per_second`."""
        means = {name: total / self.images for name, total in self._sums.items()}
        rate = (self.images - self._images_before) / max(time.perf_counter() - self._start, 1e-9)
        latest = {name: value for name, value in self._latest.items() if name not in means}
        return means | latest | {"images_per_second": rate}

    def warn(self) -> None:
        """Warn of monitored values that never left a bound, once in a run."""
        self._monitor.warn(self._number)

    def to_dict(self) -> dict[str, Any]:
        """Return the epoch as far as the state has got, chunks under way included, as JSON values.

        Raises:
          FloatingPointError: a loss of those is not finite, so that the state is not worth keeping.
        """
        done = copy.copy(self)
        done._sums, done._latest, done._monitor = dict(self._sums), dict(self._latest), copy.deepcopy(self._monitor)
        for logs, batch_size in self.waiting:
            done.add({name: np.asarray(value) for name, value in logs.items()}, batch_size)
            check_finite(done.last_steps, done.last_steps_start, self._number)
        meter = {"sums": done._sums, "latest": done._latest, "steps": done.steps, "images": done.images}
        return {"first_step": self._first_step, "meter": meter, "watch": done._monitor.to_dict()}


class SaturationMonitor:
    """Notice that a learned value has run into a bound, where it no longer adapts.

    Args:
      bounds: lowest and highest possible value of each, by its name in the logs.
      warned: the bounds that were warned of before, which are not again; what is warned of is added.

    Example:
      >>> monitor = SaturationMonitor({"kd_temperature": (1.0, 21.0)})
      >>> monitor.add({"kd_temperature": np.array([1.1, 1.05])})
      >>> with warnings.catch_warnings(record=True) as caught:
      ...     warnings.simplefilter("always")
      ...     monitor.warn(epoch=7)
      >>> str(caught[0].message).partition(":")[0]
      'kd_temperature stayed at its lower bound, 1, through all of epoch 7'
    """

    def __init__(self, bounds: Mapping[str, tuple[float, float]], warned: set[str] | None = None):
        self._bounds, self._warned = bounds, set() if warned is None else warned
        self._lowest = dict.fromkeys(bounds, np.inf)
        self._highest = dict.fromkeys(bounds, -np.inf)

    def add(self, logs: Mapping[str, np.ndarray]) -> None:
        """Add the `[S]` values of a chunk of S steps."""
        for name in self._bounds:
            self._lowest[name] = min(self._lowest[name], float(np.min(logs[name])))
            self._highest[name] = max(self._highest[name], float(np.max(logs[name])))

    def to_dict(self) -> dict[str, Any]:
        """Return what `resume` takes, as JSON values."""
        return {"lowest": self._lowest, "highest": self._highest}

    def resume(self, record: Mapping[str, Any]) -> None:
        """Resume from the record of an epoch that was broken off."""
        self._lowest, self._highest = dict(record["lowest"]), dict(record["highest"])

    def warn(self, epoch: int) -> None:
        """Warn of every value that never left a bound in this epoch, counted from 1, unless that was said before."""
        for name, (low, high) in self._bounds.items():
            near = SATURATION_MARGIN * (high - low)
            sides = {
                "lower": (self._highest[name] <= low + near, low),
                "upper": (self._lowest[name] >= high - near, high),
            }
            for side, (there, bound) in sides.items():
                if there and f"{name} {side}" not in self._warned:
                    self._warned.add(f"{name} {side}")
                    warnings.warn(
                        f"{name} stayed at its {side} bound, {bound:g}, through all of epoch {epoch}: it no longer "
                        "adapts. Widen its range, weaken its curriculum or lower the weight of its loss",
                        stacklevel=2,
                    )
