"""A run: a network, what it was compiled to, and how far training has got. The verbs are `Trainer`'s."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

from jaxkd.history import History
from jaxkd.losses import cross_entropy
from jaxkd.training.cached_teacher import CacheRequest
from jaxkd.training.evaluation import Evaluation
from jaxkd.training.inputs import Source
from jaxkd.training.program import Program, metrics_of
from jaxkd.training.running import RunningEpoch
from jaxkd.training.setup import Setup
from jaxkd.training.sharding import Placement
from jaxkd.training.state import TrainState, Tree, copied, split
from jaxkd.types import Normalization


class Run:
    """What training a network needs and changes.

    Args:
      model: an `nnx.Module` called as `model(images, train=…) -> Outputs`.

    Attributes:
      state: all that training changes, a pytree; None before `compile`.
      history: what was measured so far.
      stop_training: callbacks set it to end after the running epoch.
      last_steps: the value of every loss at each step of the last compiled chunk.
      last_steps_start: the number of steps taken before that chunk.
      running: the epoch under way, within `fit`.
      resumed: the record of an epoch that was broken off, between `restore` and `fit`.
      restored_epochs: how many epochs were done when the run was restored, likewise.
      cache: what was asked for about keeping the teacher's outputs.
    """

    def __init__(self, model: nnx.Module):
        self._model = model
        self._teacher: nnx.Module | None = None
        self._program: Program | None = None
        self._placement = Placement()
        self._steps_per_execution: int | None = None
        self.cache = CacheRequest(None, False)
        self.state: TrainState | None = None
        self.history = History()
        self.restored_epochs = 0
        self.resumed: dict[str, Any] | None = None
        self.running: RunningEpoch | None = None
        self.stop_training = False
        self.last_steps: dict[str, np.ndarray] = {}
        self.last_steps_start = 0

    @property
    def model(self) -> nnx.Module:
        """The network with the weights of `state`."""
        if self.state is not None:
            own = (self.state.params["model"], self.state.variables["model"])
            # Copies: the next compiled chunk takes the state's own buffers.
            nnx.update(self._model, *(nnx.State(tree) for tree in copied(own)))
        return self._model

    def save(self, directory: str | os.PathLike[str], *, keep: int = 1) -> None:
        """Writes the run as `directory/<epochs completed>`, atomically, and keeps the newest `keep` of them.

        From a callback within an epoch it writes `directory/partial/<steps taken>` instead.

        Raises:
          RuntimeError: before `compile`.
          FloatingPointError: for a state that is not worth keeping; what was saved before stays.
          OSError: the directory cannot be written to, or is full.
        """
        from jaxkd.training import checkpoint  # orbax is slow to import, and many runs save nothing

        own = getattr(self._model, "normalization", None)
        record = {
            "history": self.history.to_dict(),
            "normalization": own and [list(values) for values in own],
            "running": None if self.running is None else self.running.to_dict(),
        }
        checkpoint.save(directory, self.compiled_state(), record, keep)

    def restore(self, directory: str | os.PathLike[str]) -> None:
        """Takes up the newest run of a directory; `fit` then goes on at its next step, as if it had never stopped.

        Warns:
          UserWarning: of damaged checkpoints; the one before is taken.

        Raises:
          RuntimeError: before `compile`.
          FileNotFoundError: where there is none.
          OSError: where none is good.
          ValueError: if it was compiled differently.
        """
        from jaxkd.training import checkpoint

        self.state, record = checkpoint.restore(directory, self.compiled_state())
        self.history = History.from_dict(record["history"])
        if record["normalization"]:
            mean, std = record["normalization"]
            self._model.normalization = Normalization(tuple(mean), tuple(std))  # type: ignore[attr-defined]
        self.restored_epochs, self.resumed, self.running = int(self.state.epoch), record["running"], None
        _ = self.model

    def begin_afresh(
        self,
        program: Program,
        state: TrainState,
        placement: Placement,
        steps_per_execution: int | None,
        cache: CacheRequest,
    ) -> None:
        """Takes what `compile` made of its arguments: nothing is trained yet."""
        self._program, self._placement, self._steps_per_execution = program, placement, steps_per_execution
        self.cache, self.state = cache, placement.everywhere(state)
        self.history, self.restored_epochs, self.resumed, self.running = History(), 0, None, None

    def begin(self) -> None:
        """Training begins: nothing asks it to stop, and having been restored no longer matters."""
        self.stop_training, self.restored_epochs = False, 0

    def setup(self, source: Source) -> Setup:
        """How the run as compiled goes over data; a network without a normalisation takes up that of the data."""
        given = source.normalization
        if given is not None and getattr(self._model, "normalization", None) is None:
            self._model.normalization = given  # type: ignore[attr-defined]
        return Setup(
            self.compiled_program(),
            normalization_of(self._model, given),
            None if self._teacher is None else normalization_of(self._teacher, given),
            self._placement,
            self._steps_per_execution,
        )

    def evaluation(self, source: Source, batch_size: int = 256) -> Callable[[], dict[str, float]]:
        """What measures the present network on data that are put in place now."""
        evaluation = Evaluation(source, self._placement, batch_size)
        normalization = normalization_of(self._model, source.normalization)
        metrics = metrics_of(("accuracy", "top5")) if self._program is None else self._program.metrics
        measured = (("loss", cross_entropy), *metrics)

        def measure() -> dict[str, float]:
            graph, weights = self.network()
            return evaluation.measure(graph, weights, normalization, self.precision, measured)

        return measure

    def network(self) -> tuple[nnx.GraphDef, tuple[Tree, Tree]]:
        """Structure, parameters and other variables of the network, on the devices; works before `compile` too."""
        if self.state is None:
            graph, *weights = split(self._model)
            return graph, self._placement.everywhere(tuple(weights))
        return self.compiled_program().model, (self.state.params["model"], self.state.variables["model"])

    @property
    def precision(self) -> str:
        """What the networks compute in."""
        return "float32" if self._program is None else self._program.precision

    def compiled_state(self) -> TrainState:
        """The state; a RuntimeError before `compile`."""
        if self.state is None:
            raise RuntimeError("call compile(optimizer=…, loss=…) first")
        return self.state

    def compiled_program(self) -> Program:
        """The static side of the run; a RuntimeError before `compile`."""
        if self._program is None:
            raise RuntimeError("call compile(optimizer=…, loss=…) first")
        return self._program


def normalization_of(model: nnx.Module, given: Normalization | None) -> Normalization | None:
    """What a network's inputs are normalised with: its own statistics if it carries any, else the data's."""
    return getattr(model, "normalization", None) or given
