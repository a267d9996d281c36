"""The options that training a teacher and distilling a student have in common, and what they decide."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jaxkd
from jaxkd import data, recipes
from jaxkd.losses import Loss

Images = data.Dataset | data.StreamedDataset


def add_options(parser: argparse.ArgumentParser, rows: Sequence[str]) -> None:
    """Adds the common groups to a command line.

    Args:
      parser: gets them.
      rows: the names of the published recipes that the command can run, for `--list-recipes`.
    """
    images = parser.add_argument_group("data")
    images.add_argument(
        "--data", choices=data.names(), help="default: the recipe's, else cifar100; digits needs no file"
    )
    images.add_argument(
        "--data-dir", type=pathlib.Path, metavar="DIR", help="where its files are; default: $JAXKD_DATA, else ~/data"
    )
    images.add_argument(
        "--image-size", type=int, metavar="N", help="of imagenet2012 and folder: pixels a side; default: 224"
    )
    images.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="of imagenet2012 and folder: how many processes decode; default: one a core",
    )
    training = parser.add_argument_group("training", "what is not given comes from the recipe")
    training.add_argument(
        "--recipe", metavar="NAME",
        help=f"one number of a paper's table with all that leads to it, as in {rows[0]}; or only how a paper trains: "
        f"{', '.join(recipes.trainings())}; default: repdistiller, and digits for digits",
    )  # fmt: skip
    training.add_argument(
        "--list-recipes", action=ListRecipes, nargs=0, const=rows, help="print the published recipes with their numbers"
    )
    training.add_argument(
        "--epochs", type=int, metavar="N", help="another length; the drops of the learning rate move in proportion"
    )
    training.add_argument("--batch-size", type=int, metavar="N", help="examples per step, over all devices")
    training.add_argument("--learning-rate", type=float, metavar="X", help="the first one, before it drops")
    training.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of initial weights, order and augmentation; default: 0"
    )
    training.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32",
        help="what the networks compute in, for GPUs and TPUs; default: float32",
    )  # fmt: skip
    devices = parser.add_argument_group("devices", "all that there are share each batch")
    devices.add_argument(
        "--batch-norm", choices=("global", "per_device"), default="global",
        help="which images BatchNorm sees: the whole batch, or each device its own, as with DistributedDataParallel",
    )  # fmt: skip
    devices.add_argument(
        "--gradient-accumulation-steps", type=int, default=1, metavar="N",
        help="compute each batch in so many parts, where it does not fit into memory",
    )  # fmt: skip
    devices.add_argument(
        "--distributed", action="store_true",
        help="one of several processes: of SLURM, Open MPI, torchrun or a TPU pod, or told by JAX_COORDINATOR_ADDRESS, "
        "JAX_NUM_PROCESSES and JAX_PROCESS_ID",
    )  # fmt: skip
    run = parser.add_argument_group("run directory")
    run.add_argument("--output", type=pathlib.Path, metavar="DIR", help="default: a telling name under runs/")
    run.add_argument("--resume", action="store_true", help="go on with the run in this directory, if one has begun")
    run.add_argument(
        "--checkpoint-minutes", type=float, metavar="N", help="save within epochs too; SIGTERM saves in any case"
    )
    run.add_argument("--quiet", action="store_true", help="no progress while it trains")


class ListRecipes(argparse.Action):
    """Prints the recipes named in `const`, table by table, and ends the program, as `--help` does."""

    def __call__(self, parser, namespace, values, option_string=None):
        lines: list[str] = []
        for heading, group in itertools.groupby(map(recipes.get, self.const), key=table_of):
            lines += ["", *heading, *(f"  {recipe.name:40s} {recipe.published}" for recipe in group)]
        print("\n".join(lines))
        parser.exit()


def table_of(recipe: recipes.Recipe) -> tuple[str, str]:
    """Where a number is published: the paper, and the table with the epoch it states."""
    return recipe.paper, f"{recipe.table}, {recipe.reported} epoch"


def begin(options: argparse.Namespace) -> recipes.Recipe | None:
    """Joins the other processes where there are any, and lets the recipe decide what the command line does not.

    Returns:
      The published recipe that `--recipe` names; None where it names a training, or nothing.

    Raises:
      ValueError: for a name that is neither, with the closest that exist, or a contradictory environment.
      RuntimeError: no other processes were found.
    """
    if options.distributed:
        jaxkd.distributed.initialize()
    recipe = recipe_of(options)
    options.data = options.data or (recipe.data if recipe else "cifar100")
    return recipe


def recipe_of(options: argparse.Namespace) -> recipes.Recipe | None:
    """The published recipe that `--recipe` names; None where it names a training, or nothing.

    Raises:
      ValueError: for a name that is neither, with the closest that exist.
    """
    if options.recipe is None or options.recipe in recipes.trainings():
        return None
    try:
        return recipes.get(options.recipe)
    except ValueError as error:
        raise ValueError(f"--recipe: {error}; names of trainings are {', '.join(recipes.trainings())}") from None


def training_of(options: argparse.Namespace, network: str, recipe: recipes.Recipe | None) -> recipes.Training:
    """How to train: as the recipe says, but for what the command line says otherwise.

    Raises:
      ValueError: for numbers that are not positive.
    """
    default = "digits" if options.data == "digits" else "repdistiller"
    training = recipes.get_training(recipe.training.name if recipe else options.recipe or default)
    return training.adapted(
        epochs=options.epochs, batch_size=options.batch_size, learning_rate=options.learning_rate, network=network
    )


def published(
    recipe: recipes.Recipe | None, method: recipes.Method, teacher: str | None, student: str,
    training: recipes.Training, options: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    """What a paper states for a run, as JSON values for its result; nothing where the run follows no recipe.

    Accuracies are parts of 1, as the run's own. `as_published` says whether the run keeps to the recipe, so that the
    two numbers mean the same.
    """
    if recipe is None:
        return {}
    ours = (method, teacher, student, training, options.data)
    theirs = (recipe.method, recipe.teacher, recipe.student, recipe.training, recipe.data)
    percent = recipe.published._asdict()
    return {
        "recipe": {
            "name": recipe.name,
            **{name: None if value is None else round(value / 100, 6) for name, value in percent.items()},
            "reported": recipe.reported,
            "paper": recipe.paper,
            "table": recipe.table,
            "as_published": ours == theirs,
        }
    }


def load_data(options: argparse.Namespace, training: recipes.Training) -> tuple[Images, Images]:
    """Training and test images, normalised as the recipe says.

    Raises:
      FileNotFoundError, ValueError: as `data.load`.
    """
    mean, std = training.normalization or (None, None)
    read = {"image_size": options.image_size, "workers": options.workers}
    return data.load(options.data, options.data_dir, mean=mean, std=std, **read)


def settings_of(
    options: argparse.Namespace, training: recipes.Training, train: Images, **others: Any
) -> dict[str, Any]:
    """All that decides how a run ends, for its record."""
    images = {"name": options.data, "images": len(train), "normalization": train.normalization._asdict()}
    decided = {"data": images, "seed": options.seed, "precision": options.precision}
    parts = {"batch_norm": options.batch_norm, "gradient_accumulation_steps": options.gradient_accumulation_steps}
    return decided | {"training": dataclasses.asdict(training), **parts, **others}


def compile_trainer(
    trainer: jaxkd.Trainer,
    train: Images,
    training: recipes.Training,
    options: argparse.Namespace,
    loss: Mapping[str, Loss] | None = None,
    weights: Mapping[str, recipes.Weight] | None = None,
    cache_teacher: bool | str | jaxkd.TeacherCache = False,
) -> None:
    """Says how to train; networks that a loss cannot work with are refused here.

    Args:
      trainer: a `Trainer` or `Distiller`.
      train: what it will learn from.
      training: the resolved recipe.
      options: the command line.
      loss: the loss terms; cross-entropy by default.
      weights: of these terms.
      cache_teacher: as `compile` takes it.

    Raises:
      ValueError: as `compile`.
    """
    trainer.compile(
        training.optimizer(), loss=loss, loss_weights=weights, metrics=("accuracy", "top5"), seed=options.seed,
        image_shape=train.image_shape, precision=options.precision, cache_teacher=cache_teacher,
        batch_norm=options.batch_norm, gradient_accumulation_steps=options.gradient_accumulation_steps,
    )  # fmt: skip
