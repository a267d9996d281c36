"""Lists the networks that can be trained, taught from and converted, or describes one of them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from jaxkd import models, recipes
from jaxkd.command_line import CommandLine, Help, program
from jaxkd.convert.architectures import CHANNELS, CLASSES, Network, networks
from jaxkd.models.description import CIFAR_CLASSES, IMAGENET_CLASSES, IMAGENET_SIZE
from jaxkd.models.registry import image_size
from jaxkd.nn.tokens import ANY

EXAMPLES = """examples:
  all of them, with the number of their parameters:
    jaxkd models
  those that papers state an accuracy for:
    jaxkd models --published
  one, with its features and multiply-accumulates; any width and depth of a family will do:
    jaxkd models wrn_28_4 --num-classes 10
    jaxkd models resnet18 --image-size 160
"""

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""The ends of a state dict's keys where nothing is trained."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    parser = command_line()
    options = parser.parse_args(arguments)
    if options.name is None:
        if options.num_classes is not None or options.image_size is not None:
            parser.error("--num-classes and --image-size describe one network: name it, as in jaxkd models resnet20")
        print("\n".join(listed(options.published)))
        return 0
    try:
        print(described(options.name, options.num_classes, options.image_size))
    except ValueError as error:
        parser.error(str(error))
    return 0


def listed(published: bool) -> list[str]:
    """Return all networks, a line for each with its other names, parameters and perhaps published accuracy.

    Args:
      published: only those that recipes have an accuracy for, on labels alone.
    """
    alone = {recipe.student: recipe for recipe in map(recipes.get, recipes.list()) if recipe.teacher is None}
    lines = [f"{'network':28s} {'parameters':>12s}  {'published':20s} other names".rstrip()]
    for network in sorted(networks(), key=lambda network: network.names[0].lower()):
        name, *others = network.names
        recipe = next((alone[other] for other in network.names if other in alone), None)
        if published and recipe is None:
            continue
        accuracy = f"{recipe.published} {recipe.data}" if recipe else ""
        size = parameters(network)
        shown = "–" if size is None else f"{size:,}"
        lines.append(f"{name:28s} {shown:>12s}  {accuracy:20s} {', '.join(others)}".rstrip())
    if any("–" in line for line in lines):
        lines.append("–: the number depends on the size of the images; jaxkd models NAME says it")
    return lines


def parameters(network: Network) -> int | None:
    """Return how many numbers a network trains, with the classes of `models.describe`; None where images decide it.

    Example:
      >>> next(parameters(network) for network in networks() if "resnet20" in network.names)
      278324
    """
    shapes = [shape for key, shape in network.shapes.items() if not key.endswith(BUFFERS)]
    if any(ANY in shape for shape in shapes):
        return None
    large = image_size(network.names[0]) == IMAGENET_SIZE
    sizes = {CLASSES: IMAGENET_CLASSES if large else CIFAR_CLASSES, CHANNELS: 3}
    return sum(math.prod(sizes.get(side, side) for side in shape) for shape in shapes)


def described(name: str, num_classes: int | None, side: int | None) -> str:
    """Return what one network is, and which published numbers it is in.

    Raises:
      ValueError: for an unknown name, or images that it cannot take.
    """
    found = models.describe(name, num_classes)
    if side is not None:
        found = models.describe(name, num_classes, (side, side, found.image_shape[-1]))
    taught = [recipe for recipe in map(recipes.get, recipes.list()) if name in (recipe.student, recipe.teacher)]
    numbers = f"{len(taught)} published numbers, as a student or a teacher: jaxkd recipes {name}"
    return "\n".join([str(found), numbers] if taught else [str(found)])


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = CommandLine(prog=program("models"), description=__doc__, epilog=EXAMPLES, formatter_class=Help)
    parser.add_argument("name", nargs="?", metavar="NAME", help="describe this network")
    parser.add_argument(
        "--published", action="store_true", help="only those that a paper states an accuracy for, on labels alone"
    )
    parser.add_argument("--num-classes", type=int, metavar="N", help="default: those of the data it was published for")
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels a side; default: what it was published for")
    return parser
