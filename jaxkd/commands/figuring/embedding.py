"""Embeddings of some classes in the plane by t-SNE, for each network.

What the classifier of a network sees of the images: the last feature, pooled. The silhouette beside the name is of the
embedding itself, not of the picture: 1 for classes that are tight and far from each other, 0 for classes that overlap.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from jaxkd import analysis, plots
from jaxkd.commands.figuring import networks, students
from jaxkd.commands.figuring.figure import Figure, Record, numbers


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the figure's options to its parser."""
    networks.add_networks(parser, "NETWORK", "networks")
    networks.add_images(parser)
    parser.add_argument("--classes", type=int, default=10, metavar="N", help="the first N classes; default: 10")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of t-SNE; default: 0")
    parser.add_argument("--perplexity", type=float, default=30.0, metavar="X", help="of t-SNE; default: 30")


def smoke_networks(folder: pathlib.Path) -> list[str]:
    """Train a teacher, and students with and without standardisation."""
    found = students.smoke_students(folder)
    teacher = found[found.index("--teacher") + 1]
    return [f"teacher={teacher}", *found[1 : found.index("--teacher")], "--data", "digits"]


def measure(options: argparse.Namespace) -> Record:
    """Return where every image lies, for each network."""
    analysis.check_scikit_learn()  # before a network is shown anything
    if options.classes < 2:
        raise ValueError(f"--classes {options.classes}: at least two are needed")
    found = networks.load(options.networks, 1, "NETWORK")
    shown = networks.images(options, found)
    shown = shown.take(shown.labels < options.classes)
    placed = []
    for network in found:
        print(f"{network.label}: {len(shown):,} images", flush=True)
        embeddings = analysis.embeddings(network.model, shown)
        points = analysis.embed(embeddings, options.seed, options.perplexity)
        placed.append(
            {
                "label": network.label,
                "network": network.model.name,
                "silhouette": numbers(analysis.separation(embeddings, shown.labels), 4),
                "points": numbers(points, 4),
            }
        )
    return {
        **networks.about(options, shown),
        "seed": options.seed,
        "perplexity": options.perplexity,
        "class_names": list(shown.class_names[: options.classes]),
        "labels": shown.labels.tolist(),
        "networks": placed,
    }


def draw(record: Record, path: pathlib.Path) -> None:
    """Draw a plane for each network."""
    figure, places = plots.canvas(columns=len(record["networks"]), width=4.4, height=4.4)
    for axes, one in zip(places, record["networks"], strict=True):
        plots.clusters(
            np.array(one["points"]),
            np.array(record["labels"]),
            record["class_names"],
            axes,
            title=f"{one['label']}, silhouette {one['silhouette']:.2f}",
        )
    figure.suptitle(networks.in_words(record), fontsize="medium")
    plots.save(figure, path)


def lines(record: Record) -> list[str]:
    """Return lines with the silhouette of every network."""
    return [
        f"{one['label']}: mean silhouette of {len(record['class_names'])} classes {one['silhouette']:.3f}"
        for one in record["networks"]
    ]


FIGURE = Figure(
    "tsne", f"standardisation: embeddings in the plane\n{__doc__}", add_options, smoke_networks, measure, draw, lines
)
