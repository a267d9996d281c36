"""Run directories: write what a run decides, measures and results in.

    config.json    every option with its resolved value, versions, device, command line, state of the user's code
    metrics.csv    a line per epoch: each loss term, learned temperatures, learning rate, accuracies, images per second
    checkpoints/   the newest state of training, to resume from after an interruption
    result.json    the last and the best epoch and the rule that chose it, the teacher's accuracy, the shape of the
                   images, seconds
    curves.png     training and test accuracy, where matplotlib is installed
    NAME.pth       the trained network for PyTorch
    NAME/          the same for jaxkd.convert.load, with the statistics its images are normalised with; for networks
                   that models.create makes
    NAME-ema…      the same two of the averaged weights, where the run keeps them

NAME is "student" or "model". Records are written completely or not at all.
"""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

import jax

from jaxkd import callbacks, convert, plots
from jaxkd.checks import warn_caller
from jaxkd.convert import manifest
from jaxkd.formats.files import write_text
from jaxkd.history import History
from jaxkd.nn import cpu_kernels
from jaxkd.trainer import Trainer
from jaxkd.training import checkpoint

TableRow = dict[str, str]


def damaged(path: pathlib.Path, reason: object) -> ValueError:
    """Return the error for a record that cannot be what was written."""
    return ValueError(
        f"{path} is damaged ({reason}): copy it anew from where it was written, or remove the folder and run it again"
    )


def read_json(path: pathlib.Path) -> Any:
    """Read a JSON file.

    Raises:
      FileNotFoundError: where there is none.
      ValueError: with the file's name, if it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise damaged(path, error) from error


def read_mapping(path: pathlib.Path, *mappings: str) -> dict[str, Any]:
    """Read a JSON object whose entries `mappings`, as far as there are any, are objects too.

    Raises:
      FileNotFoundError, ValueError: as `read_json`, and for other JSON.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise damaged(path, f"it holds {type(content).__name__}, not an object with names")
    for name in mappings:
        if not isinstance(content.get(name, {}), dict):
            raise damaged(path, f"{name!r} is {content[name]!r}, not an object with names")
    return content


def write_json(path: pathlib.Path, content: Any, indent: int | None = 2) -> None:
    """Write a JSON file completely or not at all; `indent=None` puts all of it on one line."""
    write_text(path, f"{json.dumps(content, indent=indent, default=str)}\n")


def read_table(path: pathlib.Path) -> tuple[list[str], list[TableRow]]:
    """Read the columns and rows of a CSV file with a column `epoch`.

    Raises:
      FileNotFoundError: where there is none.
      ValueError: for a table without that column, without rows, or with rows that are too long or too short.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (csv.Error, UnicodeDecodeError) as error:
        raise damaged(path, error) from error
    if "epoch" not in columns:
        raise damaged(path, "it has no column 'epoch'")
    if not rows:
        raise damaged(path, "it has no rows")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise damaged(path, f"line {number} has not one value for each of {len(columns)} columns")
    return columns, rows


def history_of(path: pathlib.Path, rows: Iterable[TableRow], quantities: Sequence[str]) -> History:
    """Return the epochs of one run; an empty field is a quantity that was not measured.

    Raises:
      ValueError: for what is no number, and for epochs that do not follow each other.
    """
    history = History()
    for row in rows:
        try:
            epoch = int(row["epoch"])
            logs = {name: float(row[name]) for name in quantities if row[name]}
        except ValueError as error:
            raise damaged(path, error) from error
        before = history.epoch[-1] + 1 if history.epoch else 0
        if epoch <= before:
            raise damaged(path, f"epoch {epoch} comes after epoch {before}")
        history.append(epoch - 1, logs)
    return history


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one, with dotted names.

    Example:
      >>> flat({"method": {"name": "kd", "weights": {"ce": 0.1}}})
      {'method.name': 'kd', 'method.weights.ce': 0.1}
    """
    found: dict[str, Any] = {}
    for name, value in nested.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


ABSENT = "absent"
"""What `changes` has for a setting that is not there."""


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ between two runs, by their dotted names: what they were and what they are.

    Example:
      >>> changes({"seed": 0, "data": {"name": "digits"}}, {"seed": 1, "data": {"name": "digits"}, "limit_steps": 2})
      {'limit_steps': ('absent', 2), 'seed': (0, 1)}
    """
    first, second = flat(_as_json(before)), flat(_as_json(now))
    values = {
        name: (first.get(name, ABSENT), second.get(name, ABSENT)) for name in sorted(first.keys() | second.keys())
    }
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}


_PARTS = ("written", "command", "versions", "device", "convolutions", "machine", "git")
_PACKAGES = ("jaxkd", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> dict[str, Any]:
    """Return moment, command line, versions, devices, what computes convolutions, machine, and the user's commit.

    Example:
      >>> sorted(environment())
      ['command', 'convolutions', 'device', 'git', 'machine', 'versions', 'written']
    """
    devices = jax.devices()
    return {
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "convolutions": cpu_kernels.describe(),
        "machine": {"system": f"{platform.system()} {platform.machine()}", "processors": os.cpu_count()},
        "git": _git(pathlib.Path.cwd()),
    }


def _git(folder: pathlib.Path) -> dict[str, Any] | None:
    """Return the commit of a folder and whether it was changed since; None outside of a git repository."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, ValueError, subprocess.SubprocessError):  # a ValueError: names of files that are no text
        return None


def environment_in(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `environment` wrote into a record; in old ones the moment is called `started`.

    Example:
      >>> environment_in({"started": "2026-11-22", "settings": {}})
      {'written': '2026-11-22'}
    """
    found = {name: record.get(name) for name in _PARTS}
    found["written"] = found["written"] or record.get("started")
    return {name: value for name, value in found.items() if value}


RULE = "last: the last epoch; best: the highest val_accuracy on the test images, the earliest of equals"
RULE_OF_AVERAGED = f"{RULE}; best_ema: likewise the highest val_ema_accuracy, that of the averaged weights"


class RunDirectory:
    """The folder of one run.

    Args:
      path: where; made by `start`.

    Example:
      >>> import tempfile
      >>> from jaxkd import data, models, optimizers
      >>> train, test = data.load("digits")
      >>> trainer = Trainer(models.create("resnet8", num_classes=10))
      >>> trainer.compile(optimizers.sgd(0.05))
      >>> run = RunDirectory(tempfile.mkdtemp() + "/alone")
      >>> run.start({"model": "resnet8", "seed": 0}, arguments={})
      >>> _ = trainer.fit(train.subset(64), test.subset(64), callbacks=run.callbacks(), verbose=0)
      >>> run.finish(trainer, "model")["best"]["epoch"]
      1
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path).expanduser()
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.csv"
        self.checkpoints = self.path / "checkpoints"
        self.result_file = self.path / "result.json"
        self._held: IO[bytes] | None = None

    def check(self, settings: Mapping[str, Any], resume: bool) -> None:
        """Raise an error for what would damage a run: a folder that holds one, or resuming under other settings.

        Args:
          settings: all that decides the run's outcome, as JSON values.
          resume: whether to resume the run in this folder.

        Raises:
          ValueError: with the cure; with the settings that differ.
        """
        config = read_mapping(self.config_file, "settings") if self.config_file.exists() else {}
        if "settings" not in config:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise ValueError(f"{self.path} exists and holds no run: choose another folder (--output)")
            return
        if not resume:
            raise ValueError(
                f"{self.path} holds a run already: go on with it (--resume), or choose another folder (--output)"
            )
        changed = changes(config["settings"], settings)
        if changed:
            told = "; ".join(f"{name} was {before!r} and is {now!r}" for name, (before, now) in changed.items())
            raise ValueError(f"{self.path} was begun with other settings (--resume): {told}")

    def start(self, settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        """Make the folder and write the configuration; a resumed run keeps the one it has.

        Args:
          settings: all that decides the run's outcome, as JSON values. Readers of records look for `seed`, `student`
            or `model`, `teacher: {name}`, `data: {name}`, `method: {name, weights, settings}`, `training: {epochs, …}`.
          arguments: the options that the user gave.
        """
        content = {"settings": settings, "arguments": arguments, **environment()}  # first: it takes a while
        if self.config_file.exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.config_file, content)

    def hold(self) -> None:
        """Keep other processes from training the same run until `release`, or the end of this one.

        Where the file system knows no locks, it does nothing.

        Raises:
          ValueError: another process trains it.
        """
        try:
            import fcntl

            held = self.config_file.open("r+b")
        except (ImportError, OSError):  # on Windows; a file that may only be read
            return
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            raise ValueError(f"{self.path} is being trained by another process: let it end, or stop it first") from None
        except OSError:
            held.close()
        else:
            self._held = held

    def release(self) -> None:
        """Let other processes train the run."""
        if self._held is not None:
            self._held.close()
            self._held = None

    @property
    def begun(self) -> bool:
        """True where there is a checkpoint to resume from."""
        return checkpoint.latest(self.checkpoints) is not None

    def callbacks(self, every_minutes: float | None = None) -> list[callbacks.Callback]:
        """Return the callbacks that write records during `fit`; the checkpoint comes last, so that it is never ahead.

        Args:
          every_minutes: how often to save within an epoch; by default only after each.
        """
        return [
            callbacks.CSVLogger(self.metrics_file),
            callbacks.Checkpoint(self.checkpoints, every_minutes=every_minutes),
        ]

    def finish(
        self, trainer: Trainer, name: str = "student", reported: str = "last", facts: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write the trained network, the curves and the result, and return the result.

        Args:
          trainer: after `fit` with `validation_data`.
          name: the name of the network's files: "student" or "model".
          reported: the epoch that the recipe's tables state, "last" or "best".
          facts: other entries of the result. Readers of records look for `image_shape`, `(H, W, C)` of the training
            images.

        Returns:
          What was written: the last and the best epoch, `facts`, and `weights_epoch` where the weights are those of
          another epoch than the last, as with `EarlyStopping(restore_best=True)`.
        """
        networks = {name: trainer.model, **({f"{name}-ema": trainer.ema_model} if trainer.keeps_average else {})}
        for title, network in networks.items():
            try:
                convert.to_torch(network, self.path / f"{title}.pth")
            except ValueError as error:  # a network of the user's own; what was measured is kept all the same
                warn_caller(f"{title}.pth was not written: {error}")
            if manifest.is_of_the_zoo(network):
                convert.save(network, self.path / title)
        history = trainer.history
        if plots.available():
            figure, (axes,) = plots.canvas()
            for title, quantity in (("training", "accuracy"), ("test", "val_accuracy")):
                plots.learning_curves({title: history}, axes, quantity, label="accuracy (%)")
            plots.save(figure, self.path / "curves.png")
        result = {**summary(history, reported), **(facts or {})}
        trained = 0 if trainer.state is None else int(trainer.state.epoch)
        if trained != history.epoch[-1] + 1:  # a callback put another state back
            result["weights_epoch"] = trained
        write_json(self.result_file, result)
        return result


def summary(history: History, reported: str = "last") -> dict[str, Any]:
    """Return the last and the best epoch of a run, and how the best was chosen.

    Returns:
      JSON values. Where averaged weights were measured as well, `best_ema` is the best epoch of these.

    Raises:
      KeyError: where test accuracy was never measured.

    Example:
      >>> history = History.from_dict({"epoch": [0, 1, 2], "history": {"val_accuracy": [0.5, 0.75, 0.7]}})
      >>> found = summary(history)
      >>> found["last"], found["best"]
      ({'epoch': 3, 'val_accuracy': 0.7}, {'epoch': 2, 'val_accuracy': 0.75})
    """
    measured = [name for name in history.history if name.startswith("val_")]
    chosen_by = {"best": "val_accuracy"}
    if any(value is not None and not math.isnan(value) for value in history.history.get("val_ema_accuracy", ())):
        chosen_by["best_ema"] = "val_ema_accuracy"

    def at(epoch: int) -> dict[str, Any]:
        row = history.epoch.index(epoch - 1)
        return {"epoch": epoch, **{name: history.history[name][row] for name in measured}}

    best = {which: at(history.best(name, "max")[0]) for which, name in chosen_by.items()}
    rule = RULE_OF_AVERAGED if "best_ema" in best else RULE
    return {"last": at(history.epoch[-1] + 1), **best, "rule": rule, "reported": reported}


def _as_json(content: Any) -> Any:
    """Return `content` as it is after a round trip through a JSON file."""
    return json.loads(json.dumps(content, default=str))
