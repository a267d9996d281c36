"""Figures 7 and 13 of ATS: what teachers' labels say about wrong classes, over temperatures.

Left the derived average e(q), right the derived deviation σ(q), means over the images (Li et al., NeurIPS 2022): plain
temperature scaling for each teacher, asymmetric scaling for the largest. The paper's claim is that the larger teacher's
wrong classes differ less at any temperature, and that two temperatures help. Its figure 7 has ResNets, 13 wide ResNets.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
from typing import Any

import numpy as np

from jaxkd import analysis, plots
from jaxkd.commands.figuring import networks, smoke
from jaxkd.commands.figuring.figure import Figure, Record, array, numbers

TEMPERATURES = (0.05, 0.1, 0.25, 0.4, *(0.5 * half for half in range(1, 21)))

SHOWN = (
    ("average", "derived average e(q)", "mean probability of a wrong class"),
    ("deviation", "derived variance, as its root σ(q)", "deviation over the wrong classes"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the figure's options to its parser."""
    networks.add_networks(parser, "TEACHER", "two teachers or more, of one kind and different sizes")
    parser.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        default=list(TEMPERATURES),
        metavar="T",
        help="default: the paper's 24 from 0.05 to 10",
    )
    parser.add_argument(
        "--asymmetry",
        type=float,
        nargs=2,
        default=[1.25, 0.75],
        metavar=("A", "B"),
        help="τ₁ = A·τ for the true class, τ₂ = B·τ for the others; default: the paper's 1.25 0.75",
    )
    networks.add_images(parser)


def smoke_teachers(names: tuple[str, str], folder: pathlib.Path) -> list[str]:
    """Train two small teachers."""
    return [*(smoke.network(folder, name) for name in names), "--data", "digits"]


def measure(options: argparse.Namespace) -> Record:
    """Return the statistics of every teacher, from the smallest to the largest."""
    found = networks.load(options.networks, 2, "TEACHER")
    for factor in (*options.asymmetry, *options.temperatures):
        if factor <= 0:
            raise ValueError(f"temperature {factor:g}: it must be above 0")
    shown = networks.images(options, found)
    answers = sorted((networks.ask(network, shown) for network in found), key=lambda one: one.facts["parameters"])
    scalings = [(answer, "plain", (1.0, 1.0)) for answer in answers]
    scalings.append((answers[-1], "asymmetric", tuple(options.asymmetry)))
    curves = []
    for answer, scaling, factors in scalings:
        statistics = analysis.over_temperatures(answer.logits, shown.labels, options.temperatures, *factors)
        curves.append(
            {"label": answer.label, "scaling": scaling, "factors": list(factors)}
            | {name: numbers(values) for name, values in statistics._asdict().items()}
        )
    return {
        **networks.about(options, shown),
        "networks": [answer.facts for answer in answers],
        "temperatures": options.temperatures,
        "curves": curves,
    }


def draw(record: Record, path: pathlib.Path) -> None:
    """Draw e(q) and σ(q) side by side."""
    figure, places = plots.canvas(columns=2)
    for axes, (quantity, title, label) in zip(places, SHOWN, strict=True):
        named = {_name(curve): (record["temperatures"], curve[quantity]) for curve in record["curves"]}
        first = axes is places[0]  # the legend of one is that of both
        plots.curves(named, axes, ("temperature τ", label), title, logarithmic=True, legend=first)
        axes.set_ylim(bottom=0)
    figure.suptitle(networks.in_words(record), fontsize="medium")
    plots.save(figure, path)


def lines(record: Record) -> list[str]:
    """Return lines with the paper's claim, as found."""
    plain = [curve for curve in record["curves"] if curve["scaling"] == "plain"]
    small, large, asymmetric = plain[0], plain[-1], record["curves"][-1]
    tau = np.array(record["temperatures"])
    said = []
    for curve in record["curves"]:
        deviation = array(curve["deviation"])
        peak = int(deviation.argmax())
        at = int(np.abs(tau - 4).argmin())
        said.append(
            f"{_name(curve)}: largest σ(q) {deviation[peak]:.5f} at τ = {tau[peak]:g}; at τ = {tau[at]:g} "
            f"e(q) {curve['average'][at]:.5f}, σ(q) {deviation[at]:.5f}, σ of the wrong classes alone "
            f"{curve['inherent'][at]:.5f}"
        )
    smaller = array(large["deviation"]) < array(small["deviation"])
    raised = array(asymmetric["deviation"]) > array(large["deviation"])
    said.append(
        f"σ(q) of {large['label']}, the largest, is smaller than that of {small['label']}, the smallest, at "
        f"{smaller.sum()} of {len(tau)} temperatures{_where(tau, smaller)}"
    )
    said.append(f"two temperatures raise it at {raised.sum()} of {len(tau)}{_where(tau, raised)}")
    return said


def _name(curve: dict[str, Any]) -> str:
    if curve["scaling"] == "plain":
        return str(curve["label"])
    correct, wrong = curve["factors"]
    return f"{curve['label']}, τ₁ = {correct:g}τ, τ₂ = {wrong:g}τ"


def _where(tau: np.ndarray, holds: np.ndarray) -> str:
    """Return from where to where, if something holds without a gap.

    Example:
      >>> _where(np.array([1.0, 2.0, 4.0]), np.array([True, True, False]))
      ' (τ from 1 to 2)'
    """
    (places,) = np.nonzero(holds)
    if not len(places) or len(places) == len(tau) or np.ptp(places) + 1 != len(places):
        return ""
    return f" (τ from {tau[places[0]]:g} to {tau[places[-1]]:g})"


def _figure(name: str, family: str, names: tuple[str, str]) -> Figure:
    about = f"ATS: average and variance of wrong classes over temperatures, small and large {family}\n{__doc__}"
    return Figure(name, about, add_options, functools.partial(smoke_teachers, names), measure, draw, lines)


FIGURES = (_figure("fig7", "ResNets", ("resnet8", "resnet20")), _figure("fig13", "WRNs", ("wrn_10_1", "wrn_10_2")))
