"""What a run directory holds, and how it comes about.

    config.json    every option with its resolved value, versions, device, command line, state of the user's code
    metrics.csv    a line per epoch: each loss term, learned temperatures, learning rate, accuracies, images per second
    checkpoints/   the newest state of training, from which `--resume` goes on
    result.json    the last and the best epoch and the rule that chose it, the teacher's accuracy, seconds
    curves.png     training and test accuracy, where matplotlib is installed
    NAME.pth       the trained network for PyTorch
    NAME/          the same for jaxkd.convert.load, with the statistics its images are normalised with

Records are written completely or not at all.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax

import jaxkd
from jaxkd import callbacks, convert, plots
from jaxkd.engine import checkpoints

_PACKAGES = ("jaxkd", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunDirectory:
    """A folder with one run.

    Args:
      path: where; made by `start`.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path).expanduser()
        self.config_file = self.path / "config.json"
        self.checkpoints = self.path / "checkpoints"
        self.result_file = self.path / "result.json"

    def check(self, settings: Mapping[str, Any], resume: bool) -> None:
        """Refuses what would damage a run: a folder that holds one, and going on with one under other settings.

        Args:
          settings: all that decides the run's outcome, as JSON values.
          resume: whether the user wants to go on with a run in this folder.

        Raises:
          ValueError: with the cure; with the settings that differ.
        """
        if not self.config_file.exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise ValueError(f"{self.path} exists and holds no run: choose another --output")
            return
        if not resume:
            raise ValueError(f"{self.path} holds a run already: go on with it by --resume, or choose another --output")
        before, now = flat(read_json(self.config_file)["settings"]), flat(_as_json(settings))
        changed = [
            f"{name} was {before.get(name, 'absent')!r} and is {now.get(name, 'absent')!r}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name, "absent") != now.get(name, "absent")
        ]
        if changed:
            raise ValueError(f"--resume: {self.path} was begun with other settings: {'; '.join(changed)}")

    def start(self, settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        """Makes the folder and writes down what is about to happen; a resumed run keeps what it wrote at first."""
        if self.config_file.exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.config_file, {"settings": settings, "arguments": arguments, **environment()})

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return checkpoints.latest(self.checkpoints) is not None

    def callbacks(self) -> list[callbacks.Callback]:
        """What keeps the records while `fit` runs; the checkpoint comes last, so that it never is ahead of them."""
        return [callbacks.CSVLogger(self.path / "metrics.csv"), callbacks.Checkpoint(self.checkpoints)]

    def finish(self, trainer: jaxkd.Trainer, name: str, reported: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the trained network, the curves and the result, and returns the result.

        Args:
          trainer: after `fit`.
          name: of the network's files: "student" or "model".
          reported: "last" or "best", what the recipe's tables state.
          facts: what else belongs to the result.
        """
        convert.to_torch(trainer.model, self.path / f"{name}.pth")
        convert.save(trainer.model, self.path / name)
        history = trainer.history
        if plots.available():
            figure, (axes,) = plots.canvas()
            for title, quantity in (("training", "accuracy"), ("test", "val_accuracy")):
                plots.learning_curves({title: history}, axes, quantity, label="accuracy (%)")
            plots.save(figure, self.path / "curves.png")
        result = {**summary(history, reported), **facts}
        write_json(self.result_file, result)
        return result


def summary(history: jaxkd.History, reported: str) -> dict[str, Any]:
    """The last and the best epoch of a run, and how the best was chosen.

    Returns:
      JSON values.
    """
    measured = [name for name in history.history if name.startswith("val_")]
    best, _ = history.best("val_accuracy", "max")

    def at(epoch: int) -> dict[str, Any]:
        row = history.epoch.index(epoch - 1)
        return {"epoch": epoch, **{name: history.history[name][row] for name in measured}}

    return {
        "last": at(history.epoch[-1] + 1),
        "best": at(best),
        "rule": "last: the last epoch; best: the highest val_accuracy on the test images, the earliest of equals",
        "reported": reported,
    }


def environment() -> dict[str, Any]:
    """Where and with what something runs, as JSON values."""
    devices = jax.devices()
    return {
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "machine": {"system": f"{platform.system()} {platform.machine()}", "processors": os.cpu_count()},
        "git": _git(pathlib.Path.cwd()),
    }


def fingerprint(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, or of all files of a folder with their names."""
    root = pathlib.Path(path)
    files = sorted(entry for entry in root.rglob("*") if entry.is_file()) if root.is_dir() else [root]
    total = hashlib.sha256()
    for file in files:
        if root.is_dir():
            total.update(str(file.relative_to(root)).encode())
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest() if root.is_dir() else opened.read())
    return total.hexdigest()


def read_json(path: pathlib.Path) -> Any:
    """What a JSON file holds.

    Raises:
      ValueError: with the file's name, if it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): remove the folder, or choose another --output") from error


def write_json(path: pathlib.Path, content: Any, indent: int | None = 2) -> None:
    """Writes a JSON file completely or not at all; `indent=None` puts all of it on one line."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(content, indent=indent, default=str) + "\n", encoding="utf-8")
    unfinished.replace(path)


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _as_json(content: Any) -> Any:
    """What `content` is after a round trip through a JSON file."""
    return json.loads(json.dumps(content, default=str))


def _git(folder: pathlib.Path) -> dict[str, Any] | None:
    """The commit of the code in a folder and whether it was changed since; None where git knows of none."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
