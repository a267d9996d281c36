"""Accuracy over fixed temperatures, beside what a learned temperature reaches (CTKD).

Takes runs of one pair of networks, or folders of them, or a table that `Sweep.to_csv` wrote: those with a fixed
temperature become a curve over it, those that learned theirs (Li et al., AAAI 2023) a level and, to the left, a curve
over the epochs. A fixed temperature that was chosen from the curve was chosen on the test images.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from jaxkd import plots, recipes, records
from jaxkd.commands.figuring import learned_temperature, smoke
from jaxkd.commands.figuring.figure import Figure, Record, array, between, numbers
from jaxkd.commands.figuring.learned_temperature import pair, quantity


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the figure's options to its parser."""
    parser.add_argument(
        "runs",
        nargs="*",
        type=pathlib.Path,
        metavar="RUN",
        help="run directories or folders of them, of kd with several --temperature and of ctkd; tables of sweeps",
    )


def smoke_runs(folder: pathlib.Path) -> list[str]:
    """Train KD at four temperatures, and CTKD."""
    fixed = [smoke.student(folder, "kd", "--temperature", temperature) for temperature in ("1", "2", "4", "8")]
    return [*fixed, smoke.student(folder, "ctkd")]


def measure(options: argparse.Namespace) -> Record:
    """Return the accuracies at the last epoch, for each temperature and seed."""
    runs = [run for run in learned_temperature.found(options.runs) if quantity(run) or _fixed(run) is not None]
    _check_alike(runs)
    fixed: dict[str, dict[float, list[records.Record]]] = {}
    for run in runs:
        temperature = _fixed(run)
        if temperature is not None:
            fixed.setdefault(_method(run), {}).setdefault(temperature, []).append(run)
    fixed = {name: found for name, found in fixed.items() if len(found) > 1}  # one is no curve, and may be of CRD
    if not fixed:
        raise ValueError(
            "none of these runs are of one method at several fixed temperatures: name some of --method kd, each with a "
            "--temperature of its own"
        )
    return {
        **learned_temperature.about(runs),
        "pair": pair(runs[0]),
        "fixed": [
            {
                "method": name,
                "temperatures": sorted(found),
                "accuracy": [_accuracies(name, tau, found[tau]) for tau in sorted(found)],
            }
            for name, found in fixed.items()
        ],
        "learned": learned_temperature.learned(runs),
    }


def draw(record: Record, path: pathlib.Path) -> None:
    """Draw left what was learned, right what fixed temperatures reach."""
    many = len(record["learned"]) + len(record["fixed"]) > 6  # names stand beside the curves
    figure, places = plots.canvas(columns=2 if record["learned"] else 1, width=8.6 if many else 5.6)
    if record["learned"]:
        learned_temperature.draw_curves(record["learned"], places[0])
    tried = sorted({temperature for one in record["fixed"] for temperature in one["temperatures"]})
    ends = (tried[0] / 1.1, tried[-1] * 1.1)
    for curve in record["learned"]:  # first, so that they look as on the left
        level = 100 * float(np.mean(curve["accuracy"]))
        plots.curves({f"{_short(curve['label'])}, learned": (ends, (level, level))}, places[-1])
    labels = ("fixed temperature", "test accuracy (%)")
    for one in record["fixed"]:
        name, deviations = f"{one['method']}, fixed", _deviations(one["accuracy"])
        values = (one["temperatures"], _means(one["accuracy"]))
        plots.curves({name: values}, places[-1], labels, style="both", deviations={name: deviations}, logarithmic=True)
    places[-1].set_xticks(tried, [f"{temperature:g}" for temperature in tried])
    figure.suptitle(f"{record['pair']}, {learned_temperature.in_words(record)}", fontsize="medium")
    plots.save(figure, path)


def lines(record: Record) -> list[str]:
    """Return lines with the accuracy at every temperature."""
    said = []
    for one in record["fixed"]:
        each = zip(one["temperatures"], _means(one["accuracy"]), one["accuracy"], strict=True)
        shown = ", ".join(f"{mean:.2f} at {tau:g}" for tau, mean, _ in each)
        counts = [len(each) for each in one["accuracy"]]
        said.append(
            f"{one['method']}, fixed: test accuracy {shown} %; runs of each: {between(min(counts), max(counts))}"
        )
    return [*said, *learned_temperature.lines({"curves": record["learned"]})]


def _check_alike(runs: list[records.Record]) -> None:
    """Refuse runs whose accuracies do not belong in one picture: they would be taken for other seeds."""
    kinds = {
        "pairs": [pair(run) for run in runs],
        "data sets": [run.data for run in runs if run.data],
        "lengths": [f"to epoch {run.last['epoch']}" for run in runs],
    }
    for kind, values in kinds.items():
        if len(found := dict.fromkeys(values)) > 1:
            raise ValueError(f"the runs are of {len(found)} {kind} ({'; '.join(map(str, found))}): name those of one")


_TEMPERATURE = ("temperature", "method.settings.temperature")
"""Where runs and cells of sweeps have it."""


def _accuracies(method: str, temperature: float, runs: list[records.Record]) -> list[float]:
    """Return the accuracies at one temperature, of runs that differ in their seeds alone."""
    found = records.differences(records.groups(runs))
    different = ", ".join(
        f"{name} ({'; '.join(map(str, values))})" for name, values in found.items() if name not in _TEMPERATURE
    )
    if different:
        raise ValueError(
            f"the runs of {method} at temperature {temperature:g} differ in {different}: name those of one"
        )
    return [numbers(run.history.last("val_accuracy"), 6) for run in runs]


def _fixed(run: records.Record) -> float | None:
    """Return the temperature a run was given: in its method's settings, or as the cell of a sweep."""
    if quantity(run) is not None:
        return None
    method = run.settings.get("method")
    given = method.get("settings", {}) if isinstance(method, dict) else {}
    temperature = run.settings.get("temperature", given.get("temperature"))
    return None if temperature is None else float(temperature)


def _method(run: records.Record) -> str:
    """Return the title of a run's method."""
    return recipes.get_method(run.method).title if run.method in recipes.methods() else run.method or "sweep"


def _means(accuracies: list[list[float]]) -> list[float]:
    return [100 * float(np.mean(values)) for values in accuracies]


def _deviations(accuracies: list[list[float]]) -> np.ndarray:
    return array([100 * (records.Spread(tuple(values)).deviation or 0.0) for values in accuracies])


def _short(label: str) -> str:
    """Return a label without its last part, the pair of networks, which is the same for all.

    Example:
      >>> _short("CTKD, t end 20, resnet56 → resnet20")
      'CTKD, t end 20'
    """
    return label.rpartition(", ")[0]


FIGURE = Figure(
    "sweep",
    f"CTKD: accuracy over fixed temperatures, beside the learned one\n{__doc__}",
    add_options,
    smoke_runs,
    measure,
    draw,
    lines,
)
