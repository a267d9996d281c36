"""What a student learns from: method, schedule, teacher and images, as the command line and the recipe have them."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any

import training_options
import training_run

import jaxkd
from jaxkd import convert, models, recipes
from jaxkd.convert.checkpoint import locate
from jaxkd.records import RunDirectory, fingerprint


@dataclasses.dataclass(frozen=True)
class Lesson:
    """All that runs with different seeds have in common.

    Attributes:
      options: the command line.
      recipe: the published number, if one was named.
      method: how to distil.
      training: the resolved schedule.
      teacher: None for a student alone.
      student: the name of the network.
      train: its images.
      test: those it is measured on.
    """

    options: argparse.Namespace
    recipe: recipes.Recipe | None
    method: recipes.Method
    training: recipes.Training
    teacher: Any
    student: str
    train: training_options.Images
    test: training_options.Images

    @property
    def title(self) -> str:
        """What is done."""
        return f"{self.method.title}, recipe {self.training.name}"

    def run(self, seed: int, folder: pathlib.Path | None) -> training_run.Run:
        """The run of a seed, compiled; a folder of None is named after it.

        Raises:
          ValueError: for a student that a loss cannot work with.
        """
        options = argparse.Namespace(**{**vars(self.options), "seed": seed, "output": folder})
        method, training, teacher, train = self.method, self.training, self.teacher, self.train
        student: Any = models.create(self.student, num_classes=train.num_classes, seed=seed)
        trainer = jaxkd.Trainer(student) if teacher is None else jaxkd.Distiller(student=student, teacher=teacher)
        # A student alone has nothing to keep.
        cache = False if teacher is None else teacher_cache(options.cache_teacher)
        training_options.compile_trainer(trainer, train, training, options, method.losses(train), method.weights, cache)
        settings = training_options.settings_of(
            options,
            training,
            train,
            method=method.describe(),
            student=self.student,
            teacher=None if teacher is None else {"name": teacher.name, "sha256": fingerprint(options.teacher)},
        )
        facts = {
            "student": {"name": self.student, "parameters": training_run.parameters(student)},
            **training_options.published(
                self.recipe, method, teacher and teacher.name, self.student, training, options
            ),
        }
        directory = RunDirectory(folder or default_output(options, method, teacher, self.student))
        return training_run.Run(trainer, train, self.test, training, options, directory, settings, "student", facts)


def prepare(options: argparse.Namespace) -> Lesson:
    """Reads what the command line names.

    Raises:
      ValueError, OSError, ImportError, RuntimeError: for what does not exist or does not go together.
    """
    recipe = training_options.begin(options)
    name = options.student or (recipe and recipe.student)
    if name is None:
        raise ValueError("name the network by --student, as in resnet20, or by --recipe, as in kd/resnet56-resnet20")
    method = method_of(options, recipe)
    training = training_options.training_of(options, name, recipe)
    teacher = load_teacher(options, method, recipe)
    train, test = training_options.load_data(options, training)
    check_classes(teacher, train)
    return Lesson(options, recipe, method, training, teacher, name, train, test)


def method_of(options: argparse.Namespace, recipe: recipes.Recipe | None) -> recipes.Method:
    """The method, with the published numbers unless the command line has others.

    Raises:
      ValueError: for a setting or weight that the method does not have.
    """
    chosen = recipes.get_method(options.method or "kd") if recipe is None or options.method else recipe.method
    names = ("temperature", "correct", "wrong")
    settings = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    weights = {"ce": options.ce_weight, chosen.teaching_term or "kd": options.kd_weight}
    weights = {name: weight for name, weight in weights.items() if weight is not None}
    return chosen.adapted(weights | dict(options.weight), **(settings | dict(options.setting)))


def teacher_path(text: str) -> pathlib.Path:
    """Where a teacher's weights are, if the command line has the directory of a run."""
    return locate(text)


def load_teacher(options: argparse.Namespace, method: recipes.Method, recipe: recipes.Recipe | None) -> Any:
    """The teacher, from a torch file or a checkpoint folder; None where the method has no use for one.

    Raises:
      ValueError, OSError: for options that do not go together, or a file that cannot be read.
    """
    path, name = options.teacher, options.teacher_name or (recipe and recipe.teacher)
    if path is None:
        if method.needs_teacher:
            which = f", a {name}" if name else ""
            raise ValueError(f"--method {method.name} needs a --teacher{which}")
        return None
    try:
        return convert.load_pretrained(path, name).model
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--teacher {error}") from None
    except ValueError as error:
        if name is None:
            raise
        whose = f"--teacher-name {name}" if options.teacher_name else f"--recipe {options.recipe} has a {name}"
        raise ValueError(f"{whose}, but {error}") from error


def teacher_cache(option: str | None) -> bool | str | jaxkd.TeacherCache:
    """What `--cache-teacher` says: nothing, "auto", or a folder."""
    if option is None:
        return False
    return option if option == "auto" else jaxkd.TeacherCache(option)


def check_classes(teacher: Any, train: training_options.Images) -> None:
    """Refuses a teacher that was trained for something else."""
    if teacher is not None and teacher.num_classes != train.num_classes:
        raise ValueError(
            f"the teacher tells {teacher.num_classes} classes apart, and {train.name} has {train.num_classes}: "
            "choose the --data it was trained on"
        )


def default_output(options: argparse.Namespace, method: recipes.Method, teacher: Any, student: str) -> pathlib.Path:
    """A folder under runs/ that says what the run is."""
    pair = student if teacher is None else f"{teacher.name}-{student}"
    return pathlib.Path("runs") / f"{options.data}-{pair}-{method.name}-seed{options.seed}"
