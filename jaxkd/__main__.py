"""`jaxkd`, or `python -m jaxkd`: all commands by their names."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import jaxkd
from jaxkd.command_line import CommandLine, Help, end

COMMANDS = {
    "begin": {
        "quickstart": "train a teacher and fifteen students, five ways, on digits, in two minutes",
        "info": "versions, devices, what computes convolutions, and where data and caches are",
    },
    "train": {
        "train": "a network on labels alone: a teacher, or the student that distilled ones are compared with",
        "distill": "a student from a teacher, by any method and recipe",
        "sweep": "a student for every combination of some settings, in as few programs as possible",
        "reproduce": "the rows of a published table, and write ours beside them",
    },
    "use a network": {
        "evaluate": "measure accuracy, loss and calibration on a data set",
        "predict": "tell what it sees in pictures, file by file",
        "convert": "files of weights of PyTorch and others, to and from this library's",
        "export": "a student as ONNX, StableHLO, LiteRT, PyTorch or safetensors",
    },
    "look at runs": {
        "report": "a page about some runs, for a browser",
        "figures": "the papers' figures, of your runs or of published teachers",
    },
    "what there is": {
        "models": "all networks with their sizes, or one of them",
        "recipes": "all published numbers that a run can aim at, or one of them",
    },
}
MODULES = {name: f"jaxkd.{name}.__main__" for name in ("convert", "export", "report")}
"""Those that are not in `jaxkd.commands`, but with what they call."""

RESUMABLE = ("train", "distill", "sweep")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command by its name; None takes the process's own command line."""
    parser = command_line()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        parser.print_help()
        return 0
    first = given[0].partition("=")[0]
    if first.startswith("-") and not any(first in action.option_strings for action in parser._actions):
        parser.error(f"unrecognized arguments: {given[0]}")  # where argparse would miss the command
    name, *rest = parser.parse_args(given).command
    return int(module(name).main(rest))


def module(name: str) -> Any:
    """Return the module of a command, which is loaded now: some need JAX, which takes a second."""
    return importlib.import_module(MODULES.get(name, f"jaxkd.commands.{name}"))


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the first word; a command has its own for the others."""
    parser = CommandLine(
        prog="jaxkd",
        usage="jaxkd COMMAND …",
        description=f"{jaxkd.__doc__}\n\n{listing()}",
        epilog="jaxkd COMMAND --help says what a command takes, with examples.",
        formatter_class=Help,
    )
    names = [name for group in COMMANDS.values() for name in group]
    parser.add_argument("command", nargs=argparse.PARSER, choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"jaxkd {jaxkd.__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=("bash", "zsh", "tcsh", "fish"),
        help="print what makes the Tab key complete commands, options and names, for this shell",
    )
    return parser


class PrintCompletion(argparse.Action):
    """Print the script for a shell, and end the program, as `--help` does."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option_string: str | None = None
    ) -> None:
        described = {name: what for group in COMMANDS.values() for name, what in group.items()}
        parsers = {name: (what, module(name).command_line()) for name, what in described.items()}
        print(importlib.import_module("jaxkd.commands.completion").script(str(values), parsers))
        parser.exit()


def listing() -> str:
    """Return all commands, a line each, under headings."""
    lines = []
    for heading, group in COMMANDS.items():
        lines += [f"{heading}:", *(f"  {name:12s}{what}" for name, what in group.items()), ""]
    return "\n".join(lines[:-1])


def entry() -> NoReturn:
    """Run the process's own command line and end the process."""
    end(main, resumable=any(name in sys.argv[1:2] for name in RESUMABLE))


if __name__ == "__main__":
    entry()
