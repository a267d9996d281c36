"""The grid of asymmetric temperatures: a student for every pair of τ₁ (true class) and τ₂ (other classes).

All students of a seed are trained in one program and share every forward pass of the teacher. The defaults are the
paper's 6×5 grid and its recipe (Li et al., NeurIPS 2022, https://arxiv.org/abs/2210.04427).
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import jaxkd
from jaxkd import distributed, models, plots, recipes
from jaxkd.command_line import CommandLine, Help, program
from jaxkd.commands import run
from jaxkd.commands.options import add_options, recipe_of, run_config, teacher_path
from jaxkd.config import RunConfig, TeacherConfig
from jaxkd.records import RunDirectory, environment, write_json

EXAMPLES = """examples:
  on digits, in a minute, after: jaxkd train --data digits --model resnet14 --epochs 8 --output runs/digits-teacher
    jaxkd sweep --data digits --teacher runs/digits-teacher/model --student resnet8 --epochs 5
  the paper's setting:
    jaxkd sweep --data-dir ~/data --teacher runs/ats-teacher/model --student VGG8

The folder gets config.json, grid.csv (every cell, seed and epoch), result.json and grid.png.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        if options.seeds < 1:
            raise ValueError(f"--seeds {options.seeds}: at least one is needed")
        if options.distributed:
            distributed.initialize()  # before anything computes
        config, teacher, train, test = run.read(config_of(options))
        models.create(config.network, num_classes=train.num_classes)  # a wrong name is refused before any work
        name = f"ats-grid-{config.data.name}-{config.network}"
        directory = RunDirectory(config.output or pathlib.Path("runs") / name)
        if directory.path.exists() and any(directory.path.iterdir()):
            raise ValueError(f"{directory.path} exists and is not empty: choose another --output")
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.error(str(error))
    axes = {"correct": options.correct, "wrong": options.wrong, "seeds": options.seeds}
    shared = {name: value for name, value in config.settings().items() if name != "method"}
    directory.start(shared | axes, config.arguments() | axes | {"at_once": options.at_once})

    def make(correct: float, wrong: float, seed: int) -> jaxkd.Trainer:
        method = recipes.get_method("ats", correct=correct, wrong=wrong)
        return run.compiled(dataclasses.replace(config, method=method, seed=seed), train, teacher)

    seeds = range(config.seed, config.seed + options.seeds)
    cells = jaxkd.grid(seed=seeds, correct=options.correct, wrong=options.wrong)
    start = time.perf_counter()
    found = jaxkd.sweep(
        make,
        cells,
        train,
        validation_data=test,
        epochs=config.training.epochs,
        batch_size=config.training.batch_size,
        at_once=options.at_once,
        verbose=not config.quiet,
    )
    found.to_csv(directory.path / "grid.csv")
    accuracy = found.last("val_accuracy").reshape(options.seeds, len(options.correct), len(options.wrong))
    facts = {"seconds": round(time.perf_counter() - start, 2), "runs": len(cells), "epochs": config.training.epochs}
    write_json(directory.path / "result.json", summary(options, accuracy) | facts | environment())
    print(table(options, accuracy))
    if plots.available():
        title = f"{teacher.name} → {config.network}, {config.data.name}, {config.training.epochs} epochs, last epoch"
        plots.heat_map(
            accuracy.mean(0),
            directory.path / "grid.png",
            rows=[f"{value:g}" for value in options.correct],
            columns=[f"{value:g}" for value in options.wrong],
            labels=("τ₂, wrong classes", "τ₁, correct class", "test accuracy (%)"),
            title=title,
        )
    print(f"{len(cells)} students in {facts['seconds']:.0f} s; everything is in {directory.path}")
    return 0


def config_of(options: argparse.Namespace) -> RunConfig:
    """Return what all students of the grid share; no file is read yet.

    Raises:
      ValueError: for an unknown recipe, or numbers that are not positive.
    """
    recipe_of(options)  # a misspelt name gets the closest that exist
    return run_config(
        options,
        options.student,
        method=recipes.get_method("ats"),
        teacher=TeacherConfig(options.teacher, options.teacher_name),
    )


def summary(options: argparse.Namespace, accuracy: np.ndarray) -> dict[str, Any]:
    """Return each cell's mean over seeds and the best one, chosen on the test images as in the paper's tables.

    Args:
      options: the command line.
      accuracy: of the last epoch, `[seeds, correct, wrong]`.
    """
    mean = accuracy.mean(0)
    row, column = np.unravel_index(mean.argmax(), mean.shape)
    return {
        "correct": options.correct,
        "wrong": options.wrong,
        "val_accuracy": mean.tolist(),
        "best": {
            "correct": options.correct[row],
            "wrong": options.wrong[column],
            "val_accuracy": float(mean[row, column]),
            "rule": "the highest mean of the last epoch's val_accuracy over seeds, chosen on the test images",
        },
    }


def table(options: argparse.Namespace, accuracy: np.ndarray) -> str:
    """Return the grid as text, in percent."""
    lines = ["τ₁ \\ τ₂ " + "".join(f"{value:8g}" for value in options.wrong)]
    for value, row in zip(options.correct, 100 * accuracy.mean(0), strict=True):
        lines.append(f"{value:7g} " + "".join(f"{cell:8.2f}" for cell in row))
    return "\n".join(lines)


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = CommandLine(prog=program("sweep"), description=__doc__, epilog=EXAMPLES, formatter_class=Help)
    networks = parser.add_argument_group("networks")
    networks.add_argument(
        "--teacher",
        type=teacher_path,
        required=True,
        metavar="FILE",
        help="a file of weights, a converted teacher or the directory of its run",
    )
    networks.add_argument("--teacher-name", metavar="NAME", help="the network in it; default: found by its keys")
    networks.add_argument("--student", default="VGG8", metavar="NAME", help="default: VGG8")
    cells = parser.add_argument_group("grid")
    cells.add_argument("--correct", type=float, nargs="+", default=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], metavar="T")
    cells.add_argument("--wrong", type=float, nargs="+", default=[1.0, 2.0, 3.0, 4.0, 5.0], metavar="T")
    cells.add_argument("--seeds", type=int, default=1, metavar="N", help="that many, from --seed on; default: 1")
    cells.add_argument("--at-once", type=int, metavar="N", help="at most so many students in one program")
    add_options(parser, recipes.list())
    parser.set_defaults(recipe="ats")
    return parser
