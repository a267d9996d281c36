"""The options that training a teacher and distilling a student have in common, and the run they lead to."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from run_directory import RunDirectory

import jaxkd
from jaxkd import data, recipes
from jaxkd.losses import Loss


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the common groups to a command line."""
    images = parser.add_argument_group("data")
    images.add_argument(
        "--data", choices=data.names(), default="cifar100", help="default: cifar100; digits needs no file"
    )
    images.add_argument(
        "--data-dir", type=pathlib.Path, metavar="DIR", help="where its files are; default: $JAXKD_DATA, else ~/data"
    )
    training = parser.add_argument_group("training", "what is not given comes from the recipe")
    training.add_argument(
        "--recipe",
        choices=recipes.trainings(),
        help="schedule, batch size, decay and normalisation of a paper; default: repdistiller, and digits for digits",
    )
    training.add_argument(
        "--epochs", type=int, metavar="N", help="another length; the drops of the learning rate move in proportion"
    )
    training.add_argument("--batch-size", type=int, metavar="N", help="examples per step, over all devices")
    training.add_argument("--learning-rate", type=float, metavar="X", help="the first one, before it drops")
    training.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of initial weights, order and augmentation; default: 0"
    )
    run = parser.add_argument_group("run directory")
    run.add_argument("--output", type=pathlib.Path, metavar="DIR", help="default: a telling name under runs/")
    run.add_argument("--resume", action="store_true", help="go on with the run in this directory, if one has begun")
    run.add_argument("--quiet", action="store_true", help="no progress while it trains")


def training_of(options: argparse.Namespace, network: str) -> recipes.Training:
    """The recipe with what the command line says otherwise.

    Raises:
      ValueError: for numbers that are not positive.
    """
    name = options.recipe or ("digits" if options.data == "digits" else "repdistiller")
    return recipes.get_training(name).adapted(
        epochs=options.epochs, batch_size=options.batch_size, learning_rate=options.learning_rate, network=network
    )


def load_data(options: argparse.Namespace, training: recipes.Training) -> tuple[data.Dataset, data.Dataset]:
    """Training and test images, normalised as the recipe says.

    Raises:
      FileNotFoundError, ValueError: as `data.load`.
    """
    mean, std = training.normalization or (None, None)
    return data.load(options.data, options.data_dir, mean=mean, std=std)


def settings_of(
    options: argparse.Namespace, training: recipes.Training, train: data.Dataset, **others: Any
) -> dict[str, Any]:
    """All that decides how a run ends, for its record."""
    images = {"name": options.data, "images": len(train), "normalization": train.normalization._asdict()}
    return {"data": images, "seed": options.seed, "training": dataclasses.asdict(training), **others}


def run(
    trainer: jaxkd.Trainer,
    train: data.Dataset,
    test: data.Dataset,
    training: recipes.Training,
    options: argparse.Namespace,
    directory: RunDirectory,
    name: str,
    facts: Mapping[str, Any],
    loss: Mapping[str, Loss] | None = None,
    weights: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Trains, or goes on with training, and leaves everything in the run directory.

    Args:
      trainer: a `Trainer` or `Distiller`.
      train: what it learns from.
      test: measured after every epoch.
      training: the resolved recipe.
      options: the command line.
      directory: already begun.
      name: of the trained network's files.
      facts: what else belongs to the result.
      loss: the loss terms; cross-entropy by default.
      weights: of these terms.

    Returns:
      The result, as it was written.
    """
    trainer.compile(
        training.optimizer(), loss=loss, loss_weights=weights, metrics=("accuracy", "top5"), seed=options.seed
    )
    if directory.begun:
        trainer.restore(directory.checkpoints)
        print(f"going on after epoch {len(trainer.history.epoch)} of {training.epochs}")
    history = trainer.fit(
        train,
        validation_data=test,
        epochs=training.epochs,
        batch_size=training.batch_size,
        callbacks=directory.callbacks(),
        verbose=not options.quiet,
    )
    seconds = sum(len(train) / rate for rate in history.history["images_per_second"] if rate)
    facts = {"seed": options.seed, "epochs": training.epochs, "training_seconds": round(seconds, 2), **facts}
    result = directory.finish(trainer, name, training.reported, facts)
    print_result(result, directory)
    return result


def print_result(result: Mapping[str, Any], directory: RunDirectory) -> None:
    """Says how a run ended, the reported epoch marked."""
    for which in ("last", "best"):
        row, mark = result[which], "  (the one this recipe reports)" if which == result["reported"] else ""
        print(
            f"{which} epoch {row['epoch']:4d}: test top-1 {row['val_accuracy']:.2%}, top-5 {row['val_top5']:.2%}{mark}"
        )
    print(f"everything is in {directory.path}")


def parameters(model: nnx.Module) -> int:
    """How many numbers a network trains."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
