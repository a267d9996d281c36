"""An epoch as a compiled program: shuffling, augmenting, normalising and training without leaving the device.

Small networks leave accelerators idle: a GPU starts hundreds of kernels a step that take less time than their start, a
TPU has room for more images than a batch has. There the teacher, which does not depend on the student, sees the batches
of several steps at once (`LookAhead`), and short vectors are updated as one array (`_packing`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx
from jax.stages import Wrapped

from jaxkd.training.forward import still_pixels
from jaxkd.training.program import Augment, Program
from jaxkd.training.sharding import Placement, Trim
from jaxkd.training.state import AUGMENT, TrainState, Tree, random_key
from jaxkd.training.step import CachedOutputs, Known, Logs, Step, make_prepare, make_teacher_forward
from jaxkd.types import Batch, Normalizer, Outputs

PIXELS = 1024 * 32 * 32
"""That the teacher sees at once on a device, at most, so that what it computes of them stays small: 1,024 of CIFAR's
images, where a TPU's lanes are long full and the teacher's kernels are few among the student's."""

SHORT = 4096
"""The longest vector that is laid end to end with others; copying it costs less than starting a kernel."""


def view_key(key: jax.Array, step: jax.Array) -> jax.Array:
    """Return the key that draws the views of a step's images, so that a step's views are known before it is taken."""
    return _augmentation_keys(key, step)[0]


def _augmentation_keys(key: jax.Array, step: jax.Array) -> jax.Array:
    return jax.random.split(random_key(key, AUGMENT, step), 3)


@dataclass(frozen=True)
class LookAhead:
    """Show the batches of several steps to the teacher at once, before the student takes the steps.

    Attributes:
      program: of the run.
      normalization: of the student's images.
      teacher_normalization: of the teacher's.
      pixels: how many it sees at once, at most.
    """

    program: Program
    normalization: Normalizer | None
    teacher_normalization: Normalizer | None
    pixels: int

    def shared_by(self, count: int) -> LookAhead:
        """Return the same for so many that are computed at once where there is room for one."""
        return replace(self, pixels=self.pixels // count)

    def steps(self, shape: tuple[int, ...], image_shape: tuple[int, ...], teacher: Tree) -> int:
        """Return of how many steps the teacher sees the batches at once.

        Args:
          shape: `[S, B]`, of the indices of all the steps.
          image_shape: `(H, W, C)`.
          teacher: its variables.
        """
        steps, batch_size = shape
        assert self.program.teacher is not None  # else nobody looks ahead
        parts = nnx.iter_modules(nnx.merge(self.program.teacher, teacher))
        resized = max(getattr(part, "resize_to", None) or 0 for _, part in parts)
        height, width = (max(side, resized) for side in image_shape[:2])
        return chunk_length(steps, max(self.pixels // (batch_size * height * width), 1))

    def __call__(self, state: TrainState, batches: Batch) -> tuple[Batch, Known]:
        """Return the batches of the next k steps, prepared, and the teacher's outputs for them; all arrays `[k, …]`.

        As given, and None, where a network of the user's own returns what is not known to be a row for each image.
        """
        count, prepared = len(batches.labels), batches
        if self.program.augment or self.program.mixing is not None:
            prepare = make_prepare(self.program, self.normalization)
            at_steps = (state.step + jnp.arange(count), batches)
            prepared = jax.lax.map(lambda x: prepare(replace(state, step=x[0]), x[1]), at_steps)
        rows = jax.tree.map(_flattened, prepared)
        outputs = make_teacher_forward(self.program, self.teacher_normalization)(state.teacher, rows, None)
        known = None if outputs is None else _of_steps(outputs, count, len(rows.labels))
        return batches if known is None else prepared, known


def look_ahead_of(
    program: Program,
    normalization: Normalizer | None,
    teacher_normalization: Normalizer | None,
    placement: Placement,
) -> LookAhead | None:
    """Return how the teacher looks ahead on these devices; None where that does not pay.

    CPUs are busy with a batch as it is, and microbatches are for networks that hardly fit into memory.
    """
    if placement.devices[0].platform == "cpu" or program.teacher is None or program.microbatches > 1:
        return None
    return LookAhead(program, normalization, teacher_normalization, PIXELS * len(placement.devices))


def _flattened(rows: jax.Array) -> jax.Array:
    """Return `[k, B, …]` as `[B · k, …]`, which stays cut over the devices as B is."""
    return rows.swapaxes(0, 1).reshape(-1, *rows.shape[2:])


def _of_steps(outputs: Outputs, count: int, rows: int) -> Outputs | None:
    """Return outputs for `_flattened` rows by steps; the weights of a classifier are repeated for each."""
    by_row = outputs._replace(classify=None, strong=None, each=())
    each = [_of_steps(one, count, rows) for one in outputs.each]
    if outputs.others is not None or any(leaf.shape[:1] != (rows,) for leaf in jax.tree.leaves(by_row)):
        return None
    of_each = tuple(one for one in each if one is not None)
    if len(of_each) < len(each):
        return None
    by_step = jax.tree.map(lambda leaf: leaf.reshape(-1, count, *leaf.shape[1:]).swapaxes(0, 1), by_row)
    classify = jax.tree.map(lambda weights: jnp.broadcast_to(weights, (count, *weights.shape)), outputs.classify)
    by_step = by_step._replace(classify=classify, each=of_each)
    if outputs.strong is None:
        return by_step
    strong = _of_steps(outputs.strong, count, rows)
    return None if strong is None else by_step._replace(strong=strong)


def chunk_length(steps: int, most: int) -> int:
    """Return the largest number of steps up to `most` that divides an epoch of `steps` steps: one program serves.

    Falls back to `most`, at the price of one more compilation for the remainder, where only small divisors exist.

    Example:
      >>> chunk_length(781, 100), chunk_length(22, 100), chunk_length(211, 100)
      (71, 22, 100)
    """
    limit = min(steps, most)
    best = max((size for size in range(1, limit + 1) if steps % size == 0), default=1)
    return best if 4 * best >= limit else most


@functools.lru_cache(maxsize=32)
def make_resident_loop(
    step: Step,
    augment: Augment | None,
    strong_view: Augment | None = None,
    trim: Trim | None = None,
    look_ahead: LookAhead | None = None,
    packed: bool = False,
) -> Wrapped:
    """Build `run(state, images, labels, indices, cached=None) -> (state, logs)` for data that live on the device.

    `augment` and `strong_view` are called as `(key, images)`. `indices` is `[S, B]`: the program takes S steps on the
    batches they select; `cached` is what is known of the teacher's outputs for them, `[S, B, …]`. The logs are `[S]`.
    `trim` takes off the rows that batches were filled up with. With `look_ahead` the teacher sees the batches of
    several steps at once; with `packed`, short vectors of the state are updated together.
    """
    return jax.jit(resident_steps(step, augment, strong_view, trim, look_ahead, packed), donate_argnums=0)


def resident_steps(
    step: Step,
    augment: Augment | None,
    strong_view: Augment | None = None,
    trim: Trim | None = None,
    look_ahead: LookAhead | None = None,
    packed: bool = False,
) -> Step:
    """Build what `make_resident_loop` compiles."""

    def run(
        state: TrainState, images: jax.Array, labels: jax.Array, indices: jax.Array, cached: CachedOutputs | None = None
    ) -> tuple[TrainState, Logs]:
        def batch_of(key: jax.Array, number: jax.Array, index: jax.Array) -> Batch:
            chosen = images[index]
            seen = augment(view_key(key, number), chosen) if augment else chosen
            batch = Batch(seen, labels[index], index)
            if strong_view is not None:
                _, crop, strong = _augmentation_keys(key, number)
                weak = augment(crop, chosen) if augment else chosen
                batch = batch._replace(strong=still_pixels(strong_view(strong, weak), weak, strong_view))
            return batch

        def one_step(state: TrainState, x: tuple[jax.Array, CachedOutputs | None]) -> tuple[TrainState, Logs]:
            index, known = trim(x) if trim else x
            batch = batch_of(state.key, state.step, index)
            return step(state, trim(batch) if trim else batch, known)

        def block(state: TrainState, indices: jax.Array) -> tuple[TrainState, Logs]:
            """Take some steps `[k, B]` after a look at their batches."""
            numbers = state.step + jnp.arange(len(indices))
            batches = jax.vmap(functools.partial(batch_of, state.key))(numbers, indices)
            batches, known = (batches, None) if look_ahead is None else look_ahead(state, batches)
            return _scan(lambda state, x: step(state, *x), state, (batches, known), packed)

        ahead = 1
        if look_ahead is not None and cached is None and trim is None:
            ahead = look_ahead.steps(indices.shape, images.shape[1:], state.teacher)
        if ahead == 1:
            return _scan(one_step, state, (indices, cached), packed)
        whole = len(indices) - len(indices) % ahead
        state, logs = _scan(block, state, indices[:whole].reshape(-1, ahead, indices.shape[1]), packed)
        logs = {name: values.reshape(whole, *values.shape[2:]) for name, values in logs.items()}
        if whole < len(indices):
            state, rest = block(state, indices[whole:])
            logs = {name: jnp.concatenate([values, rest[name]]) for name, values in logs.items()}
        return state, logs

    return run


@functools.lru_cache(maxsize=32)
def make_stream_loop(step: Step, strong_view: Augment | None = None, trim: Trim | None = None) -> Wrapped:
    """Build `run(state, batches) -> (state, logs)` for batches that come from the host, stacked to `[S, B, …]`.

    Where pixels come without a strong view, it is made of them. `trim` takes off the rows that batches were filled up
    with.
    """

    def run(state: TrainState, batches: Batch) -> tuple[TrainState, Logs]:
        def body(state: TrainState, batch: Batch) -> tuple[TrainState, Logs]:
            batch = trim(batch) if trim else batch
            if strong_view is not None and batch.strong is None and batch.images.dtype == jnp.uint8:
                _, _, strong = _augmentation_keys(state.key, state.step)
                view = still_pixels(strong_view(strong, batch.images), batch.images, strong_view)
                batch = batch._replace(strong=view)
            return step(state, batch)

        return _scan(body, state, batches)

    return jax.jit(run, donate_argnums=0)


def _scan(body: Step, state: TrainState, xs: Tree, packed: bool = False) -> tuple[TrainState, Logs]:
    """Scan with the teacher outside the carry: it is constant, and XLA should know.

    The logs of a step are written as one array, not by a kernel for each.
    """
    teacher = state.teacher
    names: list[str] = []
    pack, unpack = _packing(state.without_teacher()) if packed else (_as_it_is, _as_it_is)

    def without_teacher(carry: Tree, x: Tree) -> tuple[Tree, jax.Array]:
        after, logs = body(replace(unpack(carry), teacher=teacher), x)
        names[:] = logs
        return pack(after.without_teacher()), jnp.stack([jnp.asarray(value, jnp.float32) for value in logs.values()])

    first = pack(state.without_teacher())
    if len(jax.tree.leaves(xs)[0]) == 1:  # no loop at all, so that nothing is compiled for one (see `slow_in_a_loop`)
        after, values = without_teacher(first, jax.tree.map(lambda leaf: leaf[0], xs))
        values = values[None]
    else:
        after, values = jax.lax.scan(without_teacher, first, xs)
    return replace(unpack(after), teacher=teacher), {name: values[:, i] for i, name in enumerate(names)}


def _as_it_is(tree: Tree) -> Tree:
    return tree


def _packing(like: Tree) -> tuple[Callable[[Tree], Tree], Callable[[Tree], Tree]]:
    """Return how pytrees like this one are packed and unpacked: their short vectors are laid end to end.

    Each step updates the scales, biases and running statistics of every BatchNorm; so it takes one kernel to write
    them. Longer arrays would have to be copied out of the whole before they can be used.
    """
    leaves, structure = jax.tree.flatten(like)
    short = [leaf.ndim == 1 and leaf.dtype == jnp.float32 and leaf.size <= SHORT for leaf in leaves]
    if sum(short) < 2:
        return _as_it_is, _as_it_is
    cuts = list(itertools.accumulate(leaf.size for leaf, is_short in zip(leaves, short, strict=True) if is_short))

    def pack(tree: Tree) -> Tree:
        given = list(zip(jax.tree.leaves(tree), short, strict=True))
        vectors = jnp.concatenate([leaf for leaf, is_short in given if is_short])
        return vectors, [leaf for leaf, is_short in given if not is_short]

    def unpack(packed: Tree) -> Tree:
        vectors, others = iter(jnp.split(packed[0], cuts[:-1])), iter(packed[1])
        return jax.tree.unflatten(structure, [next(vectors if is_short else others) for is_short in short])

    return pack, unpack


def end_epoch(state: TrainState) -> TrainState:
    """Count one more completed epoch."""
    return replace(state, epoch=state.epoch + 1)
