"""The rows of a published table that are to be run."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jaxkd import recipes
from jaxkd.convert import ConversionError
from jaxkd.convert.checkpoint import read_manifest

SMOKE_TEACHER, SMOKE_STUDENT = "resnet14", "resnet8"


@dataclass(frozen=True)
class Row:
    """One method for one pair of networks.

    Attributes:
      method: its name.
      teacher: the network that teaches; None for a student alone.
      student: the network that is trained.
      recipe: the published number it belongs to; None where there is none.
    """

    method: str
    teacher: str | None
    student: str
    recipe: recipes.Recipe | None = None

    @property
    def pair(self) -> str:
        """The name of the pair, as columns of tables have it."""
        return f"{self.teacher}-{self.student}" if self.teacher else self.student

    @property
    def arguments(self) -> list[str]:
        """The arguments of jaxkd distill for it."""
        if self.recipe is not None:
            return ["--recipe", self.recipe.name]
        return ["--method", self.method, "--student", self.student]


def rows_of(names: Sequence[str], methods: Sequence[str] | None, also: Sequence[str]) -> list[Row]:
    """Return all rows that go by some names, each once.

    Args:
      names: recipes (`kd/resnet56-resnet20`), methods (`ctkd`: every pair it is published for), pairs
        (`resnet56-resnet20`: every method, and the student alone) or trainings (`standardization`).
      methods: only these; None takes all.
      also: methods to run for the same pairs although no table has them.

    Raises:
      ValueError: for a name that is nothing of it, or a method that does not exist.

    Example:
      >>> [row.method for row in rows_of(["wrn_40_2-wrn_16_2"], ["ce", "kd", "dkd"], ["ats"])]
      ['ce', 'kd', 'dkd', 'ats']
    """
    for method in [*(methods or ()), *also]:
        recipes.get_method(method)
    found = dict.fromkeys(name for wanted in names for name in _recipes_of(wanted))
    rows = [_row(recipes.get(name)) for name in found]
    pairs = dict.fromkeys((row.teacher, row.student) for row in rows if row.teacher)
    rows += [Row(method, *pair) for method in also for pair in pairs]
    return [row for row in rows if methods is None or row.method in methods or row.method in also]


def on_digits(rows: Iterable[Row]) -> list[Row]:
    """Return the same methods for two small networks that digits train in seconds, each once.

    Example:
      >>> [row.pair for row in on_digits(rows_of(["ctkd"], None, []))]
      ['resnet14-resnet8']
    """
    methods = dict.fromkeys((row.method, row.teacher is not None) for row in rows)
    return [Row(method, SMOKE_TEACHER if needs_teacher else None, SMOKE_STUDENT) for method, needs_teacher in methods]


def _recipes_of(wanted: str) -> list[str]:
    names = recipes.list()
    if wanted in names:
        return [wanted]
    parts = [(name, *name.split("/")) for name in names]
    found = [name for name, method, pair in parts if wanted in (method, pair)]
    found = found or [name for name in names if recipes.get(name).training.name == wanted]
    if not found:
        raise ValueError(
            f"{wanted!r} is no recipe, method, pair or training with published numbers: a pair is written as "
            "resnet56-resnet20, and jaxkd distill --list-recipes prints all"
        )
    student = wanted.rpartition("-")[2]
    alone = [f"ce/{student}"] if any(pair == wanted for _, _, pair in parts) and f"ce/{student}" in names else []
    return [*(name for name in alone if name not in found), *found]


def _row(recipe: recipes.Recipe) -> Row:
    return Row(recipe.method.name, recipe.teacher, recipe.student, recipe)


_WAYS = ("{name}/model", "{name}", "{name}.pth", "cifar100_{name}.pth", "{name}.safetensors", "{name}_vanilla/*.pth")


def teacher_file(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Return where the weights of a teacher are: a folder that jaxkd wrote, or a file, called after the network.

    Args:
      folder: to look in.
      name: of the network.

    Raises:
      FileNotFoundError: there is none; the error says under which names it was looked for.
    """
    for way in _WAYS:
        found = sorted(folder.glob(way.format(name=name)))
        found = [path for path in found if path.is_file() or _holds_weights(path)]
        if found:
            return found[0]
    ways = ", ".join(way.format(name=name) for way in _WAYS)
    raise FileNotFoundError(
        f"--teachers {folder} has no {name} (looked for {ways}): train it by jaxkd train --model {name} "
        f"--output {folder / name}, or copy its published weights there"
    )


def _holds_weights(folder: pathlib.Path) -> bool:
    try:
        read_manifest(folder)
    except ConversionError:
        return False
    return True
