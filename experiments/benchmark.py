"""Measures a distillation step of jaxkd beside the same step in PyTorch, in one process, in turn.

    python experiments/benchmark.py --teacher resnet56 --student resnet20 --batch-size 64

Work: random images of CIFAR's size, teacher forward, student forward and backward, 0.1·CE + 0.9·KD at T=4, SGD with
  momentum
and decay; float32 unless asked otherwise. PyTorch runs with its images in both memory layouts, once they are on the
device. Rounds alternate between the contenders, so that a machine whose speed drifts slows all of them; the medians
are reported. Needs torch (`pip install torch`).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jaxkd
from jaxkd import data, losses, models, optimizers
from jaxkd.engine.epoch import make_resident_loop

import torch_peer  # isort: skip  (a neighbour of this script)


def main() -> None:
    """Runs the rounds and prints a table."""
    options = parser().parse_args()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.batch_size * options.steps, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 100, len(images)).astype(np.int32)
    contenders = {
        "jaxkd": jaxkd_steps(options, images, labels),
        "torch": torch_peer.steps(options.teacher, options.student, images, labels, options.batch_size),
        "torch, channels last": torch_peer.steps(
            options.teacher, options.student, images, labels, options.batch_size, channels_last=True
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - start) / options.steps)
    report(options, {name: values[1:] for name, values in seconds.items()})  # the first round compiles


def jaxkd_steps(options: argparse.Namespace, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """A function that takes all steps once, as `fit` does."""
    distiller = jaxkd.Distiller(
        student=models.create(options.student, num_classes=100, seed=0),
        teacher=models.create(options.teacher, num_classes=100, seed=1),
    )
    distiller.compile(
        optimizers.sgd(0.05, momentum=0.9, weight_decay=5e-4),
        loss={"ce": losses.CrossEntropy(), "kd": losses.KD(temperature=4.0)},
        loss_weights={"ce": 0.1, "kd": 0.9},
    )
    dataset = data.from_arrays(images, labels, num_classes=100)
    distiller.student.normalization = dataset.normalization
    distiller.teacher.normalization = dataset.normalization
    loop = make_resident_loop(distiller.step, None)
    on_device = jax.device_put((images, labels))
    order = jnp.arange(len(images), dtype=jnp.int32).reshape(options.steps, options.batch_size)

    def run() -> None:
        distiller.state, _ = loop(distiller.state, *on_device, order)
        jax.block_until_ready(distiller.state)

    return run


def report(options: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    """Prints medians and ratios, and writes them where asked."""
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    print(f"{options.teacher} → {options.student}, batch {options.batch_size}, {jax.devices()[0].device_kind}")
    for name, median in medians.items():
        print(
            f"{name:22s} {1e3 * median:8.1f} ms a step   jaxkd ÷ it, in steps a second: {median / medians['jaxkd']:.2f}"
        )
    if options.output:
        record = {
            "teacher": options.teacher,
            "student": options.student,
            "batch_size": options.batch_size,
            "device": jax.devices()[0].device_kind,
            "machine": platform.machine(),
            "versions": {"jax": jax.__version__, "torch": torch_peer.version(), "python": platform.python_version()},
            "seconds_per_step": seconds,
            "median": medians,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=1) + "\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--teacher", default="resnet56", help="a CIFAR ResNet, resnet8 … resnet110")
    made.add_argument("--student", default="resnet20", help="likewise")
    made.add_argument("--batch-size", type=int, default=64)
    made.add_argument("--steps", type=int, default=5, help="steps a round")
    made.add_argument("--rounds", type=int, default=5, help="rounds that count, after one that does not")
    made.add_argument("--output", type=pathlib.Path, help="write the figures to this JSON file")
    return made


if __name__ == "__main__":
    main()
