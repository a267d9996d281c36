"""Completion of `jaxkd …` by the Tab key: a script for the shell, with all commands, options and names."""

from __future__ import annotations

import argparse
import importlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from jaxkd import models, recipes
from jaxkd.command_line import CommandLine
from jaxkd.commands.options import teacher_path

_NAMES: Mapping[str, Callable[[], list[str]]] = {
    "method": recipes.methods,
    "recipe": lambda: [*recipes.trainings(), *recipes.list()],
    **dict.fromkeys(("model", "student", "teacher_name"), models.list),
}
"""Values of options that have no list of choices, since other values are right too."""

_FILES = ("network", "source", "input", "runs")
"""Arguments that are paths, or addresses as well."""


def script(shell: str, parsers: Mapping[str, tuple[str, argparse.ArgumentParser]]) -> str:
    """Return the script for a shell.

    Args:
      shell: its name, such as bash.
      parsers: for each command, what it does and its parser.
    """
    shtab: Any = importlib.import_module("shtab")
    everything = CommandLine(prog="jaxkd")
    everything.add_argument("--version", action="version", version="")
    parts: Any = everything.add_subparsers()
    for name, (what, parser) in parsers.items():
        for action in _actions(parser):
            if action.dest in _NAMES:
                action.choices = _NAMES[action.dest]()
            elif action.type in (pathlib.Path, teacher_path) or action.dest in _FILES:
                action.complete = shtab.FILE
        parts.add_parser(name, help=what, parents=[parser], add_help=False)
    return str(shtab.complete(everything, shell=shell))


def _actions(parser: argparse.ArgumentParser) -> list[Any]:
    """Return the actions of a parser and of its parts."""
    found: list[Any] = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [inner for part in action.choices.values() for inner in _actions(part)]
    return found
