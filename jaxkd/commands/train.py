"""Trains one network on labels alone: a teacher, or the student that distilled ones are compared with."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from jaxkd import recipes
from jaxkd.command_line import CommandLine, Help, program
from jaxkd.commands import config_file, distill, dry_run
from jaxkd.commands.options import add_init_options, add_options, init_of, network_of, recipe_of, run_config
from jaxkd.config import RunConfig

EXAMPLES = """examples:
  jaxkd train --data digits --model resnet14
  jaxkd train --data cifar100 --data-dir ~/data --model resnet56
  jaxkd train --recipe ce/resnet56
  jaxkd train --data cifar100 --model ResNet110 --recipe ats --output runs/ats-teacher
  jaxkd train --data cifar100 --data-dir ~/data --model resnet56 --resume
  weights of a thousand classes, fine-tuned on your own photographs; the new classifier learns faster:
    jaxkd train --data folder --data-dir photographs --init resnet18.pth --epochs 10 \\
        --learning-rate 0.005 --head-learning-rate 0.05

The trained network is DIR/model (for jaxkd distill --teacher) and DIR/model.pth (for PyTorch).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    parser = command_line()
    options = config_file.parse(parser, arguments, config_of)
    return distill.train_each(parser, options, config_of, {options.seed: options.output})


def config_of(options: argparse.Namespace) -> RunConfig:
    """Return the run that a command line describes; of files, only weights are read that are to say their network.

    Raises:
      ValueError: where nothing names the network; for an unknown recipe, and for one with a teacher.
    """
    recipe = recipe_of(options)
    if recipe is not None and recipe.teacher is not None:
        raise ValueError(f"--recipe {recipe.name} learns from a {recipe.teacher}: that is what jaxkd distill does")
    init = init_of(options, "--init")
    name = options.model or (recipe.student if recipe else network_of(init))
    if name is None:
        raise ValueError("name the network by --model, as in resnet56, or by --recipe, as in ce/resnet56")
    return run_config(options, name, recipe, init=init)


def command_line() -> CommandLine:
    """Return the parser of the options."""
    parser = CommandLine(prog=program("train"), description=__doc__, epilog=EXAMPLES, formatter_class=Help)
    parser.add_argument(
        "--model",
        help="the network: resnet56, wrn_40_2, vgg13, ResNet110, …; default: the recipe's, else that of --init",
    )
    add_init_options(parser, "--init")
    add_options(parser, [name for name in recipes.list() if name.startswith("ce/")])
    config_file.add_options(parser)
    dry_run.add_option(parser)
    return parser
