"""Small networks on digits, in run directories: what the figures show where a user has nothing yet.

Each takes seconds, is trained by the same scripts as real ones, and is there for the next figure.
"""

from __future__ import annotations

import contextlib
import io
import pathlib
from collections.abc import Callable, Sequence

from jaxkd.commands import distill, sweep, train

EPOCHS, BATCH_SIZE = 5, 64
TEACHER, STUDENT = "resnet14", "resnet8"


def network(folder: pathlib.Path, name: str | None = None) -> str:
    """Return the directory of a network, by default the small teacher; train it where it is missing."""
    name = name or TEACHER
    return _run(train.main, folder / name, ["--model", name])


def student(folder: pathlib.Path, method: str, *settings: str) -> str:
    """Return the directory of a student of the small teacher.

    Args:
      folder: for all such runs.
      method: as in jaxkd distill; `ce` is a student alone.
      *settings: other arguments of jaxkd distill.
    """
    name = "-".join([method, *(setting.lstrip("-") for setting in settings)])
    teacher = ["--teacher", f"{network(folder)}/model"] if method != "ce" else []
    arguments = ["--student", STUDENT, "--method", method, "--no-evaluate-teacher", *teacher, *settings]
    return _run(distill.main, folder / name, arguments)


def grid(folder: pathlib.Path) -> str:
    """Return the directory of a small grid of ATS."""
    if (folder / "grid" / "result.json").exists():
        return str(folder / "grid")
    teacher = ["--teacher", f"{network(folder)}/model", "--student", STUDENT]
    temperatures = ["--method", "ats", "--grid", "correct=1,2,4", "--grid", "wrong=1,2"]
    return _quietly(sweep.main, folder / "grid", [*teacher, *temperatures])


def _run(script: Callable[[Sequence[str]], int], path: pathlib.Path, arguments: list[str]) -> str:
    """Run or resume a script where its result is missing, and return the run directory."""
    if (path / "result.json").exists():
        return str(path)
    return _quietly(script, path, [*arguments, "--resume"])


def _quietly(script: Callable[[Sequence[str]], int], path: pathlib.Path, arguments: list[str]) -> str:
    print(f"training {path.name} on digits", flush=True)
    common = ["--data", "digits", "--epochs", str(EPOCHS), "--batch-size", str(BATCH_SIZE), "--quiet"]
    with contextlib.redirect_stdout(io.StringIO()):
        script([*arguments, *common, "--output", str(path)])
    return str(path)
