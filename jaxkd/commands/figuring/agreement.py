"""Agreement of students with their teacher, right and wrong."""

from __future__ import annotations

import argparse
import pathlib

from jaxkd import analysis, plots
from jaxkd.commands.figuring import networks, students
from jaxkd.commands.figuring.figure import Figure, Record, numbers

PARTS = {
    "both_right": "both right",
    "student_right": "only the student right",
    "same_mistake": "the same mistake",
    "other_mistakes": "different mistakes",
    "teacher_right": "only the teacher right",
}


def measure(options: argparse.Namespace) -> Record:
    """Return the parts for every student."""
    asked = students.ask(options)
    found = []
    for one in asked.students:
        parts = analysis.agreement(asked.teacher.logits, one.logits, asked.images.labels)
        found.append({"label": one.label} | {name: numbers(value, 6) for name, value in parts._asdict().items()})
    return {
        **networks.about(options, asked.images),
        "networks": asked.facts,
        "teacher": asked.teacher.label,
        "students": found,
    }


def draw(record: Record, path: pathlib.Path) -> None:
    """Draw a bar for each student."""
    figure, (axes,) = plots.canvas(width=7.2, height=2.2 + 0.45 * len(record["students"]))
    named = {one["label"]: {words: one[name] for name, words in PARTS.items()} for one in record["students"]}
    plots.stacked_bars(named, axes, "images")
    axes.set_title(f"answers beside those of {record['teacher']}, {networks.in_words(record)}", fontsize="medium")
    plots.save(figure, path)


def lines(record: Record) -> list[str]:
    """Return lines that say how often each student agrees."""
    return [
        f"{one['label']}: the same answer as {record['teacher']} to {one['same_answer']:.2%} of the images, the same "
        f"mistake in {one['same_mistake']:.2%}; KL(teacher ‖ student) {one['divergence']:.3f}"
        for one in record["students"]
    ]


FIGURE = Figure(
    "agreement",
    f"agreement with the teacher\n{__doc__}",
    students.add_options,
    students.smoke_students,
    measure,
    draw,
    lines,
)
