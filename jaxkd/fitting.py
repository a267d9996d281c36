"""The loop under `Trainer.fit`: epochs, their chunks, what is measured after them, and the order of all hooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxkd.callbacks import Callback, CallbackList
from jaxkd.engine.chunks import Chunk, Epoch
from jaxkd.engine.epoch import end_epoch
from jaxkd.engine.kept_teacher import KeptTeacher
from jaxkd.engine.running import RunningEpoch
from jaxkd.engine.step import Logs
from jaxkd.termination import TERMINATED, Termination

if TYPE_CHECKING:
    from jaxkd.trainer import Trainer


def follow(
    trainer: Trainer, callbacks: Sequence[Callback], last: int, batch_size: int, examples: int | None
) -> CallbackList:
    """The callbacks of a run that is about to begin, told all they want to know.

    Args:
      trainer: of the run.
      callbacks: in their order.
      last: the epoch before which training ends, counted from 0.
      batch_size: over all devices.
      examples: of the data; None where that is not known.
    """
    hooks = CallbackList(callbacks)
    hooks.set_trainer(trainer)
    steps = None if examples is None else math.ceil(examples / batch_size)
    hooks.set_params({"epochs": last, "steps": steps, "batch_size": batch_size, "images": examples})
    trainer.begin()
    return hooks


@dataclass(frozen=True)
class Fitting:
    """One call of `fit`.

    Attributes:
      trainer: whose state, history and running epoch it carries on.
      start_epoch: gives the chunks of each epoch.
      kept: the teacher whose outputs are kept, if they are.
      hooks: the callbacks.
      evaluate: measures held-out data; None without them.
      validation_freq: after how many epochs that is done.
    """

    trainer: Trainer
    start_epoch: Epoch
    kept: KeptTeacher | None
    hooks: CallbackList
    evaluate: Callable[[], dict[str, float]] | None
    validation_freq: int

    def run(self, first: int, last: int) -> None:
        """Trains the epochs from `first` up to, not including, `last`, unless a callback ends it before."""
        trainer, hooks = self.trainer, self.hooks
        logs: dict[str, float] = {}
        hooks.on_train_begin()
        with Termination(wanted=hooks.handle_termination) as termination:
            for number in range(first, last):
                if trainer.stop_training:
                    break
                hooks.on_epoch_begin(number)
                logs = self._train_epoch(number, termination)
                if self.evaluate and ((number + 1) % self.validation_freq == 0 or number + 1 == last):
                    hooks.on_test_begin()
                    measured = {f"val_{name}": value for name, value in self.evaluate().items()}
                    hooks.on_test_end(measured)
                    logs |= measured
                trainer.history.append(number, logs)
                hooks.on_epoch_end(number, logs)
                if number + 1 < last:
                    self._end_if_asked(termination)
            hooks.on_train_end(logs)

    def _train_epoch(self, number: int, termination: Termination) -> dict[str, float]:
        trainer = self.trainer
        state = trainer.compiled_state()
        running = trainer.running = RunningEpoch(
            trainer.compiled_program(), number + 1, int(state.step), trainer.resumed
        )
        trainer.resumed = None
        for _ in running.follow(self.start_epoch(state, running.steps), self._take):
            trainer.last_steps, trainer.last_steps_start = running.last_steps, running.last_steps_start
            self.hooks.on_train_batch_end(running.steps, running.logs())
            self._end_if_asked(termination)
        running.warn()
        trainer.running = None
        trainer.state = end_epoch(trainer.compiled_state())
        recalled = {} if self.kept is None else {"teacher_cache_hits": self.kept.hit_rate()}
        return running.logs() | recalled

    def _end_if_asked(self, termination: Termination) -> None:
        if termination.requested():
            self.hooks.on_termination()
            raise SystemExit(TERMINATED)

    def _take(self, chunk: Chunk) -> Logs:
        self.trainer.state, logs = chunk.run(self.trainer.compiled_state())
        return logs
