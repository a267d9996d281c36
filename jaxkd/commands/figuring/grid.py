"""Figure 10 of ATS: accuracy for every pair of temperatures, as a heat map.

Takes the folders that jaxkd sweep wrote, one for each pair of networks (Li et al., NeurIPS 2022). The diagonal, where
τ₁ = τ₂, is plain temperature scaling.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import numpy as np

from jaxkd import plots, records
from jaxkd.commands.figuring import smoke
from jaxkd.commands.figuring.figure import Figure, Record, array, between, numbers


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the figure's options to its parser."""
    parser.add_argument("grids", nargs="*", type=pathlib.Path, metavar="GRID", help="folders that jaxkd sweep wrote")


def smoke_grid(folder: pathlib.Path) -> list[str]:
    """Train a grid of six students."""
    return [smoke.grid(folder)]


def measure(options: argparse.Namespace) -> Record:
    """Return the accuracies of every grid."""
    if not options.grids:
        raise ValueError("no GRID: name a folder that jaxkd sweep wrote, or look at a small one by --smoke")
    return {"grids": [_read(path) for path in options.grids]}


def draw(record: Record, path: pathlib.Path) -> None:
    """Draw the heat maps side by side."""
    figure, places = plots.canvas(columns=len(record["grids"]))
    for axes, grid in zip(places, record["grids"], strict=True):
        plots.heat_map(
            array(grid["accuracy"]),
            axes,
            rows=[f"{value:g}" for value in grid["correct"]],
            columns=[f"{value:g}" for value in grid["wrong"]],
            labels=("τ₂, wrong classes", "τ₁, correct class", "test accuracy (%)"),
            title=f"{grid['label']}{_seeds(grid)}; framed: the best",
        )
    plots.save(figure, path)


def lines(record: Record) -> list[str]:
    """Return lines with the best pair, and the best with one temperature for all."""
    said = []
    for grid in record["grids"]:
        accuracy = array(grid["accuracy"])
        row, column = np.unravel_index(np.nanargmax(accuracy), accuracy.shape)
        text = (
            f"{grid['label']}: best {accuracy[row, column]:.2%} at τ₁ = {grid['correct'][row]:g}, "
            f"τ₂ = {grid['wrong'][column]:g}"
        )
        pairs = [(i, grid["wrong"].index(tau)) for i, tau in enumerate(grid["correct"]) if tau in grid["wrong"]]
        pairs = [pair for pair in pairs if np.isfinite(accuracy[pair])]  # a sweep need not have them all
        if pairs:
            plain = max(pairs, key=lambda pair: accuracy[pair])
            text += f"; with τ₁ = τ₂ best {accuracy[plain]:.2%} at {grid['correct'][plain[0]]:g}"
        said.append(f"{text}; seeds per cell: {_counts(grid)}, chosen on the test images")
    return said


def _read(path: pathlib.Path) -> dict[str, Any]:
    sweep = records.read_sweep(path)
    if not all(run.measured for run in sweep.runs):
        raise ValueError(f"{path} has no test accuracy of every run: sweep with validation_data")
    found = sweep.grid("val_accuracy")
    if found.names == ("wrong", "correct"):
        found = found.transposed
    if found.names != ("correct", "wrong"):
        raise ValueError(f"{path} is a sweep of {' and '.join(found.names)}, not a grid of ATS's two temperatures")
    settings = sweep.settings
    epochs = max(len(history.epoch) for history in sweep.histories)
    return {
        "label": f"{_name(settings.get('teacher'))} → {settings.get('student', 'student')}, "
        f"{_name(settings.get('data'))}, epoch {epochs}",
        "correct": list(found.rows),
        "wrong": list(found.columns),
        "accuracy": numbers(found.mean, 6),
        "deviation": numbers(found.deviation, 4),
        "seeds": found.runs,
        "fewest_seeds": found.fewest,
    }


def _seeds(grid: dict[str, Any]) -> str:
    """Return how many runs a cell is the mean of, where it is more than one."""
    return f", mean of {_counts(grid)} seeds" if grid["seeds"] > 1 else ""


def _counts(grid: dict[str, Any]) -> str:
    # Data of earlier versions have the most alone.
    return between(grid.get("fewest_seeds", grid["seeds"]), grid["seeds"])


def _name(entry: Any) -> str:
    return str(entry["name"]) if isinstance(entry, dict) and "name" in entry else "?"


FIGURE = Figure(
    "fig10", f"ATS: accuracy over both temperatures\n{__doc__}", add_options, smoke_grid, measure, draw, lines
)
