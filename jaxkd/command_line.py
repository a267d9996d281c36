"""The parser of the commands: a mistake is told in one line, with its cure and without the usage before it."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import NoReturn

_NUMBERS = {"int": "a whole number, as in 30", "float": "a number, as in 0.05"}
_UNKNOWN = "unrecognized arguments: "
_CHOICES = re.compile(r"invalid choice: '(?P<given>[^']*)' \(choose from (?P<known>[^)]*)\)")


class CommandLine(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that says what is wrong in one line, and what is right.

    Example:
      >>> parser = CommandLine(prog="distill.py")
      >>> _ = parser.add_argument("--epochs", type=int)
      >>> parser.advice("argument --epochs: invalid int value: 'ten'")
      "argument --epochs: 'ten' is no whole number: give one, as in 30"
      >>> parser.advice("unrecognized arguments: --epoch 3")
      'there is no option --epoch: did you mean --epochs? --help shows all'
    """

    def error(self, message: str) -> NoReturn:
        """Print the mistake and its cure to standard error, and end with code 2."""
        self.exit(2, f"{self.prog}: error: {self.advice(message)}\n")

    def advice(self, message: str) -> str:
        """Return what argparse says of a mistake, with its cure."""
        if message.startswith(_UNKNOWN):
            return self._of_unknown(message.removeprefix(_UNKNOWN).split())
        if number := re.search(r"invalid (int|float) value: (.*)$", message):
            kind, example = _NUMBERS[number[1]].split(", ")
            return f"{message[: number.start()]}{number[2]} is no {kind.removeprefix('a ')}: give one, {example}"
        if choice := _CHOICES.search(message):
            known = [name.strip(" '") for name in choice["known"].split(",")]
            close = difflib.get_close_matches(choice["given"], known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            return f"{message[: choice.start()]}invalid choice: {choice['given']!r}; {hint}there are {', '.join(known)}"
        if message.endswith("expected one argument"):
            return message.replace("expected one argument", "it needs a value behind it; --help shows which")
        return message

    def _of_unknown(self, given: list[str]) -> str:
        options = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        first = next((text for text in given if text.startswith("-")), None)
        if first is None:
            return f"{' '.join(given)!r} belongs to no option: put it behind one, or in quotes if it is part of a name"
        name = first.partition("=")[0]
        close = difflib.get_close_matches(name, options, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"there is no option {name}: {hint}--help shows all"
