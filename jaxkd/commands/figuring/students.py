"""The common part of the figures of a teacher and its students."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any, NamedTuple

from jaxkd.commands.figuring import networks, smoke
from jaxkd.commands.figuring.networks import Answers
from jaxkd.data import Dataset


class Asked(NamedTuple):
    """A teacher's and its students' answers to the same images."""

    images: Dataset
    teacher: Answers
    students: list[Answers]

    @property
    def facts(self) -> list[dict[str, Any]]:
        """Which networks they are, the teacher first."""
        return [answers.facts for answers in (self.teacher, *self.students)]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for a teacher, students and images."""
    networks.add_teacher(parser)
    networks.add_networks(parser, "STUDENT", "students of this teacher, and perhaps one that had none")
    networks.add_images(parser)


def smoke_students(folder: pathlib.Path) -> list[str]:
    """Train a teacher, a student alone, and students with and without standardisation."""
    found = [smoke.student(folder, method) for method in ("ce", "kd", "kd+std")]
    return [*found, "--teacher", smoke.network(folder), "--data", "digits"]


def ask(options: argparse.Namespace) -> Asked:
    """Load all networks that the options name, and show them the images.

    Raises:
      FileNotFoundError, ValueError: for what is missing or does not fit.
    """
    given = [] if options.teacher is None else [options.teacher]
    (teacher,) = networks.load(given, 1, "--teacher")
    students = networks.load(options.networks, 1, "STUDENT")
    shown = networks.images(options, [teacher, *students])
    return Asked(shown, networks.ask(teacher, shown), [networks.ask(student, shown) for student in students])
