"""Training programs for chips that are not there: built on the CPU, compiled for a topology of TPUs or GPUs.

The compilers are packages: `pip install "jaxkd[compilers]"`. A GPU is described to its compiler by a text, which lies
beside this module. Nothing is run.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from jax.stages import Lowered

import jaxkd
from benchmarks.hlo import work_of
from jaxkd import data, losses, models, optimizers, recipes
from jaxkd.metrics import accuracy
from jaxkd.training.compiled_epoch import look_ahead_of, make_resident_loop, make_stream_loop
from jaxkd.training.evaluation import make_evaluate
from jaxkd.training.program import Program
from jaxkd.training.sharding import REPLICATED, SHARDED, SHARDED_STEPS, Placement
from jaxkd.training.stacked_runs import make_stacked_step, owned, shared, stack
from jaxkd.training.step import make_step
from jaxkd.types import IMAGENET_NORMALIZATION, Batch

GIGA = 10**9
MEMORY = {"v5e": 16.9 * GIGA, "v6e": 33.5 * GIGA, "h100": 85.0 * GIGA, "h200": 151.3 * GIGA}
"""Bytes of each kind of chip that programs are compiled for."""

HERTZ = 1.5e9
"""Of a v5e; the compiler's estimates are in its cycles."""

EXAMPLES = 50_000
"""CIFAR's, whose images stay on the device."""

_TPU_GRIDS = {4: "2x2", 8: "2x4", 16: "4x4", 64: "8x8", 256: "16x16"}


def placement_on(kind: str, count: int) -> Placement:
    """Return where a run on so many chips of a kind would live.

    Raises:
      ValueError: for a kind or a number that there is no description of.
      RuntimeError: the compiler is not installed.
    """
    if kind not in MEMORY:
        raise ValueError(f"no description of {kind!r}; there is {', '.join(MEMORY)}")
    if not kind.startswith("v"):
        text = (pathlib.Path(__file__).parent / "gpus" / f"{kind}.txtpb").read_text()
        found = topologies.get_topology_desc(platform="cuda", target_config=text, topology=f"1x1x{count}")
    else:
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no cloud is asked where this runs
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        if count != 1 and count not in _TPU_GRIDS:
            raise ValueError(f"{count} chips: give 1 or one of {', '.join(map(str, _TPU_GRIDS))}")
        grid: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if count == 1 else {}
        name = f"{kind}:{_TPU_GRIDS.get(count, '1x1')}"
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **grid)
    devices: list[jax.Device] = list(found.devices)
    return Placement(sorted(devices, key=lambda device: (device.process_index, device.id)))


@dataclass(frozen=True)
class Compiled:
    """Figures that a compiler gives of a program.

    Attributes:
      memory: bytes that a chip needs for arguments, results and what lies between.
      milliseconds: a step, by a TPU compiler's estimate; None for GPUs.
      kernels: started in a step.
      collectives: exchanges in the program, by kind.
      unknown_loops: whose number of turns the compiler does not know.
      callbacks: to the host.
      seconds: that compiling took.
    """

    memory: int
    milliseconds: float | None
    kernels: float
    collectives: Mapping[str, int]
    unknown_loops: tuple[str, ...]
    callbacks: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def compiled(lowered: Lowered, steps: int) -> Compiled:
    """Compile a program of so many steps."""
    begun = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - begun
    text, needs = program.as_text() or "", program.memory_analysis()
    assert needs is not None
    work = work_of(text)
    return Compiled(
        needs.argument_size_in_bytes
        + needs.output_size_in_bytes
        - needs.alias_size_in_bytes
        + needs.temp_size_in_bytes,
        work.cycles / HERTZ / steps * 1e3 if work.cycles else None,
        work.kernels / steps,
        dict(work.collectives),
        work.unknown_loops,
        text.count("callback"),
        seconds,
    )


def distiller(
    method: str, teacher: str = "resnet8", student: str = "resnet8", classes: int = 100, side: int = 32, **options: Any
) -> jaxkd.Distiller:
    """Return a compiled run of a published method with untrained networks, on the CPU."""
    chosen = recipes.get_method(method)
    networks = [models.create(name, num_classes=classes, seed=seed) for seed, name in enumerate((student, teacher))]
    run = jaxkd.Distiller(student=networks[0], teacher=networks[1])
    pixels = np.arange(EXAMPLES * 3, dtype=np.uint8).reshape(EXAMPLES, 1, 1, 3)  # only the labels matter
    examples = data.from_arrays(pixels, np.arange(EXAMPLES) % classes)
    run.compile(
        optimizers.sgd(optimizers.step_decay(0.05), momentum=0.9, weight_decay=5e-4),
        chosen.losses(examples),
        chosen.weights,
        image_shape=(side, side, 3),
        devices=jax.devices()[:1],
        **options,
    )
    return run


def resident(run: jaxkd.Distiller, placement: Placement, batch_size: int, steps: int) -> Lowered:
    """Return the program of some steps on data that stay on the device."""
    program, trim = _program(run), placement.trim(batch_size)
    look_ahead = look_ahead_of(program, IMAGENET_NORMALIZATION, IMAGENET_NORMALIZATION, placement)
    loop = make_resident_loop(_step(run), data.Augmentation(), program.strong_view, trim, look_ahead, packed=True)
    images, labels = _images(placement, EXAMPLES)
    indices = _array(placement, (steps, placement.padded(batch_size)), jnp.int32, SHARDED_STEPS)
    return _lowered(loop, placement, _everywhere(placement, run.state), images, labels, indices)


def streamed(run: jaxkd.Distiller, placement: Placement, batch_size: int, side: int) -> Lowered:
    """Return the program of a step on images from the host."""
    loop = make_stream_loop(_step(run), _program(run).strong_view, placement.trim(batch_size))
    rows = 1, placement.padded(batch_size)
    images = _array(placement, (*rows, side, side, 3), jnp.uint8, SHARDED_STEPS)
    labels = _array(placement, rows, jnp.int32, SHARDED_STEPS)
    return _lowered(loop, placement, _everywhere(placement, run.state), Batch(images, labels, labels))  # type: ignore[arg-type]  # in place of arrays


def stacked(runs: list[jaxkd.Distiller], placement: Placement, batch_size: int, steps: int) -> Lowered:
    """Return the program of some steps of several runs at once."""
    program = _program(runs[0])
    step = make_stacked_step(program, IMAGENET_NORMALIZATION, IMAGENET_NORMALIZATION, placement)
    state = stack([run._run.compiled_state() for run in runs])
    cut = jax.tree.map(lambda leaf: _array(placement, leaf.shape, leaf.dtype, SHARDED), owned(state))
    common = _everywhere(placement, shared(state, cut))
    look_ahead = look_ahead_of(program, IMAGENET_NORMALIZATION, IMAGENET_NORMALIZATION, placement)
    assert look_ahead is not None
    loop = make_resident_loop(step, data.Augmentation(), look_ahead=look_ahead.shared_by(len(placement.devices)))
    images, labels = _images(placement, EXAMPLES)
    indices = _array(placement, (steps, batch_size), jnp.int32, REPLICATED)
    return _lowered(loop, placement, replace(common, **cut), images, labels, indices)


def evaluated(run: jaxkd.Distiller, placement: Placement, batch_size: int, steps: int) -> Lowered:
    """Return the program of an evaluation on data that stay on the device."""
    program = _program(run)
    evaluate = make_evaluate(program.model, IMAGENET_NORMALIZATION, program.precision, (("accuracy", accuracy),))
    state = run._run.compiled_state()
    weights = _everywhere(placement, (state.params["model"], state.variables["model"]))
    images, labels = _images(placement, 10_000)
    indices = _array(placement, (steps, batch_size), jnp.int32, SHARDED_STEPS)
    return _lowered(evaluate, placement, *weights, images, labels, indices)


def ats_grid(count: int) -> list[jaxkd.Distiller]:
    """Return students that differ in ATS's temperatures, with one teacher."""
    teacher = models.create("resnet8", num_classes=100, seed=1)
    runs = []
    for number in range(count):
        run = jaxkd.Distiller(student=models.create("resnet8", num_classes=100), teacher=teacher)
        run.compile(
            optimizers.sgd(0.05, momentum=0.9),
            {"ce": losses.CrossEntropy(), "kd": losses.ATS(correct=1.0 + number / 8, wrong=1.0)},
            devices=jax.devices()[:1],
        )
        runs.append(run)
    return runs


def _program(run: jaxkd.Distiller) -> Program:
    return run._compiled_program()


def _step(run: jaxkd.Distiller) -> Callable[..., Any]:
    return make_step(_program(run), IMAGENET_NORMALIZATION, IMAGENET_NORMALIZATION)


def _array(placement: Placement, shape: tuple[int, ...], dtype: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(placement.mesh, spec))


def _everywhere(placement: Placement, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: _array(placement, leaf.shape, leaf.dtype, REPLICATED), tree)


def _images(placement: Placement, examples: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    pixels = _array(placement, (examples, 32, 32, 3), jnp.uint8, REPLICATED)
    return pixels, _array(placement, (examples,), jnp.int32, REPLICATED)


def _lowered(function: Any, placement: Placement, *arguments: Any) -> Lowered:
    platform = placement.devices[0].platform
    return function.trace(*arguments).lower(lowering_platforms=("cuda" if platform == "gpu" else platform,))
