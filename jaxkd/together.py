"""Runs that differ in arrays only, trained as one program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.engine.bounds import BoundWatch
from jaxkd.engine.chunks import Chunk, one_behind
from jaxkd.engine.epoch import end_epoch
from jaxkd.engine.evaluation import padded_batches
from jaxkd.engine.feed import Resident
from jaxkd.engine.many import make_evaluate_many, make_many_step, stack, unstack
from jaxkd.engine.meter import EpochMeter
from jaxkd.engine.setup import Setup
from jaxkd.engine.state import TrainState
from jaxkd.engine.step import Logs
from jaxkd.losses import cross_entropy
from jaxkd.trainer import Trainer

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Together:
    """Runs with the same setup, seed and teacher.

    Attributes:
      setup: theirs.
      runs: compiled, and not trained yet; `train` gives them their weights and histories.
    """

    setup: Setup
    runs: tuple[Trainer, ...]

    def cut(self, size: int) -> list[Together]:
        """Parts of at most `size` runs."""
        starts = range(0, len(self.runs), size)
        return [Together(self.setup, self.runs[start : start + size]) for start in starts]

    def train(
        self,
        source: Resident,
        held_out: Resident | None,
        epochs: int,
        batch_size: int,
        validation_freq: int,
        verbose: bool,
    ) -> None:
        """Trains all runs, each as its own `fit` would.

        Nothing of the runs changes before all of them are through, so that they can be begun again in smaller parts.
        """
        setup = self.setup
        states = [run.state for run in self._padded() if run.state is not None]
        state = setup.placement.over_runs(stack(states))
        step = make_many_step(setup.program, setup.normalization, setup.teacher_normalization, setup.placement)
        start_epoch, kept = setup.begin(step, states[0], source, batch_size, epochs, self.runs[0].cache, verbose)
        measured: list[list[dict[str, float]]] = []

        def take(chunk: Chunk) -> Logs:
            nonlocal state
            state, logs = chunk.run(state)
            return logs

        for epoch in range(epochs):
            meters = [EpochMeter(setup.program.averaged) for _ in self.runs]
            watches = [BoundWatch(dict(setup.program.bounds)) for _ in self.runs]
            for values, size in one_behind(start_epoch(state, 0), take):
                for position, (meter, watch) in enumerate(zip(meters, watches, strict=True)):
                    steps = {name: value[:, position] for name, value in values.items()}
                    meter.add(steps, size)
                    watch.add(steps)
            for watch in watches:
                watch.warn(epoch + 1)
            state = end_epoch(state)
            recalled = {} if kept is None else {"teacher_cache_hits": kept.hit_rate()}
            logs = [meter.logs() | recalled for meter in meters]
            if held_out is not None and ((epoch + 1) % validation_freq == 0 or epoch + 1 == epochs):
                for own, found in zip(logs, self._evaluate(state, held_out), strict=False):
                    own |= {f"val_{name}": value for name, value in found.items()}
            measured.append(logs)
            if verbose:
                print(f"epoch {epoch + 1}/{epochs} · {_span(logs)}", flush=True)
        for position, run in enumerate(self.runs):
            assert run.state is not None
            run.state = replace(unstack(state, position), teacher=run.state.teacher)
            for epoch, logs in enumerate(measured):
                run.history.append(epoch, logs[position])
            _ = run.model  # the caller's network gets the trained weights

    def _padded(self) -> list[Trainer]:
        """The runs, the last repeated until all devices have equally many."""
        missing = -len(self.runs) % len(self.setup.placement.devices)
        return [*self.runs, *[self.runs[-1]] * missing]

    def _evaluate(self, state: TrainState, held_out: Resident) -> list[dict[str, float]]:
        setup = self.setup
        metrics = (("loss", cross_entropy), *setup.program.metrics)
        evaluate = make_evaluate_many(setup.program, setup.normalization, metrics, setup.placement)
        examples = len(held_out.labels)
        indices = jnp.asarray(padded_batches(examples, min(EVALUATION_BATCH, examples)))
        images, labels = jnp.asarray(held_out.images), jnp.asarray(held_out.labels)
        sums = evaluate(state.params["model"], state.variables["model"], images, labels, indices)
        means = {name: np.asarray(total) / examples for name, total in sums.items()}
        return [{name: float(values[i]) for name, values in means.items()} for i in range(len(self._padded()))]


def together(runs: Sequence[Trainer], source: Resident) -> list[Together]:
    """Groups runs that can be trained as one program, in the order in which the groups first appear.

    Raises:
      ValueError: a run was not compiled, has been trained already, or cannot be on one device.
    """
    groups: dict[tuple, list[Trainer]] = {}
    for run in runs:
        if run.state is None or int(run.state.step):
            raise ValueError("a sweep begins with runs that were compiled and not trained: make() has to return such")
        setup = run.setup(source)
        _check_whole_runs(setup)
        seed = jax.random.key_data(run.state.key).tobytes()
        groups.setdefault((setup, seed, id(getattr(run, "teacher", None))), []).append(run)
    return [Together(setup, tuple(members)) for (setup, _, _), members in groups.items()]


def _check_whole_runs(setup: Setup) -> None:
    """Raises a ValueError for runs of which a device cannot take the whole, as it does in a sweep."""
    if len(setup.placement.processes) > 1:
        raise ValueError(
            f"devices of {len(setup.placement.processes)} processes, but a sweep is one process's: compile with "
            "devices=jax.local_devices(), and give each process cells of its own"
        )
    if setup.program.apart is not None:
        raise ValueError(
            f"batch_norm='per_device' on {setup.program.apart.size} devices, but a sweep gives each device whole runs, "
            "and no parts of batches: compile with batch_norm='global' or devices=jax.devices()[:1]"
        )


def _span(logs: list[dict[str, float]]) -> str:
    """The range of what was measured, over the runs."""
    shown = [name for name in logs[0] if name in ("loss", "val_loss") or name.endswith("accuracy")]
    spans = ((name, [own[name] for own in logs]) for name in shown)
    return " · ".join(f"{name} {min(values):.4g} … {max(values):.4g}" for name, values in spans)
