"""Cut an epoch into compiled calls, on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.data import StreamedDataset
from jaxkd.data.sampling import TrainingPlan, balanced_order
from jaxkd.nn.convolution import slow_in_a_loop
from jaxkd.training.cached_teacher import CachedTeacher, CacheRequest, open_cached_teacher
from jaxkd.training.compiled_epoch import (
    LookAhead,
    chunk_length,
    look_ahead_of,
    make_resident_loop,
    make_stream_loop,
)
from jaxkd.training.gradient_accumulation import check_microbatches
from jaxkd.training.inputs import InMemory, Source, Stream, add_step_axis
from jaxkd.training.program import Augment, Program
from jaxkd.training.sharding import Placement
from jaxkd.training.state import SHUFFLE, TrainState, copied, random_key
from jaxkd.training.step import Logs, Step, make_step
from jaxkd.types import Batch, Normalizer

CPU_STEPS = 100
"""About how many steps the CPU takes before it reports, where a loop suits it; an epoch is minutes there."""


class Chunk(NamedTuple):
    """Some steps of an epoch, ready to run.

    Attributes:
      loop: the compiled loop, called as `loop(state, *inputs)`.
      inputs: what it takes its steps on.
      batch_size: examples per step.
    """

    loop: Callable[..., tuple[TrainState, Logs]]
    inputs: tuple[Any, ...]
    batch_size: int

    def run(self, state: TrainState) -> tuple[TrainState, Logs]:
        """Take the steps; return the next state and the logs of each step, `[S]`."""
        return self.loop(state, *self.inputs)


Epoch = Callable[[TrainState, int], Iterator[Chunk]]
"""Gives the chunks of the epoch that a state is in, after so many of its steps."""


def resident_epoch(
    step: Step,
    source: InMemory,
    placement: Placement,
    batch_size: int,
    steps: int | None,
    strong_view: Augment | None = None,
    cached_teacher: CachedTeacher | None = None,
    look_ahead: LookAhead | None = None,
    cut_runs: bool = False,
) -> Epoch:
    """Make epochs over arrays that are put on the device once, in an order drawn from the state.

    With a `cached_teacher`, its outputs for a chunk are looked up while the chunk before is computed. Where it is the
    runs that are cut over the devices (`cut_runs`), every device takes whole batches.
    """
    place = placement.replicate if cut_runs else placement.shard
    if cut_runs and look_ahead is not None:
        look_ahead = look_ahead.shared_by(len(placement.devices))
    packed = placement.devices[0].platform != "cpu" and not cut_runs
    make_loop = partial(
        make_resident_loop, step, source.augmentation, strong_view, look_ahead=look_ahead, packed=packed
    )
    images, labels = placement.replicate((source.images, source.labels))
    most = chunk_steps(source, placement, batch_size, steps)

    def longest(state: TrainState) -> int | None:
        if steps or placement.devices[0].platform != "cpu" or most in (None, 1):
            return most
        # What is traced here is compiled next, unless it must not be a loop.
        indices = np.zeros((most, batch_size), np.int32)
        chosen = place((indices, cached_teacher.zeros(indices.shape) if cached_teacher else None))
        return 1 if slow_in_a_loop(make_loop().trace(state, images, labels, *chosen).jaxpr.jaxpr) else most

    def epoch(state: TrainState, done: int = 0) -> Iterator[Chunk]:
        taken, key = int(state.step), copied(state.key)  # the state's own buffers go to the first chunk
        order = order_of(key, state.epoch, source)
        for indices in skip(cut(order, batch_size, longest(state)), done):
            cached = cached_teacher.lookup(key, images, taken, indices) if cached_teacher else None
            taken += len(indices)
            size = indices.shape[1]
            loop = make_loop(trim=None if cut_runs else placement.trim(size))
            yield Chunk(loop, (images, labels, *place((indices, cached))), size)

    return epoch


def stream_epoch(step: Step, source: Stream, placement: Placement, strong_view: Augment | None = None) -> Epoch:
    """Make epochs over the user's own batches from the host, one step each."""

    def epoch(state: TrainState, done: int = 0) -> Iterator[Chunk]:
        empty = True
        for number, batch in enumerate(source):
            empty = False
            if number >= done:
                size = len(batch.labels)
                loop = make_stream_loop(step, strong_view, placement.trim(size))
                yield Chunk(loop, (placement.shard(add_step_axis(batch)),), size)
        if empty:
            raise ValueError(
                "the iterable of batches gave none: it must be iterable again every epoch, which a generator is not; "
                "give a list or a loader"
            )

    return epoch


def streamed_epoch(
    step: Step,
    source: StreamedDataset,
    placement: Placement,
    batch_size: int,
    last: int,
    strong_view: Augment | None = None,
) -> Epoch:
    """Make epochs over images that are read while the device computes, one step each.

    Reading runs on into the following epochs: nothing waits where one ends. Each process reads its own share.

    Args:
      step: of the run.
      source: what is read.
      placement: where the run's arrays live.
      batch_size: over all devices.
      last: the epoch before which training ends, counted from 0.
      strong_view: called as `(key, images)`.
    """
    reader: Iterator[Batch] = iter(())
    due: tuple[int, int] | None = None  # the epoch and step that the reader gives next

    def epoch(state: TrainState, done: int = 0) -> Iterator[Chunk]:
        nonlocal reader, due
        number = int(state.epoch)
        labels = source.labels if source.balanced else None
        plan = TrainingPlan(len(source), batch_size, seed_of(state), number, last - number, placement.share, labels)
        if due != (number, done):
            reader = source.batches(plan, train=True, start=done)
        for position in range(done, plan.steps):
            due = None  # whatever goes wrong, this reader is not asked again
            batch, size = next(reader), plan.size(position)
            due = (number, position + 1) if position + 1 < plan.steps else (number + 1, 0)
            loop = make_stream_loop(step, strong_view, placement.trim(size))
            yield Chunk(loop, (placement.shard_of_process(add_step_axis(batch), size),), size)

    return epoch


@dataclass(frozen=True)
class BoundProgram:
    """A program with all else that a compiled epoch depends on; runs with equal ones can share it.

    Attributes:
      program: what the step closes over.
      normalization: of the images of the network that is trained.
      teacher_normalization: of the teacher's.
      placement: where the arrays live.
      steps_per_execution: how many steps one compiled call takes; None chooses.
    """

    program: Program
    normalization: Normalizer | None
    teacher_normalization: Normalizer | None
    placement: Placement
    steps_per_execution: int | None

    def step(self) -> Step:
        """Return the step of one run."""
        return make_step(self.program, self.normalization, self.teacher_normalization)

    def epochs(
        self,
        step: Step,
        state: TrainState,
        source: Source,
        batch_size: int,
        last: int,
        cache: CacheRequest,
        verbose: bool,
        in_memory: Callable[..., Epoch] = resident_epoch,
    ) -> tuple[Epoch, CachedTeacher | None]:
        """Put the data in place.

        Args:
          step: of the run, or of several runs at once.
          state: of one run; the teacher and the shapes of the losses' inputs are taken from it.
          source: the data.
          batch_size: over all devices.
          last: the epoch before which training ends, counted from 0.
          cache: whether and where the teacher's outputs are cached.
          verbose: whether to say what the cache takes.
          in_memory: how to go over data that stay on the device.

        Returns:
          What gives the chunks of each epoch, and the teacher whose outputs are cached, if they are.

        Raises:
          ValueError: for a batch that does not divide over the devices or into microbatches, or a teacher's outputs
            that cannot be cached.
        """
        cached_teacher = self.cached_teacher(state, source, batch_size, cache, verbose)
        strong_view = self.program.strong_view
        if isinstance(source, Stream):
            return stream_epoch(step, source, self.placement, strong_view), None
        if isinstance(source, StreamedDataset):
            return streamed_epoch(step, source, self.placement, batch_size, last, strong_view), None
        look_ahead = None
        if cached_teacher is None:
            look_ahead = look_ahead_of(self.program, self.normalization, self.teacher_normalization, self.placement)
        return in_memory(
            step, source, self.placement, batch_size, self.steps_per_execution, strong_view, cached_teacher, look_ahead
        ), cached_teacher

    def cached_teacher(
        self, state: TrainState, source: Source, batch_size: int, cache: CacheRequest, verbose: bool
    ) -> CachedTeacher | None:
        """Check how batches are cut, and return the teacher whose outputs are cached, if they are; see `epochs`.

        Raises:
          ValueError: as `epochs`.
        """
        microbatches, bn_mesh = self.program.microbatches, self.program.bn_mesh
        if not isinstance(source, Stream):  # which brings batches of its own
            self.placement.check_batch_size(batch_size)
            check_microbatches(batch_size, microbatches, 1 if bn_mesh is None else bn_mesh.size)
        return open_cached_teacher(
            cache,
            verbose,
            program=self.program,
            state=state,
            normalization=self.teacher_normalization,
            source=source,
            placement=self.placement,
            batch_size=self.placement.padded(-(-batch_size // microbatches)),
        )


def seed_of(state: TrainState) -> int:
    """Return the run's key as a whole number, for what is drawn on the host."""
    return int.from_bytes(np.asarray(jax.random.key_data(state.key)).tobytes(), "little")


def order_of(key: jax.Array, epoch: jax.Array, source: InMemory) -> np.ndarray:
    """Return the order in which a run sees the examples in an epoch, `[N]`, from its key."""
    if source.balanced:
        seed = np.asarray(jax.random.key_data(random_key(key, SHUFFLE, epoch)))
        return balanced_order(source.labels, np.random.default_rng(seed))
    return np.asarray(_drawn_order(key, epoch, source.examples))


@partial(jax.jit, static_argnums=2)
def _drawn_order(key: jax.Array, epoch: jax.Array, examples: int) -> jax.Array:
    return jax.random.permutation(random_key(key, SHUFFLE, epoch), jnp.arange(examples))


def cut(order: np.ndarray, batch_size: int, steps: int | None) -> Iterator[np.ndarray]:
    """Cut an epoch into `[S, B]` index arrays of at most `steps` steps, the last smaller batch by itself.

    Example:
      >>> [indices.shape for indices in cut(np.arange(23), batch_size=5, steps=None)]
      [(4, 5), (1, 3)]
    """
    full = len(order) // batch_size
    batches = order[: full * batch_size].reshape(full, batch_size)
    size = steps or max(full, 1)
    yield from (batches[start : start + size] for start in range(0, full, size))
    if len(order) % batch_size:
        yield order[None, full * batch_size :]


def skip(chunks: Iterator[np.ndarray], steps: int) -> Iterator[np.ndarray]:
    """Yield what is left of an epoch's `[S, B]` arrays after some steps.

    Example:
      >>> [indices.shape for indices in skip(cut(np.arange(23), batch_size=5, steps=2), steps=3)]
      [(1, 5), (1, 3)]
    """
    for indices in chunks:
        if steps < len(indices):
            yield indices[steps:]
        steps = max(steps - len(indices), 0)


def chunk_steps(source: InMemory, placement: Placement, batch_size: int, steps: int | None) -> int | None:
    """Return how many steps a compiled call takes at most; None where that is the whole epoch.

    Args:
      source: the data.
      placement: where the run's arrays live.
      batch_size: over all devices.
      steps: what the user asked for.
    """
    if steps or placement.devices[0].platform != "cpu":
        return steps
    return chunk_length(source.examples // batch_size, CPU_STEPS)


def check_same_batches(resumed: Mapping[str, Any] | None, examples: int | None, batch_size: int) -> None:
    """Refuse to resume within an epoch that was cut into other batches.

    Raises:
      ValueError: it says what the batches were.
    """
    if resumed is None or examples is None:
        return
    steps, images = (resumed["meter"][name] for name in ("steps", "images"))
    if images != min(steps * batch_size, examples):
        raise ValueError(
            f"batch_size={batch_size} of {examples} examples, but the restored epoch was broken off after {images} in "
            f"{steps} steps: resume with the same batch size and data"
        )
