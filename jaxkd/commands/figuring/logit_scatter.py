"""Mean and deviation of each image's logits, the student's over the teacher's (logit standardisation).

A student that was distilled on raw logits has to match both. One distilled on standardised logits is free of them (Sun
et al., CVPR 2024): its points need not lie on the diagonal.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import numpy as np

from jaxkd import analysis, plots
from jaxkd.commands.figuring import networks, students
from jaxkd.commands.figuring.figure import Figure, Record, array, numbers


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the figure's options to its parser."""
    students.add_options(parser)
    parser.add_argument(
        "--points", type=int, default=400, metavar="N", help="images that are drawn, evenly chosen; default: 400"
    )


def measure(options: argparse.Namespace) -> Record:
    """Return the statistics of all images, and those of the images that are drawn."""
    if options.points < 1:
        raise ValueError(f"--points {options.points}: at least one is needed")
    asked = students.ask(options)
    drawn = np.linspace(0, len(asked.images) - 1, min(options.points, len(asked.images))).astype(int)
    theirs = analysis.logit_statistics(asked.teacher.logits)
    record = {
        **networks.about(options, asked.images),
        "networks": asked.facts,
        "teacher": {
            "label": asked.teacher.label,
            "average": {name: numbers(values.mean()) for name, values in theirs._asdict().items()},
            "drawn": {name: numbers(values[drawn], 4) for name, values in theirs._asdict().items()},
        },
        "students": [],
    }
    for student in asked.students:
        ours = analysis.logit_statistics(student.logits)
        together = {name: (getattr(theirs, name), values) for name, values in ours._asdict().items()}
        record["students"].append(
            {
                "label": student.label,
                "average": {name: numbers(values.mean()) for name, (_, values) in together.items()},
                "apart": {name: numbers(np.abs(one - other).mean()) for name, (one, other) in together.items()},
                "correlation": {name: numbers(_correlation(one, other)) for name, (one, other) in together.items()},
                "drawn": {name: numbers(values[drawn], 4) for name, (_, values) in together.items()},
            }
        )
    return record


def draw(record: Record, path: pathlib.Path) -> None:
    """Draw means left, deviations right."""
    figure, places = plots.canvas(columns=2, height=4.2)
    teacher = record["teacher"]
    for axes, name in zip(places, ("mean", "deviation"), strict=True):
        plots.scatter(
            {one["label"]: (array(teacher["drawn"][name]), array(one["drawn"][name])) for one in record["students"]},
            axes,
            (f"logit {name}, teacher ({teacher['label']})", f"logit {name}, student"),
        )
    reach = 0.05 * teacher["average"]["deviation"]
    _at_least(places[0], reach)
    if all(np.abs(array(one["drawn"]["mean"])).max() < 0.01 * reach for one in (teacher, *record["students"])):
        places[0].set_title("all at 0: each image's logits add up to it, but for rounding", fontsize="medium")
    drawn = len(teacher["drawn"]["mean"])
    part = "" if drawn == record["images"] else f", {drawn} of them drawn"
    figure.suptitle(f"{networks.in_words(record)}{part}", fontsize="medium")
    plots.save(figure, path)


def lines(record: Record) -> list[str]:
    """Return lines with averages, and how far student and teacher are apart."""
    average = record["teacher"]["average"]
    said = [
        f"{record['teacher']['label']} (teacher): mean logit {average['mean']:.3f}, deviation "
        f"{average['deviation']:.3f}, averages over the images"
    ]
    for one in record["students"]:
        average, apart, correlation = one["average"], one["apart"], one["correlation"]
        said.append(
            f"{one['label']}: mean logit {average['mean']:.3f} ({apart['mean']:.3f} from the teacher's), deviation "
            f"{average['deviation']:.3f} ({apart['deviation']:.3f} from the teacher's, correlation "
            f"{_said(correlation['deviation'])})"
        )
    return said


def _at_least(axes: Any, reach: float) -> None:
    """Widen axes to both sides of 0: the logits of many networks add up to 0, but for rounding."""
    for low, high, limit in ((*axes.get_xlim(), axes.set_xlim), (*axes.get_ylim(), axes.set_ylim)):
        limit(min(low, -reach), max(high, reach))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Pearson's correlation, NaN where one of them is the same for all images."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _said(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


FIGURE = Figure(
    "logits",
    f"standardisation: mean and deviation of logits, student over teacher\n{__doc__}",
    add_options,
    students.smoke_students,
    measure,
    draw,
    lines,
)
