"""Trains one network on labels alone: a teacher, or the student that distilled ones are compared with."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import training_options
import training_run

import jaxkd
from jaxkd import models, recipes
from jaxkd.records import RunDirectory

EXAMPLES = """examples:
  python experiments/train_teacher.py --data digits --model resnet14
  python experiments/train_teacher.py --data cifar100 --data-dir ~/data --model resnet56
  python experiments/train_teacher.py --recipe ce/resnet56
  python experiments/train_teacher.py --data cifar100 --model ResNet110 --recipe ats --output runs/ats-teacher
  python experiments/train_teacher.py --data cifar100 --data-dir ~/data --model resnet56 --resume

The trained network is DIR/model (for distill.py --teacher) and DIR/model.pth (for PyTorch).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; None takes the process's own command line."""
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        recipe = recipe_of(options)
        name = options.model or (recipe and recipe.student)
        if name is None:
            raise ValueError("name the network by --model, as in resnet56, or by --recipe, as in ce/resnet56")
        training = training_options.training_of(options, name, recipe)
        train, test = training_options.load_data(options, training)
        model = models.create(name, num_classes=train.num_classes, seed=options.seed)
        directory = RunDirectory(options.output or f"runs/{options.data}-{name}-seed{options.seed}")
        settings = training_options.settings_of(options, training, train, model=name)
        trainer = jaxkd.Trainer(model)
        training_options.compile_trainer(trainer, train, training, options)
        facts = {
            "model": {"name": name, "parameters": training_run.parameters(model)},
            **training_options.published(recipe, recipes.get_method("ce"), None, name, training, options),
        }
        run = training_run.Run(trainer, train, test, training, options, directory, settings, "model", facts)
        run.check()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.error(str(error))
    run.start()
    training_run.run(run)
    return 0


def recipe_of(options: argparse.Namespace) -> recipes.Recipe | None:
    """The published recipe, if one is named.

    Raises:
      ValueError: for an unknown one, and for one with a teacher.
    """
    recipe = training_options.begin(options)
    if recipe is not None and recipe.teacher is not None:
        raise ValueError(f"--recipe {recipe.name} learns from a {recipe.teacher}: that is what distill.py does")
    return recipe


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="the network: resnet56, wrn_40_2, vgg13, ResNet110, …; default: the recipe's")
    training_options.add_options(parser, [name for name in recipes.list() if name.startswith("ce/")])
    return parser


if __name__ == "__main__":
    sys.exit(main())
