"""The grid of asymmetric temperatures: a student for every pair of τ₁ (true class) and τ₂ (other classes).

All students of a seed are trained in one program and share every forward pass of the teacher. The defaults are the
paper's 6×5 grid and its recipe (Li et al., NeurIPS 2022, https://arxiv.org/abs/2210.04427). `jaxkd sweep` varies other
settings of any method.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from jaxkd import recipes
from jaxkd.command_line import CommandLine, Help, by_other_names, end
from jaxkd.commands import sweep
from jaxkd.commands.options import add_options, recipe_of, run_config, teacher_path
from jaxkd.config import RunConfig, TeacherConfig

EXAMPLES = """examples:
  on digits, in a minute, after: train_teacher.py --data digits --model resnet14 --epochs 8 --output runs/digits-teacher
    python experiments/ats_grid.py --data digits --teacher runs/digits-teacher/model --student resnet8 --epochs 5
  the paper's setting:
    python experiments/ats_grid.py --data-dir ~/data --teacher runs/ats-teacher/model --student VGG8

The folder gets config.json, grid.csv (every cell, seed and epoch), result.json, grid.png and the checkpoints of each
student, from which the same command and --resume goes on.
"""


@by_other_names
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        if options.seeds < 1:
            raise ValueError(f"--seeds {options.seeds}: at least one is needed")
        config = config_of(options)
    except ValueError as error:
        parser.error(str(error))

    def of_cell(correct: float, wrong: float, seed: int) -> RunConfig:
        return dataclasses.replace(config, method=recipes.get_method("ats", correct=correct, wrong=wrong), seed=seed)

    seeds = list(range(config.seed, config.seed + options.seeds))
    axes = {"seed": seeds, "correct": options.correct, "wrong": options.wrong}
    labels = {"correct": "τ₁, correct class", "wrong": "τ₂, wrong classes"}
    return sweep.train(parser, options, axes, of_cell, f"ats-grid-{config.data.name}-{config.network}", labels)


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


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = CommandLine(prog="ats_grid.py", description=__doc__, epilog=EXAMPLES, formatter_class=Help)
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


if __name__ == "__main__":
    end(main, resumable=True)
