"""The gain of each class over the same student trained alone."""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from jaxkd import analysis, plots
from jaxkd.commands.figuring import networks, smoke
from jaxkd.commands.figuring.figure import Figure, Record, array, numbers

NAMED = 20
"""So many classes have room for their names below the axis."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the figure's options to its parser."""
    parser.add_argument("--alone", metavar="NETWORK", help=f"the student without a teacher: {networks.NETWORK}")
    networks.add_networks(parser, "STUDENT", "distilled students")
    networks.add_images(parser)


def smoke_students(folder: pathlib.Path) -> list[str]:
    """Train a student alone, and two with a teacher."""
    found = [smoke.student(folder, method) for method in ("kd", "kd+std")]
    return [*found, "--alone", smoke.student(folder, "ce"), "--data", "digits"]


def measure(options: argparse.Namespace) -> Record:
    """Return the gain of every class for each student."""
    given = [] if options.alone is None else [options.alone]
    (alone,) = networks.load(given, 1, "--alone")
    found = networks.load(options.networks, 1, "STUDENT")
    shown = networks.images(options, [alone, *found])
    base, answers = networks.ask(alone, shown), [networks.ask(network, shown) for network in found]
    return {
        **networks.about(options, shown),
        "networks": [one.facts for one in (base, *answers)],
        "class_names": list(shown.class_names),
        "alone": {"label": base.label, "accuracy": numbers(analysis.class_accuracy(base.logits, shown.labels))},
        "students": [
            {"label": one.label, "gain": numbers(analysis.class_gain(one.logits, base.logits, shown.labels))}
            for one in answers
        ],
    }


def draw(record: Record, path: pathlib.Path) -> None:
    """Draw classes from the largest gain of the first student to the smallest."""
    order = np.argsort(-np.nan_to_num(array(record["students"][0]["gain"])), kind="stable")
    places = np.arange(1, len(order) + 1)
    apart = 0.16 * (np.arange(len(record["students"])) - (len(record["students"]) - 1) / 2)  # equal gains side by side
    named = {
        one["label"]: (places + offset, 100 * array(one["gain"])[order])
        for offset, one in zip(apart, record["students"], strict=True)
    }
    figure, (axes,) = plots.canvas(width=7.2)
    sorted_by = f"sorted by the gain of {record['students'][0]['label']}"
    plots.curves(named, axes, (f"class, {sorted_by}", "gain in accuracy (percentage points)"), style="points")
    axes.axhline(0, color="#555555", linewidth=1, zorder=1)
    if len(order) <= NAMED:
        axes.set_xticks(places, [record["class_names"][label] for label in order])
    axes.set_title(f"gain over {record['alone']['label']}, {networks.in_words(record)}", fontsize="medium")
    plots.save(figure, path)


def lines(record: Record) -> list[str]:
    """Return lines that say how many classes gain, and which the most."""
    said, names = [], np.array(record["class_names"])
    for one in record["students"]:
        gain = 100 * array(one["gain"])
        order = np.argsort(-gain, kind="stable")[: np.isfinite(gain).sum()]  # a class may have no image here
        most, least = (
            ", ".join(f"{names[label]} {gain[label]:+.1f}" for label in few) for few in (order[:3], order[-3:])
        )
        said.append(
            f"{one['label']}: {np.nanmean(gain):+.2f} points over {record['alone']['label']}, mean of the classes; "
            f"{(gain > 0).sum()} gain, {(gain < 0).sum()} lose; most {most}; least {least}"
        )
    return said


FIGURE = Figure(
    "gain", f"gain of each class over the student alone\n{__doc__}", add_options, smoke_students, measure, draw, lines
)
