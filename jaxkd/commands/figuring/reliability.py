"""Reliability diagrams and the expected calibration error: are networks right as often as they say?

Left the accuracy of the answers given with each confidence: on the diagonal the two agree, below it a network is too
sure. Right how many answers have that confidence (Guo et al., ICML 2017).
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from jaxkd import analysis, plots
from jaxkd.commands.figuring import embedding, networks
from jaxkd.commands.figuring.figure import Figure, Record, array, numbers


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the figure's options to its parser."""
    networks.add_networks(parser, "NETWORK", "networks")
    networks.add_images(parser)
    parser.add_argument("--bins", type=int, default=15, metavar="N", help="of equal width; default: 15")


def measure(options: argparse.Namespace) -> Record:
    """Return the diagram of every network."""
    if options.bins < 1:
        raise ValueError(f"--bins {options.bins}: at least one is needed")
    chosen = networks.load(options.networks, 1, "NETWORK")
    shown = networks.images(options, chosen)
    answers = [networks.ask(network, shown) for network in chosen]
    found = []
    for one in answers:
        diagram = analysis.reliability(one.logits, shown.labels, options.bins)
        found.append(
            {
                "label": one.label,
                "ece": numbers(diagram.ece),
                "over_confidence": numbers(diagram.over_confidence),
                "images": diagram.images.tolist(),
                "confidence": numbers(diagram.confidence),
                "accuracy": numbers(diagram.accuracy),
            }
        )
    return {
        **networks.about(options, shown),
        "networks": [one.facts for one in answers],
        "bins": options.bins,
        "diagrams": found,
    }


def draw(record: Record, path: pathlib.Path) -> None:
    """Draw accuracy over confidence, and how many answers have it."""
    figure, (left, right) = plots.canvas(columns=2)
    accuracy = {
        f"{one['label']}, ECE {100 * one['ece']:.1f} %": (100 * array(one["confidence"]), 100 * array(one["accuracy"]))
        for one in record["diagrams"]
    }
    plots.curves(accuracy, left, ("confidence (%)", "accuracy (%)"), style="both", diagonal=True)
    edges = np.linspace(0, 100, record["bins"] + 1)
    shares = {
        one["label"]: (edges, 100 * array([*one["images"], one["images"][-1]]) / record["images"])
        for one in record["diagrams"]
    }
    plots.curves(shares, right, ("confidence (%)", "answers with it (%)"), style="steps")
    left.set_xlim(0, 102)  # a marker at the end is not cut in half
    left.set_ylim(-2, 102)
    right.set_xlim(0, 100)
    right.set_ylim(bottom=0)
    figure.suptitle(networks.in_words(record), fontsize="medium")
    plots.save(figure, path)


def lines(record: Record) -> list[str]:
    """Return lines with the calibration error of every network."""
    said = []
    for facts, one in zip(record["networks"], record["diagrams"], strict=True):
        over = one["over_confidence"]
        said.append(
            f"{one['label']}: accuracy {facts['accuracy']:.2%}, mean confidence {facts['accuracy'] + over:.2%} "
            f"({'over' if over > 0 else 'under'}-confident), ECE {one['ece']:.2%} with {record['bins']} bins"
        )
    return said


FIGURE = Figure(
    "reliability", f"calibration of networks\n{__doc__}", add_options, embedding.smoke_networks, measure, draw, lines
)
