"""`RunConfig`: what a run is, typed, resolved once, and written to the `config.json` of its directory.

Example:
  >>> from jaxkd import recipes
  >>> config = RunConfig(
  ...     network="resnet20",
  ...     data=DataConfig("cifar100"),
  ...     training=recipes.get_training("repdistiller"),
  ...     method=recipes.get_method("kd"),
  ...     teacher=TeacherConfig(pathlib.Path("resnet56.pth"), "resnet56"),
  ... )
  >>> other = dataclasses.replace(config, seed=1)
  >>> other.folder.name, RunConfig.from_dict(other.to_dict()) == other
  ('cifar100-resnet56-resnet20-kd-seed1', True)
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from jaxkd import recipes
from jaxkd.types import Normalization

__all__ = ["DataConfig", "InitConfig", "RunConfig", "TeacherConfig"]

Built = TypeVar("Built")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images of a run.

    Attributes:
      name: one of `data.names()`.
      data_dir: where the files are; None takes `$JAXKD_DATA`, else `~/data`.
      image_size: pixels a side, of data sets that are streamed; None takes 224.
      workers: processes that decode, of data sets that are streamed; None takes one a core, at most 32, and none on
        fewer than four.
      images: number of training images; None until they are read.
      normalization: what the images are normalised with; None until they are read.
      validation_split: the part of the images to hold out, of data sets without a split; None for those with one.
      balanced: draw every class equally often.
    """

    name: str
    data_dir: pathlib.Path | None = None
    image_size: int | None = None
    workers: int | None = None
    images: int | None = None
    normalization: Normalization | None = None
    validation_split: float | None = None
    balanced: bool = False


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """The teacher of a run.

    Attributes:
      path: a file of weights or the folder of a saved model; None where none is given.
      name: the network, or those of several with + between them; None finds it by the keys of the file.
      sha256: of the file or folder, of several that of their digests; None until it is read.
      evaluate: measure it on the test images first.
      cache: "auto" caches its outputs in memory, any other text is a folder for them; None computes them anew.
      others: further teachers: the student learns from the mean of all their logits.

    Raises:
      ValueError: others without a first one.
    """

    path: pathlib.Path | None = None
    name: str | None = None
    sha256: str | None = None
    evaluate: bool = True
    cache: str | None = None
    others: tuple[pathlib.Path, ...] = ()

    def __post_init__(self) -> None:
        if self.others and self.path is None:
            raise ValueError(f"others={self.others}: they come after a first teacher, which path names")


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """The weights that the trained network starts from, and how it is fine-tuned.

    Attributes:
      path: a file of weights, the folder of a saved model or the directory of a run. A classifier of another number of
        classes is replaced by a fresh one.
      sha256: of the file or folder; None until it is read.
      head_learning_rate: the first rate of the classifier; None where it is that of the rest.
      freeze: train the classifier alone; everything else stays as it is, and BatchNorm uses its running statistics.
    """

    path: pathlib.Path | None = None
    sha256: str | None = None
    head_learning_rate: float | None = None
    freeze: bool = False

    def __post_init__(self) -> None:
        rate = self.head_learning_rate
        if rate is not None and not rate > 0:
            raise ValueError(f"head_learning_rate={rate}: give a number above 0")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """All that a run is made from; change one value with `dataclasses.replace(config, seed=1)`.

    Attributes:
      network: the name of the network to train, as `models.create` takes it.
      data: its images.
      training: the resolved schedule.
      method: what a student minimises; None trains on labels alone, as teachers are.
      teacher: None for a run without one.
      init: the weights that the network starts from; None draws them from the seed.
      recipe: the name of the published number to compare with; None for none.
      seed: of initial weights, order of examples and augmentation.
      precision: what the networks compute in, "float32", "bfloat16", or "highest", float32 multiplied in full.
      batch_norm: "global" normalises over the whole batch, "per_device" over each device's part.
      gradient_accumulation_steps: microbatches per batch.
      limit_examples: train and test on so many images at most, for a first try; None takes all.
      limit_steps: train for so many steps an epoch at most, likewise.
      distributed: join the other processes of the run first.
      output: the run directory; None names it after the run, see `folder`.
      resume: continue the run in that directory.
      checkpoint_minutes: how often to save within an epoch; None saves after each epoch only.
      quiet: print no progress.
    """

    network: str
    data: DataConfig
    training: recipes.Training
    method: recipes.Method | None = None
    teacher: TeacherConfig | None = None
    init: InitConfig | None = None
    recipe: str | None = None
    seed: int = 0
    precision: str = "float32"
    batch_norm: str = "global"
    gradient_accumulation_steps: int = 1
    limit_examples: int | None = None
    limit_steps: int | None = None
    distributed: bool = False
    output: pathlib.Path | None = None
    resume: bool = False
    checkpoint_minutes: float | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.method is None and self.teacher is not None:
            raise ValueError(f"{self.network} has a teacher and no method: give the method by which it learns from it")
        for name in ("limit_examples", "limit_steps"):
            if (limit := getattr(self, name)) is not None and limit < 1:
                raise ValueError(f"{name}={limit}: give at least 1")
        if self.checkpoint_minutes is not None and not self.checkpoint_minutes > 0:
            raise ValueError(f"checkpoint_minutes={self.checkpoint_minutes}: give a number above 0")

    @property
    def title(self) -> str:
        """Method and schedule, in words."""
        return f"{self.method.title if self.method else 'labels alone'}, recipe {self.training.name}"

    @property
    def role(self) -> str:
        """Return the name of the trained network in the run directory: "student", or "model" without a method."""
        return "model" if self.method is None else "student"

    @property
    def limited(self) -> bool:
        """Tell whether it is a first try on a part of the images, whose numbers are no result."""
        return self.limit_examples is not None or self.limit_steps is not None

    @property
    def folder(self) -> pathlib.Path:
        """The run directory: `output`, by default `runs/DATA-NETWORKS-METHOD-seedN`, of a first try `…-limited`."""
        networks = [self.teacher.name] if self.teacher and self.teacher.name else []
        parts = [self.data.name, *networks, self.network, *([self.method.name] if self.method else [])]
        return self.output or pathlib.Path("runs") / f"{'-'.join(parts)}-seed{self.seed}{'-limited' * self.limited}"

    def settings(self) -> dict[str, Any]:
        """Return all that decides the outcome, as JSON values; a run is resumed only with the same settings."""
        normalization = self.data.normalization and _lists(self.data.normalization._asdict())
        data: dict[str, Any] = {"name": self.data.name, "images": self.data.images, "normalization": normalization}
        if self.data.image_size is not None:
            data["image_size"] = self.data.image_size
        if self.data.validation_split is not None:
            data["validation_split"] = self.data.validation_split
        if self.data.balanced:
            data["balanced"] = True
        decided = {
            "data": data,
            "seed": self.seed,
            "precision": self.precision,
            "training": _training_settings(self.training),
            "batch_norm": self.batch_norm,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
        }
        for name in ("limit_examples", "limit_steps"):
            if getattr(self, name) is not None:
                decided[name] = getattr(self, name)
        if self.init is not None:
            started = dataclasses.asdict(self.init)
            decided["init"] = {name: value for name, value in started.items() if name != "path"}
        if self.method is None:
            return decided | {"model": self.network}
        teacher = self.teacher and {"name": self.teacher.name, "sha256": self.teacher.sha256}
        return decided | {"method": self.method.describe(), "student": self.network, "teacher": teacher}

    def arguments(self) -> dict[str, Any]:
        """Return where files are and how the run is carried out, as JSON values; it may be resumed with others."""
        teacher = self.teacher or TeacherConfig()
        options = {
            "teacher": [str(path) for path in (teacher.path, *teacher.others)]
            if teacher.others
            else _text(teacher.path),
            "evaluate_teacher": teacher.evaluate,
            "cache_teacher": teacher.cache,
        }
        file = None if self.method is None else self.method.file
        return {
            "recipe": self.recipe,
            "data_dir": _text(self.data.data_dir),
            "workers": self.data.workers,
            **(options if self.method is not None else {}),
            **({} if self.init is None else {"init": _text(self.init.path)}),
            **({} if file is None else {"method_file": f"{file.path}:{file.function}"}),
            "distributed": self.distributed,
            "output": _text(self.output),
            "resume": self.resume,
            "checkpoint_minutes": self.checkpoint_minutes,
            "quiet": self.quiet,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON values: `settings` and `arguments`, the first entries of `config.json`."""
        return {"settings": self.settings(), "arguments": self.arguments()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RunConfig:
        """Return the configuration that `to_dict` wrote.

        Args:
          content: `settings` and perhaps `arguments`; also all of a run's `config.json`, of earlier versions too.

        Raises:
          ValueError: for a name that is unknown or missing, with those that are known; for a value of another type;
            for a method, or a weight of it, that cannot be built.

        Example:
          >>> RunConfig.from_dict({"settings": {"model": "resnet20", "data": {"nmae": "digits"}}})
          Traceback (most recent call last):
          ValueError: settings.data.nmae is unknown; known are name, images, normalization, image_size, validation_sp...
        """
        _check_names("", content, ("settings", "arguments"), ignored=_ENVIRONMENT)
        settings, arguments = (_mapping(name, content.get(name, {})) for name in ("settings", "arguments"))
        _check_names("settings.", settings, _SETTINGS)
        _check_names("arguments.", arguments, _ARGUMENTS, ignored=_RESOLVED)
        network = settings.get("student", settings.get("model"))
        if network is None:
            raise ValueError('settings names no network: give "student" with a method, or "model" for labels alone')
        recipe = arguments.get("recipe")
        return _build(
            cls,
            "settings.",
            {
                "network": network,
                "data": _data(settings, arguments),
                "training": _training(settings),
                "method": _method(settings["method"], arguments) if "method" in settings else None,
                "init": _init(settings.get("init"), arguments),
                "teacher": _teacher(settings.get("teacher"), arguments),
                "recipe": recipe if recipe in recipes.list() else None,  # of earlier versions: also a training's name
                "output": _path("arguments.output", arguments.get("output")),
                **{name: settings[name] for name in _RUN_SETTINGS if name in settings},
                **{name: arguments[name] for name in _RUN_ARGUMENTS if name in arguments},
            },
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RunConfig:
        """Return the configuration in a JSON file, or in the `config.json` of a run directory.

        Raises:
          FileNotFoundError: where there is none.
          ValueError: as `from_dict`, with the name of the file; for a file that is no JSON.
        """
        file = pathlib.Path(path).expanduser()
        file = file / "config.json" if file.is_dir() else file
        try:
            return cls.from_dict(_mapping("the file", json.loads(file.read_text(encoding="utf-8"))))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error


_RUN_SETTINGS = ("seed", "precision", "batch_norm", "gradient_accumulation_steps", "limit_examples", "limit_steps")
_RUN_ARGUMENTS = ("distributed", "resume", "checkpoint_minutes", "quiet")
_SETTINGS = ("data", "training", "method", "student", "model", "teacher", "init", *_RUN_SETTINGS)
_DATA = ("name", "images", "normalization", "image_size", "validation_split", "balanced")
_TEACHER = {"teacher": "path", "evaluate_teacher": "evaluate", "cache_teacher": "cache"}
_ARGUMENTS = ("recipe", "data_dir", "workers", "output", "init", "method_file", *_TEACHER, *_RUN_ARGUMENTS)
# Earlier versions also wrote the options that are resolved in the settings.
_RESOLVED = (
    *("data", "image_size", "model", "student", "teacher_name", "seed", "precision", "batch_norm", "list_recipes"),
    *("method", "temperature", "correct", "wrong", "ce_weight", "kd_weight", "weight", "setting"),
    *("epochs", "batch_size", "learning_rate", "gradient_accumulation_steps"),
)
# What else is in the config.json of a run directory: where and with what it ran.
_ENVIRONMENT = ("started", "written", "command", "versions", "device", "convolutions", "machine", "git")


def _data(settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> DataConfig:
    given = dict(_mapping("settings.data", settings.get("data", {})))
    _check_names("settings.data.", given, _DATA)
    statistics = given.get("normalization")
    if statistics is not None:
        given["normalization"] = _normalization("settings.data.normalization", statistics)
    given["data_dir"] = _path("arguments.data_dir", arguments.get("data_dir"))
    given["workers"] = arguments.get("workers")
    given.setdefault("image_size", arguments.get("image_size"))
    return _build(DataConfig, "settings.data.", given)


def _training(settings: Mapping[str, Any]) -> recipes.Training:
    given = dict(_mapping("settings.training", settings.get("training", {})))
    if "drops" in given:
        given["drops"] = _tuple("settings.training.drops", given["drops"])
    if given.get("normalization") is not None:
        where = "settings.training.normalization"
        statistics = zip(Normalization._fields, _tuple(where, given["normalization"]), strict=False)
        given["normalization"] = _normalization(where, dict(statistics))
    return _build(recipes.Training, "settings.training.", given)


def _teacher(given: Any, arguments: Mapping[str, Any]) -> TeacherConfig | None:
    if given is None and arguments.get("teacher") is None:
        return None
    given = {} if given is None else given
    _check_names("settings.teacher.", _mapping("settings.teacher", given), ("name", "sha256"))
    options = {field: arguments[name] for name, field in _TEACHER.items() if name in arguments}
    several = options.get("path") if isinstance(options.get("path"), list) else [options.get("path")]
    path, *others = (_path("arguments.teacher", one) for one in several or [None])
    return _build(TeacherConfig, "settings.teacher.", {**given, **options, "path": path, "others": tuple(others)})


def _init(given: Any, arguments: Mapping[str, Any]) -> InitConfig | None:
    if given is None and arguments.get("init") is None:
        return None
    fields = {} if given is None else _mapping("settings.init", given)
    _check_names("settings.init.", fields, ("sha256", "head_learning_rate", "freeze"))
    return _build(InitConfig, "settings.init.", {**fields, "path": _path("arguments.init", arguments.get("init"))})


def _method(given: Any, arguments: Mapping[str, Any]) -> recipes.Method:
    described = _mapping("settings.method", given)
    _check_names("settings.method.", described, ("name", "weights", "settings", "sha256"))
    name = str(arguments.get("method_file", described.get("name")))
    published = recipes.get_method(name)
    if (digest := described.get("sha256")) and (published.file is None or published.file.sha256 != digest):
        raise ValueError(
            f"settings.method was built by a file whose SHA-256 is {digest}, and {name} is another: it was changed "
            "since, or is not that file; give the one of the run as arguments.method_file"
        )
    weights = _mapping("settings.method.weights", described.get("weights", {}))
    built = {term: _weight(term, weight, published.weights.get(term)) for term, weight in weights.items()}
    settings = _mapping("settings.method.settings", described.get("settings", {}))
    numbers = {name: _number(f"settings.method.settings.{name}", value) for name, value in settings.items()}
    return published.adapted(built, **numbers)


def _weight(term: str, given: Any, published: recipes.Weight | None) -> recipes.Weight:
    """Return a weight from its description; a function of the epoch must be of the published one's class."""
    if not isinstance(given, Mapping):
        return _number(f"settings.method.weights.{term}", given)
    values = dict(given)
    name = values.pop("function", None)
    if name != type(published).__name__ or not dataclasses.is_dataclass(published):
        raise ValueError(f"settings.method.weights.{term} is a {name}, which is not published for it: give a number")
    return _build(type(published), f"settings.method.weights.{term}.", values)


def _build(kind: Callable[..., Built], where: str, given: Mapping[str, Any]) -> Built:
    """Return a dataclass from its fields' values, whose names and types are checked."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    _check_names(where, given, fields)
    missing = [
        name
        for name, field in fields.items()
        if name not in given and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where}{missing[0]} is missing: give all of {', '.join(fields)}")
    for name, hint in typing.get_type_hints(kind).items():
        plain = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if name in given and all(type(part) is type for part in plain):
            value, allowed = given[name], (*plain, *((int,) if float in plain else ()))
            if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in plain):
                wanted = " or ".join("null" if part is types.NoneType else part.__name__ for part in plain)
                raise ValueError(f"{where}{name} is {value!r}: give {wanted}")
    return kind(**given)


def _check_names(where: str, given: Mapping[str, Any], known: Iterable[str], ignored: Iterable[str] = ()) -> None:
    unknown = sorted(given.keys() - set(known) - set(ignored))
    if unknown:
        raise ValueError(f"{', '.join(where + name for name in unknown)} is unknown; known are {', '.join(known)}")


def _number(where: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError(f"{where} is {given!r}: give a number")
    return given


def _mapping(where: str, given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} is {given!r}: give an object with names")
    return given


def _normalization(where: str, given: Any) -> Normalization:
    values = {name: _tuple(f"{where}.{name}", value) for name, value in _mapping(where, given).items()}
    if values.keys() != set(Normalization._fields):
        raise ValueError(f"{where} is {given!r}: give mean and std, a number for each channel")
    return Normalization(**values)


def _tuple(where: str, given: Any) -> tuple[Any, ...]:
    if not isinstance(given, list | tuple):
        raise ValueError(f"{where} is {given!r}: give a list")
    return tuple(given)


def _lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with tuples as lists, as JSON has them."""
    return {name: _list(value) for name, value in values.items()}


def _training_settings(training: recipes.Training) -> dict[str, Any]:
    """Return a schedule as JSON values; what earlier versions did not know, only where it says something."""
    defaults = {field.name: field.default for field in dataclasses.fields(training)}
    values = _lists(dataclasses.asdict(training))
    names = list(values)
    since = names[names.index("reported") + 1 :]
    return {name: value for name, value in values.items() if name not in since or value != defaults[name]}


def _list(value: Any) -> Any:
    return [_list(part) for part in value] if isinstance(value, tuple) else value


def _path(where: str, text: Any) -> pathlib.Path | None:
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{where} is {text!r}: give a path as text, or null")
    return None if text is None else pathlib.Path(text)


def _text(path: pathlib.Path | None) -> str | None:
    return None if path is None else str(path)
