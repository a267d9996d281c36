"""The record of one run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from flax import nnx

from jaxkd import convert
from jaxkd.history import History
from jaxkd.records.directory import summary


@dataclasses.dataclass(frozen=True)
class PublishedNumber:
    """A paper's result for the recipe of a run.

    Attributes:
      name: of the recipe.
      accuracy: on the test images, as a part of 1.
      deviation: over the paper's runs, where it states one.
      reported: the epoch that is meant: "last" or "best".
      paper: whose number it is.
      table: in which table.
      as_published: whether the run kept to the recipe, so that the two numbers mean the same.
      top5: the top-5 accuracy, where it is stated.
    """

    name: str
    accuracy: float
    deviation: float | None
    reported: Literal["last", "best"]
    paper: str
    table: str
    as_published: bool
    top5: float | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """One run: its settings, environment and measurements.

    Attributes:
      path: its folder; for a run of a sweep, that of the sweep.
      name: the folder's name, and for a run of a sweep its settings.
      settings: all that decides the run's outcome, resolved.
      history: every epoch so far.
      environment: `versions`, `device`, `convolutions`, `machine`, `git`, `command`, `written`, as far as they were
        recorded.
      arguments: the options that the user gave.
      result: what the run wrote at its end; None before.
    """

    path: Path
    name: str
    settings: Mapping[str, Any]
    history: History
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    result: Mapping[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """True for a run that came to its end."""
        return self.result is not None

    @property
    def seed(self) -> int | None:
        """The seed of initial weights, order and augmentation."""
        return self.settings.get("seed")

    @property
    def network(self) -> str | None:
        """The name of the network that was trained."""
        return self.settings.get("student") or self.settings.get("model")

    @property
    def method(self) -> str | None:
        """The method's name, as `recipes.get_method` knows it; None for a network trained on labels alone."""
        return _named(self.settings.get("method"))

    @property
    def alone(self) -> bool:
        """True for a network trained on labels, without a teacher."""
        return self.method == "ce" or (self.method is None and self.teacher is None)

    @property
    def data(self) -> str | None:
        """The data set's name."""
        return _named(self.settings.get("data"))

    @property
    def data_options(self) -> dict[str, Any]:
        """Return what `data.load` takes to read the run's images again; a name that is not recorded is None."""
        entry = self.settings.get("data")
        recorded = entry if isinstance(entry, Mapping) else {}
        return {
            "name": self.data,
            "data_dir": self.arguments.get("data_dir"),
            "image_size": recorded.get("image_size", self.arguments.get("image_size")),  # of earlier versions
            "validation_split": recorded.get("validation_split"),
        }

    @property
    def data_folder(self) -> str | None:
        """Where its images were read from, if that is still there."""
        folder = self.data_options["data_dir"]
        return folder if folder and Path(folder).expanduser().exists() else None

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """`(H, W, C)` of the images that it was trained on; None before its end, and of earlier versions."""
        shape = (self.result or {}).get("image_shape")
        if shape is None:
            return None
        height, width, channels = map(int, shape)
        return height, width, channels

    @property
    def limited(self) -> bool:
        """True for a first try on a part of the images, whose numbers are no result."""
        return any(self.settings.get(name) is not None for name in ("limit_examples", "limit_steps"))

    @property
    def teacher(self) -> Mapping[str, Any] | None:
        """`name`, `sha256` of its file, `accuracy` on the test images, as far as they are known; None without one."""
        given = self.settings.get("teacher")
        named = given if isinstance(given, Mapping) else {"name": given} if given else {}  # a name in cells of sweeps
        return {**named, **((self.result or {}).get("teacher") or {})} or None

    @property
    def teacher_accuracy(self) -> float | None:
        """The teacher's accuracy on the test images; None where it was not measured."""
        return (self.teacher or {}).get("accuracy")

    @property
    def epochs(self) -> int | None:
        """The number of epochs the run is to have."""
        return self._training.get("epochs")

    @property
    def measured(self) -> bool:
        """True where test accuracy was measured."""
        return any(value is not None for value in self.history.history.get("val_accuracy", ()))

    @property
    def last(self) -> Mapping[str, Any]:
        """`epoch` and every `val_…` of the last epoch so far.

        Raises:
          KeyError: where test accuracy was never measured.
        """
        return self._ends["last"]

    @property
    def best(self) -> Mapping[str, Any]:
        """`epoch` and every `val_…` of the best epoch so far, chosen by `rule`.

        Raises:
          KeyError: where test accuracy was never measured.
        """
        return self._ends["best"]

    @property
    def best_ema(self) -> Mapping[str, Any] | None:
        """Return that of the best epoch of the averaged weights; None where they were not measured or chosen by."""
        return self._ends.get("best_ema")

    @property
    def rule(self) -> str:
        """The rule by which `last` and `best` were chosen, in words."""
        return str(self._ends["rule"])

    @property
    def reported(self) -> Literal["last", "best"]:
        """The epoch that the tables of the run's recipe state."""
        return (self.result or {}).get("reported") or self._training.get("reported") or "last"

    @property
    def published(self) -> PublishedNumber | None:
        """The published number for the run's recipe; None where it has none, and before the run is finished."""
        recipe = (self.result or {}).get("recipe")
        return None if recipe is None else PublishedNumber(**recipe)

    def student(self) -> nnx.Module:
        """Load the trained network from its stand-alone weights.

        Raises:
          FileNotFoundError: the run is not finished, or its weights were not kept.
          ConversionError: they are damaged.
        """
        for name in ("student", "model"):
            if (self.path / name).is_dir():
                return convert.load(self.path / name)
        weights = [path for path in (self.path / "student.pth", self.path / "model.pth") if path.exists()]
        if weights:
            cure = f"build the network and read {weights[0]} into it: convert.load_state_dict(network, weights, path)"
        elif self.finished:
            cure = "copy the folder student/ (or model/) from where the run was trained, or train it again"
        else:
            cure = (
                "the run is not finished: let it come to its end, with the same command and --resume if it was killed"
            )
        raise FileNotFoundError(f"{self.path} holds no network that can be loaded; {cure}")

    @property
    def weights_epoch(self) -> int | None:
        """The epoch whose weights were kept, where that is not the last: a callback put an earlier state back."""
        return (self.result or {}).get("weights_epoch")

    @property
    def _training(self) -> Mapping[str, Any]:
        given = self.settings.get("training")
        return given if isinstance(given, Mapping) else {}  # a cell of a user's sweep may have that name

    @functools.cached_property
    def _ends(self) -> Mapping[str, Mapping[str, Any]]:
        return self.result if self.result and "last" in self.result else summary(self.history, self.reported)


def _named(entry: Any) -> str | None:
    """Return the name in a setting that is a name, or an object with one."""
    return entry.get("name") if isinstance(entry, Mapping) else entry
