"""The options for the method: which it is, and other numbers than its published ones."""

from __future__ import annotations

import argparse
from typing import NamedTuple

from jaxkd import recipes
from jaxkd.commands.options import method_name, recipe_of

SETTINGS = ("temperature", "correct", "wrong")
"""The settings with options of their own."""


class Numbers(NamedTuple):
    """What options say of a method, whichever of them say it.

    Attributes:
      weights: by the name of the term.
      settings: by name.
    """

    weights: dict[str, float]
    settings: dict[str, float]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command line."""
    method = parser.add_argument_group("method", "what is not given keeps its published value")
    method.add_argument(
        "--method",
        type=method_name,
        metavar="NAME",
        help="default: the recipe's, else kd; ce is a student alone; FILE.py:FUNCTION is one of your own: "
        f"{', '.join(recipes.methods())}",
    )
    method.add_argument("--temperature", type=float, metavar="T", help="of kd, dkd, mlkd, dist and their variants")
    method.add_argument("--correct", type=float, metavar="T", help="of ats: τ₁, for the true class")
    method.add_argument("--wrong", type=float, metavar="T", help="of ats: τ₂, for the other classes")
    method.add_argument("--ce-weight", type=float, metavar="W", help="of the cross-entropy with the labels")
    method.add_argument("--kd-weight", type=float, metavar="W", help="of the first term that compares with the teacher")
    method.add_argument(
        "--weight",
        type=named_number,
        action="append",
        default=[],
        metavar="TERM=W",
        help="of any term, as in pkt=30000; repeatable. It holds from the first epoch, also where the published one "
        "warms up",
    )
    method.add_argument(
        "--setting",
        type=named_number,
        action="append",
        default=[],
        metavar="NAME=X",
        help="any other number of the method, as in beta=2 or t_end=10; repeatable",
    )


def named_number(text: str) -> tuple[str, float]:
    """Return `NAME=NUMBER` from the command line in two; whole numbers stay whole.

    Example:
      >>> named_number("pkt=3e4"), named_number("negatives=4096")
      (('pkt', 30000.0), ('negatives', 4096))
    """
    name, equals, number = text.partition("=")
    try:
        if not (name and equals):
            raise ValueError
        return name, int(number) if number.lstrip("+-").isdecimal() else float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=NUMBER, as in kd=0.9") from None


def method_of(options: argparse.Namespace) -> recipes.Method:
    """Return the method, with the published numbers unless the command line has others.

    Raises:
      ValueError: for a setting or weight that the method does not have, or that is given two values.
    """
    chosen = _published(options)
    weights, settings = numbers_of(options, chosen)
    return chosen.adapted(weights, **settings)


def numbers_of(options: argparse.Namespace, chosen: recipes.Method) -> Numbers:
    """Return the weights and settings that options say of the method that they choose.

    Raises:
      ValueError: for one that two options give different values.
    """
    own = {f"--{name}": (name, getattr(options, name)) for name in SETTINGS}
    weights = {"--ce-weight": ("ce", options.ce_weight), "--kd-weight": (_taught(chosen), options.kd_weight)}
    return Numbers(_joined(weights, "--weight", options.weight), _joined(own, "--setting", options.setting))


def set_numbers(options: argparse.Namespace, numbers: Numbers) -> None:
    """Have options say these weights and settings, and no others."""
    vars(options).update(dict.fromkeys((*SETTINGS, "ce_weight", "kd_weight")))
    options.weight, options.setting = list(numbers.weights.items()), list(numbers.settings.items())


def prefer(options: argparse.Namespace, before: argparse.Namespace, after: argparse.Namespace) -> None:
    """Have options say what those before say of the method, but for what those after say, by whichever option.

    Raises:
      ValueError: as `numbers_of`, for either; for a recipe that does not exist.
    """
    chosen = _published(options)
    first, last = (numbers_of(one, chosen) for one in (before, after))
    set_numbers(options, Numbers(first.weights | last.weights, first.settings | last.settings))


def _published(options: argparse.Namespace) -> recipes.Method:
    recipe = recipe_of(options)
    return recipes.get_method(options.method or "kd") if recipe is None or options.method else recipe.method


def _taught(chosen: recipes.Method) -> str:
    return chosen.teaching_term or "kd"


def _joined(
    own: dict[str, tuple[str, float | None]], repeatable: str, given: list[tuple[str, float]]
) -> dict[str, float]:
    found = dict(given)
    for option, (name, value) in own.items():
        if value is None:
            continue
        if found.setdefault(name, value) != value:
            raise ValueError(f"{option} {value:g} and {repeatable} {name}={found[name]:g}: give one of them")
    return found
