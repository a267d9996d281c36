"""The parser of the commands: a mistake is told in one line, with its cure and without the usage before it.

A command has two names, `jaxkd train` and what it is outside of an installed package, `train_teacher.py`. All texts say
the first; a process that was started by the other says that one, in its help, its errors and what it tells to type.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import contextvars
import functools
import io
import multiprocessing
import os
import pathlib
import re
import shlex
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, ParamSpec, TypeVar

from jaxkd.keywords import did_you_mean

Given = ParamSpec("Given")
Found = TypeVar("Found")

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

BROKEN_PIPE = 141
"""The exit code where nobody reads on, likewise."""

_SCRIPTS = {
    "train": "train_teacher.py",
    "distill": "distill.py",
    "sweep": "ats_grid.py",
    "reproduce": "reproduce.py",
    "quickstart": "quickstart.py",
    "figures": "figures.py",
}
_MODULES = ("convert", "export", "report")
_COMMAND = re.compile(
    rf"(?P<indent>^ +(?:… )?)?\bjaxkd (?P<command>{'|'.join([*_SCRIPTS, *_MODULES])})\b", re.MULTILINE
)
_by_other_names = contextvars.ContextVar("by_other_names", default=False)

_NUMBERS = {"int": "a whole number, as in 30", "float": "a number, as in 0.05"}
_UNKNOWN = "unrecognized arguments: "
_CHOICES = re.compile(r"invalid choice: '(?P<given>[^']*)' \(choose from (?P<known>[^)]*)\)")


def by_other_names(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """Return a function in which the commands go by the names of scripts and modules.

    Example:
      >>> by_other_names(program)("train"), program("train")
      ('train_teacher.py', 'jaxkd train')
    """

    @functools.wraps(function)
    def called(*args: Given.args, **kwargs: Given.kwargs) -> Found:
        token = _by_other_names.set(True)
        try:
            return function(*args, **kwargs)
        finally:
            _by_other_names.reset(token)

    return called


_IN_ASCII = {
    "…": "...", "×": "x", "·": "-", "−": "-", "–": "-", "±": "+-", "→": "->", "≥": ">=", "≠": "!=", "½": "1/2",
    "²": "^2", "√": "sqrt", "‖": "||", "τ": "tau", "λ": "lambda", "σ": "sigma", "ε": "eps", "α": "alpha",
    "β": "beta", "γ": "gamma", "δ": "delta", "π": "pi", "₀": "0", "₁": "1", "₂": "2", "₃": "3",
}  # fmt: skip
"""The signs of what commands print, and what stands for each on terminals that have ASCII alone."""


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    return _IN_ASCII.get(sign) or sign.encode("ascii", "backslashreplace"), error.start + 1


codecs.register_error("jaxkd.in_ascii", _in_ascii)


def replace_missing_signs(stream: object) -> None:
    """Have a stream write other signs in the place of those that its encoding lacks, as ASCII does.

    Names of files that are no text count among them, which no encoding has.

    Example:
      >>> stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
      >>> replace_missing_signs(stream)
      >>> print("32×32×3 · loss 0.4 … 0.5 · ü", file=stream, flush=True)
      >>> stream.buffer.getvalue().decode()
      '32x32x3 - loss 0.4 ... 0.5 - \\\\xfc\\n'
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="jaxkd.in_ascii")


def program(command: str) -> str:
    """Return what a command is called by whoever typed it, for `prog`."""
    return spoken(f"jaxkd {command}")


def spoken(text: str) -> str:
    """Return a text with the names of commands as they are typed where this process was started.

    Example:
      >>> print(by_other_names(spoken)("  jaxkd distill --help\\n  what jaxkd train and jaxkd convert wrote"))
        python experiments/distill.py --help
        what train_teacher.py and python -m jaxkd.convert wrote
    """
    return _COMMAND.sub(_other_name, text) if _by_other_names.get() else text


def _other_name(found: re.Match[str]) -> str:
    indent, script = found["indent"] or "", _SCRIPTS.get(found["command"])
    if script is None:
        return f"{indent}python -m jaxkd.{found['command']}"
    return f"{indent}python experiments/{script}" if indent else script  # a line to be typed, or words


def end(main: Callable[[], int], resumable: bool = False) -> NoReturn:
    """Run a command and end the process with its code; after Ctrl-C, say in one line how to resume.

    That a run diverged, that a disk is full or memory is too small is said in one line, too. Warnings are a line each,
    without the line of the code that they come from. Where the terminal or the log has no sign for "…" and the like,
    another is written.

    Args:
      main: the command.
      resumable: whether it takes `--resume`.
    """
    for stream in (sys.stdout, sys.stderr):
        replace_missing_signs(stream)
    warnings.formatwarning = lambda message, category, filename, lineno, line=None: f"warning: {message}\n"
    interrupts = _noted_interrupts()
    try:
        code = main()
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        _leave_interrupted(resumable)
    except FloatingPointError as error:  # a run diverged
        code = _failed(f"{error}{OTHER_NUMBERS if resumable else ''}")
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    except Exception as error:
        if interrupts:  # an import or another call of a library that was broken off fails in its own way
            _leave_interrupted(resumable)
        if isinstance(error, OSError):  # of the disk, perhaps after hours
            sys.exit(_failed(f"{error}{f'; {_to_resume()}' if resumable else ''}"))
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        code = _failed(f"out of memory{LESS_MEMORY if resumable else ''} ({str(error).splitlines()[0][:200]})")
    sys.exit(code)


OTHER_NUMBERS = ". A run keeps its numbers to its end: with others it is another run, with an --output of its own"
LESS_MEMORY = (
    ": give a smaller --batch-size, or --gradient-accumulation-steps 2 or --precision bfloat16; if no epoch was done, "
    "remove the run's folder first"
)


def _failed(message: str) -> int:
    """Say in one line why a command ends; return the exit code."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    return 1


def _to_resume() -> str:
    """Return how a command goes on."""
    return f"to resume: {typed(sys.argv)}{' --resume' * ('--resume' not in sys.argv)}"


def _noted_interrupts() -> list[int]:
    """Return a list that gets an entry at each Ctrl-C, which still raises KeyboardInterrupt.

    One that comes while a callback of the garbage collector runs would be lost: it is raised again. JAX has such a
    callback, and it is often the first to run when a compilation is done.
    """
    noted: list[int] = []
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # as in jobs in a shell's background
        return noted

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    def unraisable(given: sys.UnraisableHookArgs) -> None:
        if issubclass(given.exc_type, KeyboardInterrupt):
            threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()  # when the callback is over
        else:
            sys.__unraisablehook__(given)

    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = unraisable
    return noted


def _leave_interrupted(resumable: bool) -> NoReturn:
    """Say in one line how to resume, and end at once: Python's own end crashes while a library's thread compiles."""
    cure = f"; {_to_resume()}" if resumable else ""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # `tee` may have died of the same Ctrl-C
        print(f"interrupted{cure}", file=sys.stderr, flush=True)
    for worker in multiprocessing.active_children():
        worker.terminate()
    with contextlib.suppress(OSError, AttributeError):
        sys.stdout.flush()
    os._exit(INTERRUPTED)


def typed(command: Sequence[str]) -> str:
    """Return a process's command line as it was typed.

    Example:
      >>> typed(["/usr/bin/jaxkd", "train"]), typed(["a/jaxkd/__main__.py", "info"]), typed(["distill.py", "-h"])
      ('jaxkd train', 'python -m jaxkd info', 'python distill.py -h')
    """
    path = pathlib.PurePath(command[0])
    first = ["python", "-m", path.parent.name] if path.name == "__main__.py" else ["python", command[0]]
    return shlex.join([*(["jaxkd"] if path.stem == "jaxkd" else first), *command[1:]])


def at_home(text: str) -> pathlib.Path:
    """Return a path whose `~` is the home, which shells leave as it is in --output=~/runs.

    Raises:
      argparse.ArgumentTypeError: for an address, as in gs://bucket/run.

    Example:
      >>> at_home("runs/~a"), at_home("~/runs") == pathlib.Path.home() / "runs"
      (PosixPath('runs/~a'), True)
    """
    if "://" in text and not text.startswith("hf://"):
        raise argparse.ArgumentTypeError(f"{text} is an address, and a path on this machine is needed: copy it here")
    return pathlib.Path(os.path.expanduser(text))  # unlike Path's own, it leaves "~nobody" alone


class Help(argparse.RawDescriptionHelpFormatter):
    """Writes help with the names of commands as they are typed where this process was started."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return super()._fill_text(spoken(text), width, indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help and spoken(action.help)


class CommandLine(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that says what is wrong in one line, and what is right.

    Example:
      >>> parser = CommandLine(prog="distill.py")
      >>> _ = parser.add_argument("--epochs", type=int)
      >>> parser.advice("argument --epochs: invalid int value: 'ten'")
      "argument --epochs: 'ten' is not a whole number: give one, as in 30"
      >>> parser.advice("unrecognized arguments: --epoch 3")
      'there is no option --epoch: did you mean --epochs? --help shows all'
    """

    source = ""
    """The source of options that were not typed, as errors begin: "FILE: "."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register("type", pathlib.Path, at_home)

    def error(self, message: str) -> NoReturn:
        """Print the mistake and its cure to standard error, and end with code 2."""
        self.exit(2, f"{self.prog}: error: {self.source}{spoken(self.advice(message))}\n")

    def advice(self, message: str) -> str:
        """Return what argparse says of a mistake, with its cure."""
        if message.startswith(_UNKNOWN):
            return self._of_unknown(message.removeprefix(_UNKNOWN).split())
        if number := re.search(r"invalid (int|float) value: (.*)$", message):
            kind, example = _NUMBERS[number[1]].split(", ")
            return f"{message[: number.start()]}{number[2]} is not {kind}: give one, {example}"
        if choice := _CHOICES.search(message):
            known = [name.strip(" '") for name in choice["known"].split(",")]
            hint = did_you_mean(choice["given"], known, cutoff=0.5)
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
        return no_option(name, options)


def no_option(name: str, known: Iterable[str]) -> str:
    """Return what is said of an option that does not exist, with the closest that does."""
    return f"there is no option {name}: {did_you_mean(name, known)}--help shows all"
