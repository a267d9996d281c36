"""Lists the published numbers that a run can aim at, table by table, or shows all that leads to one of them."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterable, Sequence

from jaxkd import recipes
from jaxkd.command_line import CommandLine, Help, program
from jaxkd.commands.around_the_loss import OPTIONS
from jaxkd.keywords import did_you_mean

EXAMPLES = """examples:
  all of them:
    jaxkd recipes
  one, with its method, its schedule and the command that runs it:
    jaxkd recipes ctkd/resnet56-resnet20
  those of a method, of a pair, of a network, or of a way of training:
    jaxkd recipes dkd
    jaxkd recipes resnet56-resnet20
    jaxkd recipes resnet8x4
    jaxkd recipes standardization
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    parser = command_line()
    name = parser.parse_args(arguments).name
    try:
        print(shown(name) if name in recipes.list() else listed(recipes.list() if name is None else found(name)))
    except ValueError as error:
        parser.error(str(error))
    return 0


def listed(names: Iterable[str]) -> str:
    """Return recipes with their numbers, under the paper and the table that have them."""
    lines: list[str] = []
    for heading, group in itertools.groupby(map(recipes.get, names), key=table_of):
        lines += ["", *heading, *(f"  {recipe.name:40s} {recipe.published}" for recipe in group)]
    return "\n".join(lines)


def table_of(recipe: recipes.Recipe) -> tuple[str, str]:
    """Return where a number is published: the paper, and the table with the epoch it states."""
    return recipe.paper, f"{recipe.table}, {recipe.reported} epoch"


def found(wanted: str) -> list[str]:
    """Return the recipes of a method, a pair, a network or a training.

    Raises:
      ValueError: for a word that is none of them, with the closest that is.

    Example:
      >>> found("vgg13-vgg8")[0]
      'kd/vgg13-vgg8'
    """
    words: dict[str, list[str]] = {}
    for recipe in map(recipes.get, recipes.list()):
        method, pair = recipe.name.split("/")
        for word in dict.fromkeys((method, pair, recipe.student, recipe.teacher, recipe.training.name)):
            words.setdefault(word or "", []).append(recipe.name)
    if wanted in words:
        return words[wanted]
    hint = did_you_mean(wanted, [*recipes.list(), *words])
    raise ValueError(
        f"{wanted!r} is not a recipe, method, pair, network or training with published numbers: {hint}"
        "jaxkd recipes prints all"
    )


def shown(name: str) -> str:
    """Return all that leads to a published number, and the command that runs it."""
    recipe = recipes.get(name)
    method, training = recipe.method.describe(), recipe.training
    rates = f"{training.learning_rate:g}"
    if training.drops:
        rates += f", a tenth of it after each of epochs {', '.join(map(str, training.drops))}"
    numbers = {
        "published": f"{recipe.published} %, {recipe.reported} epoch, {recipe.data}",
        "paper": f"{recipe.paper}; {recipe.table}",
        "teacher": recipe.teacher or "none: labels alone",
        "student": recipe.student,
        "method": f"{recipe.method.title} ({method['name']})",
        "weights": ", ".join(f"{term} {weight_of(weight)}" for term, weight in method["weights"].items()),
        "settings": ", ".join(f"{key} {value:g}" for key, value in method["settings"].items()),
        "training": f"{training.name}: {training.epochs} epochs, batches of {training.batch_size}",
        "learning rate": rates,
        "weight decay": f"{training.weight_decay:g}",
        "around it": around_the_loss(training),
    }
    if recipe.teacher is None:
        command = f"jaxkd train --recipe {name}"
    else:
        command = f"jaxkd distill --recipe {name} --teacher {recipe.teacher}.pth"
    lines = [f"{key:15s}{value}" for key, value in numbers.items() if value]
    return "\n".join([name, *lines, f"{'command':15s}{command}"])


def around_the_loss(training: recipes.Training) -> str:
    """Return what a schedule has that plain SGD in steps has not, in the words of the options.

    Example:
      >>> around_the_loss(recipes.get_training("repdistiller"))
      ''
    """
    usual = {field.name: field.default for field in dataclasses.fields(training)}
    names = [name for name in OPTIONS if name != "weight_decay" and getattr(training, name) != usual[name]]
    return ", ".join(f"{name} {getattr(training, name)}" for name in names)


def weight_of(weight: object) -> str:
    """Return a weight in words, a function of the epoch by its name and numbers.

    Example:
      >>> weight_of(0.9), weight_of({"function": "Warmup", "epochs": 20, "weight": 1.0})
      ('0.9', 'Warmup(epochs 20, weight 1)')
    """
    if isinstance(weight, dict):
        numbers = ", ".join(f"{key} {value:g}" for key, value in weight.items() if key != "function")
        return f"{weight['function']}({numbers})"
    return f"{weight:g}"


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = CommandLine(prog=program("recipes"), description=__doc__, epilog=EXAMPLES, formatter_class=Help)
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe, a method, a pair, a network or a training")
    return parser
