"""Which classes a student relates otherwise than its teacher, as heat maps of the difference.

`correlation` compares how the logits of two classes go together over the images (Tian et al., ICLR 2020), `profiles`
the mean standardised logits for each class of images (Sun et al., CVPR 2024). Less is closer to the teacher.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable

import numpy as np

from jaxkd import analysis, plots
from jaxkd.commands.figuring import networks, students
from jaxkd.commands.figuring.figure import Figure, Record, array, numbers

MATRICES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "correlation": lambda logits, labels: analysis.logit_correlation(logits),
    "profiles": analysis.class_profiles,
}
WORDS = {
    "correlation": ("class", "class", "difference of correlations"),
    "profiles": ("logit of class", "images of class", "difference of standardised logits"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the figure's options to its parser."""
    students.add_options(parser)
    parser.add_argument(
        "--matrix", choices=tuple(MATRICES), default="correlation", help="what is compared; default: correlation"
    )


def measure(options: argparse.Namespace) -> Record:
    """Return the differences for every student."""
    asked = students.ask(options)
    matrix, labels = MATRICES[options.matrix], asked.images.labels
    theirs = matrix(asked.teacher.logits, labels)
    found = []
    for student in asked.students:
        apart, mean = analysis.difference(theirs, matrix(student.logits, labels))
        found.append({"label": student.label, "mean": numbers(mean), "difference": numbers(apart, 3)})
    return {
        **networks.about(options, asked.images),
        "networks": asked.facts,
        "matrix": options.matrix,
        "teacher": asked.teacher.label,
        "students": found,
    }


def draw(record: Record, path: pathlib.Path) -> None:
    """Draw a heat map for each student, on one scale."""
    named = {f"{one['label']}, mean {one['mean']:.3f}": array(one["difference"]) for one in record["students"]}
    plots.matrices(
        named, path, WORDS[record["matrix"]], f"difference to {record['teacher']}, {networks.in_words(record)}"
    )


def lines(record: Record) -> list[str]:
    """Return lines with the mean difference of every student."""
    return [
        f"{one['label']}: mean {WORDS[record['matrix']][2]} to {record['teacher']} {one['mean']:.4f}"
        for one in record["students"]
    ]


FIGURE = Figure(
    "correlation",
    f"standardisation: difference of class relations to the teacher's\n{__doc__}",
    add_options,
    students.smoke_students,
    measure,
    draw,
    lines,
)
