"""Runs that differ in arrays only, trained as one program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxkd.callbacks import CallbackList
from jaxkd.losses import cross_entropy
from jaxkd.run import Run
from jaxkd.training.bounds import BoundWatch
from jaxkd.training.compiled_epoch import end_epoch, make_resident_loop
from jaxkd.training.epochs import Chunk, Epoch, one_behind, resident_epoch, seed_of
from jaxkd.training.inputs import InMemory, padded_batches
from jaxkd.training.loops import slow_in_a_loop
from jaxkd.training.meter import EpochMeter
from jaxkd.training.setup import Setup
from jaxkd.training.stacked_runs import make_evaluate_many, make_many_step, own_batches_epoch, placed, stack, unstack
from jaxkd.training.state import TrainState
from jaxkd.training.step import Logs, Step, make_step

EVALUATION_BATCH = 256


class Member(NamedTuple):
    """A run among others.

    Attributes:
      run: compiled; new, or restored at the end of an epoch.
      hooks: its callbacks, which training has begun for.
    """

    run: Run
    hooks: CallbackList


@dataclass(frozen=True)
class Together:
    """Runs with the same setup, teacher and epoch; each batch serves all of them if they have the same seed.

    Attributes:
      setup: theirs.
      members: what is trained.
    """

    setup: Setup
    members: tuple[Member, ...]

    def cut(self, size: int) -> list[Together]:
        """Parts of at most `size` runs."""
        starts = range(0, len(self.members), size)
        return [Together(self.setup, self.members[start : start + size]) for start in starts]

    def at_once(self, most: int, source: InMemory, batch_size: int) -> int:
        """How many of the runs, at most, one program takes; the CPU goes over them in a loop."""
        setup = self.setup
        if setup.placement.devices[0].platform != "cpu" or min(most, len(self.members)) == 1:
            return most
        step = make_step(setup.program, setup.normalization, setup.teacher_normalization)
        loop = make_resident_loop(step, source.augmentation, setup.program.strong_view)
        state, indices = self.members[0].run.compiled_state(), np.zeros((1, batch_size), np.int32)
        return 1 if slow_in_a_loop(loop.trace(state, source.images, source.labels, indices).jaxpr.jaxpr) else most

    def train(
        self,
        source: InMemory,
        held_out: InMemory | None,
        epochs: int,
        batch_size: int,
        validation_freq: int,
        verbose: bool,
    ) -> Together | None:
        """Trains all runs, each as its own `fit` would, until one of them is to stop.

        Runs change when all are through an epoch, where any has callbacks, and else at the very end. What is thrown
        before leaves them as they were: they can be begun again in smaller parts.

        Returns:
          Those that have epochs left when others stopped; None when all are through.
        """
        setup = self.setup
        last_logs: list[dict[str, float]] = [{} for _ in self.members]
        states = [member.run.compiled_state() for member in self._padded()]
        state = placed(stack(states), setup.placement)
        step, resident = self._way(state)
        start_epoch, kept = setup.begin(
            step, states[0], source, batch_size, epochs, self.members[0].run.cache, verbose, resident
        )
        evaluate = None if held_out is None else self._evaluation(held_out)
        measured: dict[int, list[dict[str, float]]] = {}
        followed = any(member.hooks.callbacks for member in self.members)

        def take(chunk: Chunk) -> Logs:
            nonlocal state
            state, logs = chunk.run(state)
            return logs

        for epoch in range(int(states[0].epoch), epochs):
            for _, hooks in self.members:
                hooks.on_epoch_begin(epoch)
            last_logs = self._train_epoch(one_behind(start_epoch(state, 0), take), epoch + 1)
            state = end_epoch(state)
            recalled = {} if kept is None else {"teacher_cache_hits": kept.hit_rate()}
            last_logs = [logs | recalled for logs in last_logs]
            if evaluate and ((epoch + 1) % validation_freq == 0 or epoch + 1 == epochs):
                found = evaluate(state)
                last_logs = [logs | own for logs, own in zip(last_logs, found, strict=True)]
            measured[epoch] = last_logs
            if verbose:
                print(f"epoch {epoch + 1}/{epochs} · {_span(last_logs)}", flush=True)
            if followed:
                self._hand_over(state, measured)
                measured.clear()
                for (_, hooks), logs in zip(self.members, last_logs, strict=True):
                    hooks.on_epoch_end(epoch, logs)
                if any(member.run.stop_training for member in self.members):
                    break
        if measured:
            self._hand_over(state, measured)
        going = [member for member in self.members if int(state.epoch) < epochs and not member.run.stop_training]
        for member, logs in zip(self.members, last_logs, strict=True):
            if member not in going:
                member.hooks.on_train_end(logs)
                _ = member.run.model  # the caller's network gets the trained weights
        return Together(setup, tuple(going)) if going else None

    def _train_epoch(self, chunks: Iterator[tuple[dict[str, np.ndarray], int]], number: int) -> list[dict[str, float]]:
        """The means of each run over an epoch, counted from 1."""
        meters = [EpochMeter(self.setup.program.averaged) for _ in self.members]
        watches = [BoundWatch(dict(self.setup.program.bounds)) for _ in self.members]
        for values, size in chunks:
            for position, (meter, watch) in enumerate(zip(meters, watches, strict=True)):
                steps = {name: value[:, position] for name, value in values.items()}
                meter.add(steps, size)
                watch.add(steps)
        for watch in watches:
            watch.warn(number)
        return [meter.logs() for meter in meters]

    def _way(self, state: TrainState) -> tuple[Step, Callable[..., Epoch]]:
        """The step, and what gives the chunks of epochs, for runs that share their batches or have their own."""
        setup = self.setup
        if state.key.ndim:
            return make_step(setup.program, setup.normalization, setup.teacher_normalization), own_batches_epoch
        shared = make_many_step(setup.program, setup.normalization, setup.teacher_normalization, setup.placement)
        return shared, resident_epoch

    def _hand_over(self, state: TrainState, measured: Mapping[int, Sequence[Mapping[str, float]]]) -> None:
        """Gives each run its state, and what it measured in some epochs."""
        for position, (run, _) in enumerate(self.members):
            own = self.setup.placement.everywhere(unstack(state, position))
            run.state = replace(own, teacher=run.compiled_state().teacher)
            for epoch, logs in measured.items():
                run.history.append(epoch, logs[position])

    def _padded(self) -> list[Member]:
        """The runs, the last repeated until all devices have equally many."""
        missing = -len(self.members) % len(self.setup.placement.devices)
        return [*self.members, *[self.members[-1]] * missing]

    def _evaluation(self, held_out: InMemory) -> Callable[[TrainState], list[dict[str, float]]]:
        """What measures every run on held-out examples, which are put in place now."""
        setup = self.setup
        metrics = (("loss", cross_entropy), *setup.program.metrics)
        evaluate = make_evaluate_many(setup.program, setup.normalization, metrics, setup.placement)
        examples = held_out.examples
        indices = jnp.asarray(padded_batches(examples, min(EVALUATION_BATCH, examples)))
        images, labels = jnp.asarray(held_out.images), jnp.asarray(held_out.labels)

        def measure(state: TrainState) -> list[dict[str, float]]:
            for _, hooks in self.members:
                hooks.on_test_begin()
            sums = evaluate(state.params["model"], state.variables["model"], images, labels, indices)
            means = {f"val_{name}": np.asarray(total) / examples for name, total in sums.items()}
            found = [{name: float(values[i]) for name, values in means.items()} for i in range(len(self.members))]
            for (_, hooks), own in zip(self.members, found, strict=True):
                hooks.on_test_end(own)
            return found

        return measure


def together(members: Sequence[Member], source: InMemory) -> list[Together]:
    """Groups runs that can be trained as one program.

    Those of one seed share their batches. Those that are the only ones of their seed make a group in which each has
    its own.

    Raises:
      ValueError: a run cannot be on one device.
    """
    groups: dict[tuple, dict[int, list[Member]]] = {}
    for member in members:
        state, setup = member.run.compiled_state(), member.run.setup(source)
        _check_whole_runs(setup)
        alike = (setup, int(state.epoch), id(getattr(member.run, "teacher", None)))
        groups.setdefault(alike, {}).setdefault(seed_of(state), []).append(member)
    found = []
    for (setup, *_), by_seed in groups.items():
        single = [member for same in by_seed.values() if len(same) == 1 for member in same]
        found += [Together(setup, tuple(same)) for same in by_seed.values() if len(same) > 1]
        found += [Together(setup, tuple(single))] if single else []
    return found


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
