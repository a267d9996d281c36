"""The options for what training recipes put around the loss: each changes one number of a `recipes.Training`."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, get_args

from jaxkd import recipes
from jaxkd.recipes.training import Optimizer, Schedule

OPTIONS: dict[str, dict[str, Any]] = {
    "optimizer_name": {
        "flag": "--optimizer", "choices": get_args(Optimizer), "help": "how gradients become steps"
    },
    "schedule": {
        "flag": "--schedule", "choices": get_args(Schedule), "help": "rates that drop, or fall along a cosine"
    },
    "warmup": {"type": int, "metavar": "N", "help": "epochs in which the rate rises"},
    "warmup_learning_rate": {"type": float, "metavar": "X", "help": "the rate of the first of them, before a cosine"},
    "final_learning_rate": {"type": float, "metavar": "X", "help": "what a cosine falls to"},
    "weight_decay": {"type": float, "metavar": "X", "help": "of every parameter"},
    "decays_kernels_only": {
        "flag": "--decay-kernels-only", "action": argparse.BooleanOptionalAction,
        "help": "leave biases, norms, tokens and position embeddings out of the weight decay",
    },
    "clip_norm": {"type": float, "metavar": "X", "help": "the largest length of all gradients together"},
    "label_smoothing": {"type": float, "metavar": "X", "help": "of the cross-entropy with the labels, as in 0.1"},
    "augment": {
        "metavar": "NAME",
        "help": "change the images by a policy: trivial, auto-cifar10, auto-imagenet, rand, or a RandAugment by timm's "
        "name, as in rand-m9-mstd0.5-inc1; none for none",
    },
    "random_erasing": {
        "type": float, "metavar": "P", "help": "fill a part of an image with noise, with this probability, as in 0.25"
    },
    "mixup": {"type": float, "metavar": "A", "help": "mix images by mixup with this α, as in 0.8"},
    "cutmix": {"type": float, "metavar": "A", "help": "or by CutMix, as in 1.0; with both, half of the batches each"},
    "ema_decay": {
        "type": float, "metavar": "X",
        "help": "keep averaged weights as well, as in 0.9999: they are evaluated, and saved beside the others",
    },
    "drop_path": {"type": float, "metavar": "X", "help": "stochastic depth, of networks that have it"},
    "drop": {"type": float, "metavar": "X", "help": "dropout, of networks that have it"},
    "resize_to": {
        "type": int, "metavar": "N",
        "help": "pixels a side at which the trained network sees the images; its teacher sees them as they come",
    },
    "resized_crop": {
        "action": argparse.BooleanOptionalAction,
        "help": "train on random parts of the images, as large as the whole, instead of shifted ones",
    },
}  # fmt: skip
"""What may be changed of a `recipes.Training`, by the name there."""


def add_options_around_the_loss(parser: argparse.ArgumentParser) -> None:
    """Add the options for what today's recipes put around the loss."""
    group = parser.add_argument_group("around the loss", "what is not given comes from the recipe")
    for name, option in OPTIONS.items():
        given = {key: value for key, value in option.items() if key != "flag"}
        group.add_argument(option.get("flag", f"--{name.replace('_', '-')}"), dest=name, default=None, **given)


def changed_training(options: argparse.Namespace, training: recipes.Training) -> recipes.Training:
    """Return a training with what the command line says of it; one that is given a cosine loses its drops.

    Raises:
      ValueError: for numbers that do not go together.
    """
    given = {name: value for name in OPTIONS if (value := getattr(options, name)) is not None}
    if given.get("schedule", training.schedule) == "cosine":
        given["drops"] = ()
    if given.get("schedule") == "steps" and training.schedule == "cosine":
        raise ValueError(f"--schedule steps: recipe {training.name} says no epochs after which the rate drops")
    return dataclasses.replace(training, **given)
