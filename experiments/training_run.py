"""A run of the scripts: what is written and printed around `fit`, by the first of several processes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from training_options import Images

import jaxkd
from jaxkd import recipes, records
from jaxkd.records import RunDirectory


def run(
    trainer: jaxkd.Trainer,
    train: Images,
    test: Images,
    training: recipes.Training,
    options: argparse.Namespace,
    directory: RunDirectory,
    name: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Trains, or goes on with training, and leaves everything in the run directory.

    Args:
      trainer: compiled.
      train: what it learns from.
      test: measured after every epoch.
      training: the resolved recipe.
      options: the command line.
      directory: already begun.
      name: of the trained network's files.
      facts: what else belongs to the result.

    Returns:
      The result, as it was written.
    """
    history = trainer.fit(
        train,
        validation_data=test,
        epochs=training.epochs,
        batch_size=training.batch_size,
        callbacks=directory.callbacks(every_minutes=options.checkpoint_minutes),
        resume="auto" if options.resume else None,
        verbose=not options.quiet,
    )
    seconds = sum(len(train) / rate for rate in history.history["images_per_second"] if rate)
    facts = {"seed": options.seed, "epochs": training.epochs, "training_seconds": round(seconds, 2), **facts}
    if not is_first():
        return records.summary(history, training.reported)
    result = directory.finish(trainer, name, training.reported, facts)
    print_result(result, directory)
    return result


def check(directory: RunDirectory, settings: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Refuses, in the first of several processes, what would damage a run; see `RunDirectory.check`."""
    if is_first():
        directory.check(settings, options.resume)


def start(directory: RunDirectory, settings: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Writes down, in the first of several processes, what is about to happen."""
    if is_first():
        directory.start(settings, vars(options))


def say(text: str) -> None:
    """Prints, in the first of several processes."""
    if is_first():
        print(text, flush=True)


def is_first() -> bool:
    """Whether this process writes and shows what the run does."""
    return jax.process_index() == 0


def print_result(result: Mapping[str, Any], directory: RunDirectory) -> None:
    """Says how a run ended, the reported epoch marked."""
    for which in ("last", "best"):
        row, mark = result[which], "  (the one this recipe reports)" if which == result["reported"] else ""
        print(
            f"{which} epoch {row['epoch']:4d}: test top-1 {row['val_accuracy']:.2%}, top-5 {row['val_top5']:.2%}{mark}"
        )
    if "recipe" in result:
        recipe = result["recipe"]
        kept = "" if recipe["as_published"] else ", by a run that differs from this one"
        print(f"published: test top-1 {recipe['accuracy']:.2%}, {recipe['reported']} epoch{kept}; {recipe['paper']}")
    print(f"everything is in {directory.path}")


def parameters(model: nnx.Module) -> int:
    """How many numbers a network trains."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
