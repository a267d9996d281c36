"""The loop under `Trainer.fit`: epochs, their chunks, what is measured after them, and the order of all hooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxkd.callbacks import Callback, CallbackList
from jaxkd.run import Run
from jaxkd.training.cached_teacher import KeptTeacher
from jaxkd.training.compiled_epoch import end_epoch
from jaxkd.training.epochs import Chunk, Epoch
from jaxkd.training.preemption import TERMINATED, Termination
from jaxkd.training.running import RunningEpoch
from jaxkd.training.step import Logs


def follow(run: Run, callbacks: Sequence[Callback], last: int, batch_size: int, examples: int | None) -> CallbackList:
    """The callbacks of a run that is about to begin, told all they want to know.

    Args:
      run: theirs.
      callbacks: in their order.
      last: the epoch before which training ends, counted from 0.
      batch_size: over all devices.
      examples: of the data; None where that is not known.
    """
    hooks = CallbackList(callbacks)
    hooks.set_trainer(run)
    steps = None if examples is None else math.ceil(examples / batch_size)
    hooks.set_params({"epochs": last, "steps": steps, "batch_size": batch_size, "images": examples})
    run.begin()
    return hooks


@dataclass(frozen=True)
class Fitting:
    """One call of `fit`.

    Attributes:
      run: whose state, history and running epoch it carries on.
      start_epoch: gives the chunks of each epoch.
      kept: the teacher whose outputs are kept, if they are.
      hooks: the callbacks.
      evaluate: measures held-out data; None without them.
      validation_freq: after how many epochs that is done.
    """

    run: Run
    start_epoch: Epoch
    kept: KeptTeacher | None
    hooks: CallbackList
    evaluate: Callable[[], dict[str, float]] | None
    validation_freq: int

    def train(self, first: int, last: int) -> None:
        """Trains the epochs from `first` up to, not including, `last`, unless a callback ends it before."""
        run, hooks = self.run, self.hooks
        logs: dict[str, float] = {}
        hooks.on_train_begin()
        with Termination(wanted=hooks.handle_termination) as termination:
            for number in range(first, last):
                if run.stop_training:
                    break
                hooks.on_epoch_begin(number)
                logs = self._train_epoch(number, termination)
                if self.evaluate and ((number + 1) % self.validation_freq == 0 or number + 1 == last):
                    hooks.on_test_begin()
                    measured = {f"val_{name}": value for name, value in self.evaluate().items()}
                    hooks.on_test_end(measured)
                    logs |= measured
                run.history.append(number, logs)
                hooks.on_epoch_end(number, logs)
                if number + 1 < last:
                    self._end_if_asked(termination)
            hooks.on_train_end(logs)

    def _train_epoch(self, number: int, termination: Termination) -> dict[str, float]:
        run = self.run
        state = run.compiled_state()
        running = run.running = RunningEpoch(run.compiled_program(), number + 1, int(state.step), run.resumed)
        run.resumed = None
        for _ in running.follow(self.start_epoch(state, running.steps), self._take):
            run.last_steps, run.last_steps_start = running.last_steps, running.last_steps_start
            self.hooks.on_train_batch_end(running.steps, running.logs())
            self._end_if_asked(termination)
        running.warn()
        run.running = None
        run.state = end_epoch(run.compiled_state())
        recalled = {} if self.kept is None else {"teacher_cache_hits": self.kept.hit_rate()}
        return running.logs() | recalled

    def _end_if_asked(self, termination: Termination) -> None:
        if termination.requested():
            self.hooks.on_termination()
            raise SystemExit(TERMINATED)

    def _take(self, chunk: Chunk) -> Logs:
        self.run.state, logs = chunk.run(self.run.compiled_state())
        return logs
