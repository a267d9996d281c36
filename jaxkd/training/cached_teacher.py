"""A teacher whose outputs are cached: the views of a batch are looked up, and computed where they are new."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.stages import Wrapped

from jaxkd.data import Augmentation, StreamedDataset
from jaxkd.training.compiled_epoch import view_key
from jaxkd.training.inputs import Source, Stream
from jaxkd.training.program import Program
from jaxkd.training.sharding import Placement
from jaxkd.training.state import TrainState, Tree, copied, fingerprint
from jaxkd.training.step import CachedOutputs, make_grad_fn, make_teacher_forward
from jaxkd.training.teacher_cache import OwnCache, TeacherCache, in_words
from jaxkd.types import Batch, Normalizer, Outputs


class CacheRequest(NamedTuple):
    """The option of `compile` to cache the teacher's outputs.

    Attributes:
      cache: where; None does not.
      required: whether it is an error if they cannot be cached.
    """

    cache: TeacherCache | None
    required: bool


def parse_cache_option(option: bool | str | TeacherCache, has_teacher: bool) -> CacheRequest:
    """Read the option `cache_teacher`.

    Raises:
      ValueError: it is none of True, False, "auto" and a cache, or there is no teacher.
    """
    if option is False:
        return CacheRequest(None, False)
    if not isinstance(option, TeacherCache) and option is not True and option != "auto":
        raise ValueError(f"cache_teacher={option!r}: give True, False, 'auto' or a jaxkd.TeacherCache")
    if not has_teacher:
        raise ValueError(f"cache_teacher={option!r}, but there is no teacher: that is for a Distiller")
    return CacheRequest(option if isinstance(option, TeacherCache) else OwnCache(), option != "auto")


def open_cached_teacher(request: CacheRequest, verbose: bool, **run: Any) -> CachedTeacher | None:
    """Return the cached teacher asked for, or None; `run` holds the other arguments of `CachedTeacher`."""
    if request.cache is None:
        return None
    try:
        cached_teacher = CachedTeacher(request.cache, **run)
    except (ValueError, MemoryError) as error:
        if request.required:
            raise type(error)(f"cache_teacher: {error}; leave it out, or give 'auto', which goes without one") from None
        cached_teacher = None
        message = f"teacher cache: off, because {error}"
    else:
        message = str(cached_teacher)
    if verbose:
        print(message, flush=True)
    return cached_teacher


class Kept(NamedTuple):
    """What is kept of a network's outputs: its logits always, and what losses read besides.

    Attributes:
      embedding: whether the last of its features is kept.
      each: of several networks in one, what is kept of each; None for nothing.
    """

    embedding: bool
    each: tuple[Kept | None, ...] = ()

    @classmethod
    def of(cls, read: set[str], networks: int) -> Kept:
        """Return what to keep of a teacher of so many networks, for the parts that `teacher_reads` found."""
        inside = [{part.partition(f"each.{i}.")[2] for part in read} - {""} for i in range(networks)]
        return cls("embedding" in read, tuple(cls.of(parts, 0) if parts else None for parts in inside))

    def arrays(self, outputs: Outputs) -> list[jax.Array]:
        """Return the arrays `[B, …]` that are kept, in the order in which `parted` takes them."""
        own = [outputs.logits, *([outputs.features[-1]] if self.embedding else [])]
        inside = zip(outputs.each, self.each, strict=True) if self.each else ()
        return [*own, *(array for one, known in inside if known for array in known.arrays(one))]

    def parted(self, arrays: Iterator[Any]) -> CachedOutputs:
        """Return the outputs that such arrays are."""
        own = next(arrays), (next(arrays) if self.embedding else None)
        return CachedOutputs(*own, tuple(known.parted(arrays) if known else None for known in self.each))


class CachedTeacher:
    """Look up a teacher's outputs in a cache, and compute those that are not there.

    What it keeps is what the teacher says in batches of `batch_size`. A step that asks the teacher itself may be told
    other last bits, above all where its batch is smaller, at the end of an epoch or in parts: XLA chooses kernels by
    shape.

    Args:
      cache: where they are kept.
      program: of the run.
      state: of the run; the teacher's variables are taken from it.
      normalization: of the teacher's images.
      source: the data.
      placement: where the run's arrays live.
      batch_size: how many views the teacher is shown at once.

    Raises:
      ValueError: the outputs cannot be kept; the message says what stands in the way.
      MemoryError: there is no room.
    """

    def __init__(
        self,
        cache: TeacherCache,
        program: Program,
        state: TrainState,
        normalization: Normalizer | None,
        source: Source,
        placement: Placement,
        batch_size: int,
    ):
        if isinstance(source, StreamedDataset):
            raise ValueError("images that are read from files are cropped at random, in too many ways to keep")
        if isinstance(source, Stream):
            raise ValueError("a stream of batches does not say which view of which image it gives")
        if len(placement.processes) > 1:
            raise ValueError(f"each of {len(placement.processes)} processes would have to keep all of them")
        if program.strong_view is not None:
            raise ValueError(f"the views that {program.strong_view} makes cannot be numbered")
        if program.augment:
            raise ValueError(
                f"{', '.join(map(str, program.augment))} makes new views in every step, in too many ways to keep"
            )
        if program.mixing is not None:
            raise ValueError("mixed images are new ones in every step")
        augmentation = source.augmentation
        read, outputs = teacher_reads(program, state, source.images.shape[1:])
        if any("maps" in part for part in read):
            raise ValueError("a loss reads the teacher's feature maps, which are too large to keep")
        self.cache, self._found, self._asked = cache, 0, 0
        self._views = 1 if augmentation is None else augmentation.views
        self._kept = Kept.of(read, len(outputs.each))
        self._widths = [array.shape[-1] for array in self._kept.arrays(outputs)]
        self._width = sum(self._widths)
        self._augmentation, self._placement, self._batch_size = augmentation, placement, batch_size
        self._teacher_fn = make_teacher_fn(program, normalization, augmentation, self._kept)
        self._teacher = copied(state.teacher)  # the state's own buffers go to the next compiled chunk
        cache.open(
            {
                "teacher": fingerprint(jax.tree.leaves(state.teacher)),
                "images": fingerprint([source.images]),
                "normalization": str(normalization),
                "augmentation": str(augmentation),
                "precision": program.precision,
                **({"choice of outputs": str(self._kept)} if any(self._kept.each) else {}),  # another may be as wide
                **({"options of the teacher": "; ".join(options)} if (options := options_of(program, state)) else {}),
            },
            slots=len(source.labels) * self._views,
            width=self._width,
        )

    def __str__(self) -> str:
        room = f"{self._views} views an image, {self._width} numbers each in {self.cache.dtype.name}"
        where = "in memory" if self.cache.directory is None else f"in {self.cache.directory}"
        return f"teacher cache {where}: up to {in_words(self.cache.bytes)} ({room}), {self.cache.filled:.1%} filled"

    def lookup(self, key: jax.Array, images: jax.Array, first_step: int, indices: np.ndarray) -> CachedOutputs:
        """Return the teacher's outputs for the batches of some steps.

        Args:
          key: the run's.
          images: all of them, on the device.
          first_step: the number of steps taken before these.
          indices: `[S, B]`, which images the steps train on.

        Returns:
          Arrays `[S, B, …]` on the host.
        """
        steps = jnp.arange(first_step, first_step + len(indices), dtype=jnp.int32)
        numbers = 0 if self._augmentation is None else _numbers(self._augmentation, indices.shape[1], key, steps)
        slots = indices.astype(np.int64) * self._views + np.asarray(numbers)
        missing = np.unique(slots[~self.cache.has(slots)])
        self._found += slots.size - len(missing)
        self._asked += slots.size
        self._see(images, missing)
        return self._parted(self.cache.read(slots))

    def zeros(self, shape: tuple[int, ...]) -> CachedOutputs:
        """Return zeros of the form that `lookup` has for indices of a shape `[S, B]`."""
        return self._parted(np.zeros((*shape, self._width), np.float32))

    def _parted(self, values: np.ndarray) -> CachedOutputs:
        return self._kept.parted(iter(np.split(values, np.cumsum(self._widths)[:-1], axis=-1)))

    def hit_rate(self) -> float:
        """Return the share of views that were in the cache since this was last asked."""
        rate = self._found / max(self._asked, 1)
        self._found = self._asked = 0
        return rate

    def _see(self, images: jax.Array, missing: np.ndarray) -> None:
        """Compute what is missing, one batch while the one before is stored."""
        waiting: list[tuple[np.ndarray, jax.Array]] = []
        for start in range(0, len(missing), self._batch_size):
            slots = missing[start : start + self._batch_size]
            padded = np.resize(slots, self._batch_size)  # repeats the first ones: every batch has the same shape
            index, number = np.divmod(padded, self._views)
            which = self._placement.shard((index[None].astype(np.int32), number[None].astype(np.int32)))
            waiting.append((slots, self._teacher_fn(self._teacher, images, *which)))
            if len(waiting) > 1:
                self._put_away(*waiting.pop(0))
        for pair in waiting:
            self._put_away(*pair)

    def _put_away(self, slots: np.ndarray, outputs: jax.Array) -> None:
        self.cache.write(slots, np.asarray(outputs)[: len(slots)])


_SAID_ELSEWHERE = (
    *("name", "num_classes", "image_shape", "normalization", "average"),
    *("deterministic", "use_running_average", "_length"),
)
"""Attributes that change no outputs in evaluation, or are among what a cache holds by themselves."""


def options_of(program: Program, state: TrainState) -> list[str]:
    """Return by what else than its weights a teacher's outputs may differ from another's, in words.

    That is the size it resizes images to, and of networks that are not of the zoo each number, text and tuple of these
    among the attributes of their layers.
    """
    assert program.teacher is not None
    parts = list(nnx.iter_modules(nnx.merge(program.teacher, state.teacher)))
    zoo = [path for path, part in parts if getattr(part, "heeds_mode", False)]
    found = []
    for path, part in parts:
        own = not any(path[: len(root)] == root for root in zoo)
        for name, value in vars(part).items():
            if (own and name not in _SAID_ELSEWHERE and _is_plain(value)) or (name == "resize_to" and value):
                found.append(f"{'.'.join(map(str, (*path, name)))}={value}")
    return sorted(found)


def _is_plain(value: Any) -> bool:
    kinds = bool | int | float | str
    return isinstance(value, kinds | tuple) and all(isinstance(leaf, kinds) for leaf in jax.tree.leaves(value))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _numbers(augmentation: Augmentation, batch_size: int, key: jax.Array, steps: jax.Array) -> jax.Array:
    """Return the views that the steps will draw, `[S, B]`."""
    return jax.vmap(lambda step: augmentation.draw(view_key(key, step), batch_size))(steps)


@functools.lru_cache(maxsize=32)
def make_teacher_fn(
    program: Program, normalization: Normalizer | None, augmentation: Augmentation | None, kept: Kept
) -> Wrapped:
    """Build `teacher_fn(variables, images, index [1, B], number [1, B]) -> [B, width]`, for views of images."""
    teacher_forward = make_teacher_forward(program, normalization)

    @jax.jit
    def show(variables: Tree, images: jax.Array, index: jax.Array, number: jax.Array) -> jax.Array:
        chosen = images[index[0]]
        seen = chosen if augmentation is None else augmentation.view(chosen, number[0])
        outputs = teacher_forward(variables, Batch(seen, index[0], index[0]), None)
        assert outputs is not None
        return jnp.concatenate(kept.arrays(outputs), axis=-1)

    return show


def teacher_reads(program: Program, state: TrainState, image_shape: tuple[int, ...]) -> tuple[set[str], Outputs]:
    """Find which parts of the teacher's outputs enter the losses, by tracing a step.

    Args:
      program: of a run with a teacher.
      state: of the run.
      image_shape: `(H, W, C)`.

    Returns:
      Of "logits", "embedding" (the last of the features), "maps" (all others) and "classify" those that are read, those
      of one of several networks as "each.0.logits"; and the shapes of the teacher's outputs for two images.
    """
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    batch = Batch(jax.ShapeDtypeStruct((2, *image_shape), jnp.float32), labels, labels)  # type: ignore[arg-type]
    teacher_forward, grad_fn = make_teacher_forward(program, None), make_grad_fn(program, None)
    outputs = jax.eval_shape(lambda variables, batch: teacher_forward(variables, batch, None), state.teacher, batch)
    assert outputs is not None
    traced = jax.make_jaxpr(lambda outputs, state, batch: grad_fn(state, batch, outputs))
    jaxpr = traced(outputs, state.without_teacher(), batch).jaxpr
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(outputs)]
    used = {id(var) for equation in jaxpr.eqns for var in equation.invars} | {id(var) for var in jaxpr.outvars}
    # The outputs come first among the arguments.
    read = {_part(path, outputs) for path, var in zip(paths, jaxpr.invars, strict=False) if id(var) in used}
    return read, outputs


def _part(path: tuple[Any, ...], outputs: Outputs) -> str:
    name: str = path[0].name
    if name == "each":
        place = path[1].idx
        return f"each.{place}.{_part(path[2:], outputs.each[place])}"
    if name == "features":
        return "embedding" if path[1].idx == len(outputs.features) - 1 else "maps"
    return name if name in ("logits", "classify") else "maps"
