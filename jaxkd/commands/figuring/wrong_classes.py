"""The probabilities of wrong classes: what students learned from them.

The true class is left out. Left how many of the teacher's k likeliest wrong classes are among the student's; right how
well the two rankings of all wrong classes agree, as the share of the images up to each correlation. A student that had
no teacher shows what the labels alone teach.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from jaxkd import analysis, plots
from jaxkd.commands.figuring import networks, students
from jaxkd.commands.figuring.figure import Figure, Record, array, numbers

SHARES = np.linspace(0.0, 1.0, 101)


def measure(options: argparse.Namespace) -> Record:
    """Return the comparison for every student."""
    asked = students.ask(options)
    found = []
    for one in asked.students:
        compared = analysis.wrong_classes(asked.teacher.logits, one.logits, asked.images.labels)
        found.append(
            {
                "label": one.label,
                "overlap": numbers(compared.overlap),
                "rank_correlation": numbers(np.quantile(compared.rank_correlation, SHARES), 4),
                "divergence": numbers(compared.divergence.mean()),
            }
        )
    return {
        **networks.about(options, asked.images),
        "networks": asked.facts,
        "teacher": asked.teacher.label,
        "students": found,
    }


def draw(record: Record, path: pathlib.Path) -> None:
    """Draw overlap left, correlation of the rankings right."""
    figure, (left, right) = plots.canvas(columns=2)
    each = record["students"]
    overlap = {one["label"]: (np.arange(1, len(one["overlap"]) + 1), 100 * array(one["overlap"])) for one in each}
    plots.curves(
        overlap, left, (f"k likeliest wrong classes of {record['teacher']}", "also the student's (%)"), style="both"
    )
    left.set_ylim(0, 102)  # a marker at the end is not cut in half
    left.locator_params(axis="x", integer=True)
    ranks = {one["label"]: (array(one["rank_correlation"]), 100 * SHARES) for one in each}
    plots.curves(ranks, right, ("rank correlation over wrong classes", "images up to it (%)"))
    right.set_ylim(0, 100)
    figure.suptitle(networks.in_words(record), fontsize="medium")
    plots.save(figure, path)


def lines(record: Record) -> list[str]:
    """Return lines with the likeliest wrong class, the rankings and the divergence."""
    return [
        f"{one['label']}: the likeliest wrong class of {record['teacher']} found in {one['overlap'][0]:.2%} of the "
        f"images; median rank correlation {one['rank_correlation'][50]:.3f}; KL over wrong classes alone "
        f"{one['divergence']:.3f}"
        for one in record["students"]
    ]


FIGURE = Figure(
    "wrong",
    f"what was learned from wrong classes\n{__doc__}",
    students.add_options,
    students.smoke_students,
    measure,
    draw,
    lines,
)
