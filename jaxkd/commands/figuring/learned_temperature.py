"""CTKD's learned temperature over the epochs, for each pair of networks and each method.

Takes runs whose loss learns a temperature, or folders of them; runs that differ in nothing but the seed become a mean
with a band of one deviation (Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023).
"""

from __future__ import annotations

import argparse
import math
import pathlib
from typing import Any, TypeGuard

from jaxkd import History, plots, records
from jaxkd.commands.figuring import smoke
from jaxkd.commands.figuring.figure import Figure, Record, between, numbers


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the figure's options to its parser."""
    parser.add_argument("runs", nargs="*", type=pathlib.Path, metavar="RUN", help="run directories, or folders of them")


def smoke_runs(folder: pathlib.Path) -> list[str]:
    """Train CTKD, with and without standardisation."""
    return [smoke.student(folder, method) for method in ("ctkd", "ctkd+std")]


def measure(options: argparse.Namespace) -> Record:
    """Return the curves of all runs that learned one."""
    runs = [run for run in found(options.runs) if quantity(run) is not None]
    if not runs:
        raise ValueError("none of these runs learned a temperature: name runs of --method ctkd or its variants")
    return {**about(runs), "curves": learned(runs)}


def found(paths: list[pathlib.Path]) -> list[records.Record]:
    """Return the runs in some folders, single ones and those of sweeps.

    Raises:
      ValueError: for none.
    """
    runs = [*records.find(*paths), *(run for sweep in records.find_sweeps(*paths) for run in sweep.runs)]
    runs = [run for run in runs if run.measured]
    if not runs:
        raise ValueError(
            "no RUN with a test accuracy: name folders that jaxkd distill wrote, or look at small ones by --smoke"
        )
    return runs


def about(runs: list[records.Record]) -> Record:
    """Return which data some runs saw, and for how many epochs so far."""
    return {
        "data": sorted({run.data for run in runs if run.data}),
        "epochs": sorted({int(run.last["epoch"]) for run in runs}),
    }


def in_words(record: Record) -> str:
    """Return which data some runs saw, for a title.

    Example:
      >>> in_words({"data": ["digits"], "epochs": [5]}), in_words({"data": [], "epochs": [30, 240]})
      ('digits, 5 epochs', '30 to 240 epochs')
    """
    epochs = " to ".join(map(str, dict.fromkeys((record["epochs"][0], record["epochs"][-1]))))
    return ", ".join([*record["data"], f"{epochs} epoch{'' if epochs == '1' else 's'}"])


def learned(runs: list[records.Record]) -> list[dict[str, Any]]:
    """Return every configuration's learned temperature: a curve per seed, and the accuracies at the end."""
    curves = []
    for group in records.groups(run for run in runs if quantity(run) is not None):
        each = [_measured(run) for run in group.compared]
        curves.append(
            {
                "label": f"{group.label}, {pair(group.runs[0])}",
                "epochs": [epochs for epochs, _ in each],
                "temperatures": [numbers(values) for _, values in each],
                "accuracy": [numbers(run.history.last("val_accuracy"), 6) for run in group.compared],
            }
        )
    return curves


def quantity(run: records.Record) -> str | None:
    """Return the name under which a run logged its learned temperature; None where it learned none, or diverged."""
    logged = ((name, values) for name, values in run.history.history.items() if name.endswith("_temperature"))
    return next((name for name, values in logged if any(map(_is_number, values))), None)


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def pair(run: records.Record) -> str:
    """Return teacher and student of a run.

    Example:
      >>> pair(records.Record(pathlib.Path("a"), "a", {"student": "b", "teacher": {"name": "c"}}, History()))
      'c → b'
    """
    return f"{(run.teacher or {}).get('name', 'teacher')} → {run.network or 'student'}"


def draw_curves(curves: list[dict[str, Any]], axes: Any) -> None:
    """Draw the temperatures over the epochs."""
    plots.temperatures({curve["label"]: _histories(curve) for curve in curves}, axes, "temperature")
    axes.set_ylim(0, 1.06 * axes.get_ylim()[1])


def draw(record: Record, path: pathlib.Path) -> None:
    """Draw one picture of all curves."""
    figure, (axes,) = plots.canvas(width=6.6 if len(record["curves"]) <= 6 else 9.4)  # room for a long legend
    draw_curves(record["curves"], axes)
    axes.set_title(in_words(record), fontsize="medium")
    plots.save(figure, path)


def lines(record: Record) -> list[str]:
    """Return lines that say where each curve begins and ends."""
    said = []
    for curve in record["curves"]:
        firsts, lasts = ([values[place] for values in curve["temperatures"]] for place in (0, -1))
        ends = [epochs[-1] for epochs in curve["epochs"]]
        said.append(
            f"{curve['label']}: temperature {_range(firsts)} after the first epoch, {_range(lasts)} after epoch "
            f"{between(min(ends), max(ends))}; test accuracy {_range([100 * value for value in curve['accuracy']])} %"
        )
    return said


def _measured(run: records.Record) -> tuple[list[int], list[float]]:
    values = run.history.history[quantity(run) or ""]
    pairs = [(epoch + 1, value) for epoch, value in zip(run.history.epoch, values, strict=True) if _is_number(value)]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def _histories(curve: dict[str, Any]) -> list[History]:
    return [
        History.from_dict({"epoch": [epoch - 1 for epoch in epochs], "history": {"temperature": values}})
        for epochs, values in zip(curve["epochs"], curve["temperatures"], strict=True)
    ]


def _range(values: list[float]) -> str:
    """Return one number, or from the least to the largest.

    Example:
      >>> _range([2.0]), _range([1.0, 2.0])
      ('2.00', '1.00 to 2.00')
    """
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


FIGURE = Figure(
    "temperature",
    f"CTKD: the learned temperature over the epochs\n{__doc__}",
    add_options,
    smoke_runs,
    measure,
    draw,
    lines,
)
