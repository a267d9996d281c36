"""Groups of runs that differ in nothing but the seed, and the settings that tell groups apart."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from jaxkd import recipes
from jaxkd.records.directory import flat
from jaxkd.records.record import PublishedNumber, Record
from jaxkd.spread import Curve, Spread, mean_curve

_ALONE = {"name": "ce", "weights": {"ce": 1.0}, "settings": {}}

# What tells configurations apart, the most telling first; what is not here comes last.
_TELLING = (
    "student",
    "teacher.name",
    "data.name",
    "data.images",
    "method.name",
    "method.settings",
    "method.weights",
    "training.name",
    "training.epochs",
    "training",
    "precision",
    "data",
    "method",
    "teacher",
)


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one configuration.

    Attributes:
      label: a short name that no other group has.
      settings: what the runs share, with dotted names.
      runs: one per seed.
    """

    label: str
    settings: Mapping[str, Any]
    runs: tuple[Record, ...]

    @property
    def finished(self) -> tuple[Record, ...]:
        """The runs that came to their end."""
        return tuple(run for run in self.runs if run.finished)

    @property
    def compared(self) -> tuple[Record, ...]:
        """The runs whose numbers count: the finished ones with a test accuracy, else all that have one."""
        measured = tuple(run for run in self.runs if run.measured)
        return tuple(run for run in measured if run.finished) or measured

    @property
    def alone(self) -> bool:
        """True for networks trained on labels, without a teacher."""
        return self.runs[0].alone

    @property
    def teacher_accuracy(self) -> float | None:
        """The teacher's accuracy on the test images, as one of the runs measured it."""
        return next((run.teacher_accuracy for run in self.runs if run.teacher_accuracy is not None), None)

    @property
    def published(self) -> PublishedNumber | None:
        """The published number for the configuration's recipe, once a run is finished."""
        return next((run.published for run in self.runs if run.published is not None), None)

    @property
    def repeated(self) -> tuple[int, ...]:
        """Seeds that are there more than once: such runs are not independent, and their deviation is too small."""
        seeds = [run.seed for run in self.compared if run.seed is not None]
        return tuple(sorted({seed for seed in seeds if seeds.count(seed) > 1}))

    def spread(self, which: Literal["last", "best"], quantity: str = "val_accuracy") -> Spread | None:
        """Return a quantity at the last or the best epoch of every run; None where no run measured it."""
        values = [getattr(run, which).get(quantity) for run in self.compared]
        measured = tuple(value for value in values if value is not None)
        return Spread(measured) if measured else None

    def curve(self, quantity: str) -> Curve | None:
        """Average a quantity over the runs, epoch by epoch; None where they have no epoch of it in common."""
        curve = mean_curve([run.history for run in self.compared or self.runs], quantity)
        return curve if len(curve.epochs) else None


def groups(runs: Iterable[Record]) -> list[Group]:
    """Group runs by configuration, in the order in which they first appear.

    A label is the method's title, and as many settings as it takes to tell it from the others.

    Example:
      >>> from jaxkd.history import History
      >>> def run(seed, method, temperature):
      ...     method = {"name": method, "settings": {"temperature": temperature}}
      ...     return Record("runs/a", "a", {"seed": seed, "student": "resnet8", "method": method}, History())
      >>> found = groups([run(0, "kd", 4.0), run(1, "kd", 4.0), run(0, "kd", 2.0), run(0, "dist", 4.0)])
      >>> [(group.label, len(group.runs)) for group in found]
      [('KD, temperature 4', 2), ('KD, temperature 2', 1), ('DIST', 1)]
    """
    by_settings: dict[str, list[Record]] = {}
    for run in runs:
        by_settings.setdefault(json.dumps(_shared(run), sort_keys=True, default=str), []).append(run)
    members = list(by_settings.values())
    settings = [_shared(found[0]) for found in members]
    labels = _labels([title(found[0]) for found in members], settings)
    return [Group(*each) for each in zip(labels, settings, map(tuple, members), strict=True)]


def differences(of: Sequence[Group]) -> dict[str, list[Any]]:
    """Return the settings that are not the same in all groups, with the value in each; None where it has none."""
    names = sorted(dict.fromkeys(name for group in of for name in group.settings), key=_rank)
    values = {name: [group.settings.get(name) for group in of] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def title(run: Record) -> str:
    """Return the method of a run in words.

    Example:
      >>> from jaxkd.history import History
      >>> title(Record("runs/a", "a", {"model": "resnet14"}, History()))
      'resnet14 alone'
    """
    method = run.method
    if method is None and run.teacher is not None:
        return f"{run.network or 'student'} from {run.teacher.get('name', 'a teacher')}"
    if run.alone:
        return f"{run.network} alone" if run.network else run.name
    return recipes.get_method(method).title if method in recipes.methods() else str(method)


def words(setting: str, value: Any) -> str:
    """Return a setting with its value, for a label.

    Example:
      >>> words("method.settings.temperature", 4.0), words("method.weights.kd", 0.9), words("teacher.name", "resnet56")
      ('temperature 4', 'weight of kd 0.9', 'teacher resnet56')
      >>> words("data.images", 200)
      '200 images'
    """
    if setting == "data.images" and isinstance(value, int):
        return f"{value:,} images"
    name = setting.removeprefix("method.settings.").removeprefix("training.").removesuffix(".name")
    if name.startswith("method.weights."):
        name = f"weight of {name.removeprefix('method.weights.')}"
    return f"{name.replace('_', ' ').replace('.', ' ')} {text(value)}"


def text(value: Any) -> str:
    """Return a setting's value as a user would write it.

    Example:
      >>> text(4.0), text([150, 180]), text(None), text(True), text("0b48a688325d142954688f7a98752e2293661baa0a2a3812")
      ('4', '150, 180', '–', 'yes', '0b48a688…')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(text, value)) or "none"
    shown = str(value)
    is_digest = len(shown) >= 40 and all(letter in "0123456789abcdef" for letter in shown)
    return f"{shown[:8]}…" if is_digest else shown


def _shared(run: Record) -> dict[str, Any]:
    """Return what a run shares with runs of other seeds; networks trained on labels have one description."""
    settings = dict(run.settings)
    if "model" in settings:
        settings["student"] = settings.pop("model")
    for name in ("method", "teacher"):
        if isinstance(settings.get(name), str):  # as tables of sweeps have it
            settings[name] = {"name": settings[name]}
    if settings.get("teacher") is None and settings.get("method") is None and "student" in settings:
        settings |= {"teacher": None, "method": _ALONE}
    return {name: value for name, value in flat(settings).items() if name not in ("seed", "seeds")}


def _labels(titles: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the titles, with the fewest settings that tell equal ones apart."""
    labels = list(titles)
    names = sorted({name for each in settings for name in each}, key=_rank)
    for name in names:
        if len(set(labels)) == len(labels):
            break
        longer = [
            f"{label}, {words(name, each.get(name))}" if labels.count(label) > 1 else label
            for label, each in zip(labels, settings, strict=True)
        ]
        if len(set(longer)) > len(set(labels)):
            # Only where it tells two apart: a label says nothing that all of its namesakes share.
            labels = [
                new
                if len({new_of for old_of, new_of in zip(labels, longer, strict=True) if old_of == old}) > 1
                else old
                for old, new in zip(labels, longer, strict=True)
            ]
    return [
        f"{label} ({labels[:place].count(label) + 1})" if labels.count(label) > 1 else label
        for place, label in enumerate(labels)
    ]


def _rank(name: str) -> tuple[int, str]:
    for rank, prefix in enumerate(_TELLING):
        if name == prefix or name.startswith(f"{prefix}."):
            return rank, name
    return len(_TELLING), name
