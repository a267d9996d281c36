"""A run of the scripts: what is written and printed around `fit`, by the first of several processes."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from training_options import Images

import jaxkd
from jaxkd import data, recipes
from jaxkd.records import RunDirectory


@dataclasses.dataclass(frozen=True)
class Run:
    """What is about to be trained.

    Attributes:
      trainer: compiled.
      train: what it learns from.
      test: measured after every epoch.
      training: the resolved recipe.
      options: the command line.
      directory: of the run.
      settings: all that decides its outcome.
      name: of the trained network's files.
      facts: what else belongs to the result.
    """

    trainer: jaxkd.Trainer
    train: Images
    test: Images
    training: recipes.Training
    options: argparse.Namespace
    directory: RunDirectory
    settings: Mapping[str, Any]
    name: str
    facts: Mapping[str, Any]

    @property
    def mixes(self) -> bool:
        """Whether it can be one of several runs in a program, which `jaxkd.sweep` does."""
        options = self.options
        apart = options.batch_norm == "per_device" or options.checkpoint_minutes is not None
        return isinstance(self.train, data.Dataset) and jax.process_count() == 1 and not apart

    def check(self) -> None:
        """Refuses, in the first of several processes, what would damage a run; see `RunDirectory.check`."""
        if is_first():
            self.directory.check(self.settings, self.options.resume)

    def start(self) -> None:
        """Writes down, in the first of several processes, what is about to happen."""
        if is_first():
            self.directory.start(self.settings, vars(self.options))

    def finish(self, **facts: Any) -> None:
        """Writes down and prints how it ended; `facts` are those of the result that were not known before."""
        history = self.trainer.history
        seconds = sum(len(self.train) / rate for rate in history.history["images_per_second"] if rate)
        first = {"seed": self.settings["seed"], "epochs": self.training.epochs, "training_seconds": round(seconds, 2)}
        if is_first():
            result = self.directory.finish(
                self.trainer, self.name, self.training.reported, {**first, **facts, **self.facts}
            )
            print_result(result, self.directory)


def run(one: Run) -> None:
    """Trains, or goes on with training, and leaves everything in the run directory, which was started."""
    one.trainer.fit(
        one.train,
        validation_data=one.test,
        epochs=one.training.epochs,
        batch_size=one.training.batch_size,
        callbacks=one.directory.callbacks(every_minutes=one.options.checkpoint_minutes),
        resume="auto" if one.options.resume else None,
        verbose=not one.options.quiet,
    )
    one.finish()


def run_together(runs: Sequence[Run], at_once: int | None) -> None:
    """Likewise for runs that differ in their seeds, in one program where memory allows.

    Args:
      runs: of the same command.
      at_once: at most so many in one program; None takes all.
    """
    first = runs[0]
    jaxkd.sweep(
        lambda number: runs[number].trainer,
        jaxkd.grid(number=range(len(runs))),
        first.train,
        first.test,
        epochs=first.training.epochs,
        batch_size=first.training.batch_size,
        at_once=at_once,
        callbacks=lambda number: runs[number].directory.callbacks(),
        resume="auto" if first.options.resume else None,
        verbose=not first.options.quiet,
    )
    for one in runs:
        one.finish(trained_with=len(runs) - 1)


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
