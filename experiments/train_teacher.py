"""Trains one network on labels alone: a teacher, or the student that distilled ones are compared with."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import training_options
from run_directory import RunDirectory

import jaxkd
from jaxkd import models

EXAMPLES = """examples:
  python experiments/train_teacher.py --data digits --model resnet14
  python experiments/train_teacher.py --data cifar100 --data-dir ~/data --model resnet56
  python experiments/train_teacher.py --data cifar100 --model ResNet110 --recipe ats --output runs/ats-teacher
  python experiments/train_teacher.py --data cifar100 --data-dir ~/data --model resnet56 --resume

The trained network is DIR/model (for distill.py --teacher) and DIR/model.pth (for PyTorch).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; None takes the process's own command line."""
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        training = training_options.training_of(options, options.model)
        train, test = training_options.load_data(options, training)
        model = models.create(options.model, num_classes=train.num_classes, seed=options.seed)
        directory = RunDirectory(options.output or f"runs/{options.data}-{options.model}-seed{options.seed}")
        settings = training_options.settings_of(options, training, train, model=options.model)
        directory.check(settings, options.resume)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    directory.start(settings, vars(options))
    facts = {"model": {"name": options.model, "parameters": training_options.parameters(model)}}
    training_options.run(jaxkd.Trainer(model), train, test, training, options, directory, "model", facts)
    return 0


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="the network: resnet56, wrn_40_2, vgg13, ResNet110, …")
    training_options.add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
