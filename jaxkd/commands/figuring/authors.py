"""Runs over the published logs of the authors of logit standardisation, epoch by epoch.

Takes runs of kd+std, ctkd+std, dkd+std or mlkd+std, finished or not, or folders of them. Each configuration becomes a
row: training loss, training accuracy, test accuracy and, where one is learned, the temperature, ours over theirs of the
same pair. Seeds of ours become a mean with a band of one deviation; grey is from the lowest to the highest of their
other pairs of the method, for the loss only of those with the same temperature and weight. authors.csv, beside the
picture, has ours, theirs and the difference at every epoch that both have (Sun et al., CVPR 2024).
"""

from __future__ import annotations

import argparse
import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxkd import History, plots, recipes, records
from jaxkd.commands.figuring import learned_temperature, smoke
from jaxkd.commands.figuring.figure import Figure, Record, array, numbers
from jaxkd.commands.figuring.learned_temperature import pair
from jaxkd.records.groups import words

QUANTITIES = {
    "loss": "training loss",
    "accuracy": "training accuracy (%)",
    "val_accuracy": "test accuracy (%)",
    "kd_temperature": "temperature",
}

WINDOW = (21, 30)
"""Epochs over which test accuracy is averaged: past the curriculum and the warm-up, and long before the first drop."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the figure's options to its parser."""
    parser.add_argument("runs", nargs="*", type=pathlib.Path, metavar="RUN", help="run directories, or folders of them")
    parser.add_argument(
        "--logs",
        type=pathlib.Path,
        metavar="DIR",
        help="their logs; default: the selection that comes with jaxkd",
    )
    parser.add_argument(
        "--pair", metavar="TEACHER-STUDENT", help="compare with this pair of theirs; default: the run's own"
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="show so many; default: as many as ours have, and a quarter more"
    )


def smoke_runs(folder: pathlib.Path) -> list[str]:
    """Train KD and CTKD, both standardised: digits have no log of theirs, so that the curves are of different tasks."""
    return [*(smoke.student(folder, method) for method in ("kd+std", "ctkd+std")), "--pair", "resnet56-resnet20"]


def measure(options: argparse.Namespace) -> Record:
    """Return ours, theirs and the band for every configuration that has a log of theirs."""
    if options.epochs is not None and options.epochs < 1:
        raise ValueError(f"--epochs {options.epochs}: at least one is needed")
    logs = records.find_logs(options.logs)
    runs = learned_temperature.found(options.runs)
    compared, without = [], []
    for group in records.groups(runs):
        wanted = options.pair or _pair(group.runs[0])
        of_method = [log for log in logs if log.method == group.runs[0].method]
        theirs = next((log for log in of_method if log.pair == wanted), None)
        if theirs is None:
            without.append(group.label if group.alone else f"{group.label}, {_arrow(wanted)}")
        else:
            compared.append(_comparison(group, theirs, [log for log in of_method if log is not theirs], options.epochs))
    if not compared:
        there = "; ".join(dict.fromkeys(f"{log.method} {log.pair}" for log in logs))
        whose = options.logs or "the selection that comes with jaxkd"
        raise ValueError(f"{whose} has no log for {'; '.join(without)}: it has {there}. --pair names another pair")
    return {**learned_temperature.about(runs), "comparisons": compared, "without": without}


def _pair(run: records.Record) -> str:
    """Return teacher and student as recipes write them."""
    return f"{(run.teacher or {}).get('name', 'teacher')}-{run.network or 'student'}"


def _arrow(pair: str) -> str:
    """Return the networks of a run with an arrow between them.

    Example:
      >>> _arrow("wrn_40_2-wrn_16_2")
      'wrn_40_2 → wrn_16_2'
    """
    return pair.replace("-", " → ", 1)


def _unlike(run: records.Record, pair: str) -> list[str]:
    """Return the weights and settings of a run's method that its recipe has otherwise, in words.

    A run keeps what it was trained with, and a recipe may since have changed.
    """
    name = f"{run.method}/{pair}"
    method = recipes.get(name).method if name in recipes.list() else recipes.get_method(str(run.method))
    recorded = run.settings.get("method")
    ours, theirs = records.flat(recorded if isinstance(recorded, dict) else {}), records.flat(method.describe())
    return [words(f"method.{key}", value) for key, value in ours.items() if key in theirs and value != theirs[key]]


def _comparison(
    group: records.Group, theirs: records.AuthorsLog, others: Sequence[records.AuthorsLog], shown: int | None
) -> dict[str, Any]:
    """Return a configuration of ours beside a log, as JSON values."""
    run, ours = group.runs[0], [run.history for run in group.compared]
    reached = max(history.epoch[-1] + 1 for history in ours)
    until = shown or reached + max(1, reached // 4)
    common = {quantity: _common(group, theirs, quantity) for quantity in QUANTITIES}
    return {
        "label": f"{group.label}, {pair(run)}",
        "method": run.method,
        "data": run.data,
        "unlike": _unlike(run, theirs.pair),
        "seeds": [run.seed for run in group.compared],
        "ours": [_cut(history, until) for history in ours],
        "theirs": {"file": theirs.path.name, "pair": theirs.pair, "data": theirs.data, **_cut(theirs.history, until)},
        "band": {quantity: found for quantity in QUANTITIES if (found := _band(theirs, others, quantity, until))},
        "common": {quantity: found for quantity, found in common.items() if found["epochs"]},
        "window": _window(group, theirs),
    }


def _cut(history: History, until: int) -> dict[str, Any]:
    """Return what is drawn of a run, as `History.from_dict` takes it."""
    epochs = [epoch for epoch in history.epoch if epoch < until]
    values = {name: history.history[name][: len(epochs)] for name in QUANTITIES if name in history.history}
    return {
        "epoch": epochs,
        "history": {
            name: [None if value is None else numbers(value, 6) for value in found]
            for name, found in values.items()
            if any(value is not None for value in found)
        },
    }


def _common(group: records.Group, theirs: records.AuthorsLog, quantity: str) -> dict[str, Any]:
    """Return our mean over the seeds and their value, at the epochs that all of them measured."""
    curve, measured = group.curve(quantity), _values(theirs.history, quantity)
    places = [place for place, epoch in enumerate(curve.epochs) if epoch in measured] if curve else []
    if curve is None:
        return {"epochs": [], "ours": [], "theirs": []}
    epochs = [int(curve.epochs[place]) for place in places]
    return {
        "epochs": epochs,
        "ours": [numbers(curve.mean[place], 6) for place in places],
        "theirs": [numbers(measured[epoch], 6) for epoch in epochs],
    }


def _band(
    theirs: records.AuthorsLog, others: Sequence[records.AuthorsLog], quantity: str, until: int
) -> dict[str, Any] | None:
    """Return the range over their other pairs; a loss depends on temperature and weight, so these are alike."""
    if quantity == "loss":
        others = [log for log in others if _settings(log) == _settings(theirs)]
    tables = [table for log in others if (table := _values(log.history, quantity))]
    epochs = sorted(epoch for epoch in set.intersection(*map(set, tables)) if epoch <= until) if tables else []
    if not epochs:
        return None
    values = np.array([[table[epoch] for epoch in epochs] for table in tables])
    return {
        "pairs": len(tables),
        "epochs": epochs,
        "low": numbers(values.min(0), 6),
        "high": numbers(values.max(0), 6),
    }


def _settings(log: records.AuthorsLog) -> tuple[float | None, ...]:
    return log.base_temperature, log.weight, log.beta


def _window(group: records.Group, theirs: records.AuthorsLog) -> dict[str, Any]:
    """Return mean test accuracy over the window; null for those that have not all of its epochs."""
    epochs = range(WINDOW[0], WINDOW[1] + 1)
    curve = group.curve("val_accuracy")
    ours = dict(zip(curve.epochs.tolist(), curve.mean.tolist(), strict=True)) if curve else {}
    means = {"ours": ours, "theirs": _values(theirs.history, "val_accuracy")}
    return {
        "epochs": list(WINDOW),
        **{
            name: numbers(np.mean([found[epoch] for epoch in epochs]), 6) if set(epochs) <= found.keys() else None
            for name, found in means.items()
        },
    }


def _values(history: History, quantity: str) -> dict[int, float]:
    """Return a quantity by the epoch, counted from 1."""
    pairs = zip(history.epoch, history.history.get(quantity, ()), strict=False)
    return {epoch + 1: value for epoch, value in pairs if value is not None}


def draw(record: Record, path: pathlib.Path) -> None:
    """Draw a row for each configuration, a column for each quantity that any of them has."""
    rows = record["comparisons"]
    columns = [quantity for quantity in QUANTITIES if any(_has(row, quantity) for row in rows)]
    figure, axes = plots.canvas(columns=len(columns), width=4.2, height=3.3, rows=len(rows))
    for number, row in enumerate(rows):
        for place, quantity in zip(axes[number * len(columns) :], columns, strict=False):
            if _has(row, quantity):
                _draw_panel(row, quantity, place)
            else:
                place.remove()
        axes[number * len(columns)].set_title(_title(row), fontsize="medium", loc="left")
    figure.suptitle(f"ours on {learned_temperature.in_words(record)}", fontsize="medium")
    plots.save(figure, path)


def _has(row: dict[str, Any], quantity: str) -> bool:
    return any(quantity in found["history"] for found in (*row["ours"], row["theirs"]))


def _draw_panel(row: dict[str, Any], quantity: str, axes: Any) -> None:
    scale = 100.0 if quantity.endswith("accuracy") else 1.0
    if band := row["band"].get(quantity):
        name = f"their {band['pairs']} other pair{'s' * (band['pairs'] > 1)}"
        low, high = (scale * array(band[end]) for end in ("low", "high"))
        axes.fill_between(band["epochs"], low, high, color="#dddddd", linewidth=0, label=name)
    seeds = len(row["ours"])
    ours = [History.from_dict(found) for found in row["ours"] if quantity in found["history"]]
    theirs = [History.from_dict(row["theirs"])] if quantity in row["theirs"]["history"] else []
    named = {"ours" if seeds == 1 else f"ours, {seeds} seeds": ours, "theirs": theirs}
    shown = {name: found for name, found in named.items() if found}
    plots.learning_curves(shown, axes, quantity, label=QUANTITIES[quantity])
    _mark_few(axes)


def _mark_few(axes: Any) -> None:
    """Mark the points of a curve that is too short for a line to be seen."""
    for line in axes.get_lines():
        if len(line.get_xdata()) <= 2:
            line.set_marker("o")


def _title(row: dict[str, Any]) -> str:
    theirs = row["theirs"]
    same = row["data"] == theirs["data"] and row["label"].endswith(_arrow(theirs["pair"]))
    other = "" if same else f"; theirs {_arrow(theirs['pair'])} on {theirs['data']}"
    return f"{', '.join([row['label'], *(said for said in row['unlike'] if said not in row['label'])])}{other}"


def lines(record: Record) -> list[str]:
    """Return lines with each configuration's differences: the first epochs, every tenth and the last."""
    said = []
    for row in record["comparisons"]:
        said.append(f"{_title(row)}: ours less theirs of {row['theirs']['file']}, accuracies in points")
        if row["data"] != row["theirs"]["data"]:
            said.append(
                f"  ours saw {row['data']} and theirs {row['theirs']['data']}: the form of a comparison, and none"
            )
        if row["unlike"]:
            said.append(f"  ours was not trained as the recipe is now: {', '.join(row['unlike'])}")
        said += _printed(row)
        said.append(f"  {_window_in_words(row['window'])}")
    return [*said, *(f"{label}: no log of theirs" for label in record["without"])]


def _printed(row: dict[str, Any]) -> list[str]:
    """Return the differences in columns, as text."""
    table = _differences(row)
    last = max(table, default=0)
    heads = [name.replace(" (%)", "") for quantity, name in QUANTITIES.items() if quantity in row["common"]]
    shown = [f"  {'epoch':>5s}{''.join(f'{head:>20s}' for head in heads)}"]
    for epoch, found in table.items():
        if epoch <= 5 or epoch % 10 == 0 or epoch == last:
            cells = ("" if quantity not in found else f"{found[quantity][2]:+.2f}" for quantity in row["common"])
            shown.append(f"  {epoch:5d}{''.join(f'{cell:>20s}' for cell in cells)}")
    return shown


def _differences(row: dict[str, Any]) -> dict[int, dict[str, tuple[float, float, float]]]:
    """Return ours, theirs and the difference of each quantity at each epoch; accuracies in percent."""
    found: dict[int, dict[str, tuple[float, float, float]]] = {}
    for quantity, values in row["common"].items():
        scale = 100.0 if quantity.endswith("accuracy") else 1.0
        for epoch, ours, theirs in zip(values["epochs"], array(values["ours"]), values["theirs"], strict=True):
            ends = scale * float(ours), scale * theirs
            found.setdefault(epoch, {})[quantity] = (*ends, ends[0] - ends[1])
    return dict(sorted(found.items()))


def _window_in_words(window: dict[str, Any]) -> str:
    first, last = window["epochs"]
    if window["ours"] is None or window["theirs"] is None:
        who = "ours" if window["ours"] is None else "theirs"
        return f"mean test accuracy of epochs {first} to {last}: {who} did not get there"
    ours, theirs = 100 * window["ours"], 100 * window["theirs"]
    return f"mean test accuracy of epochs {first} to {last}: {ours:.2f}, theirs {theirs:.2f} % ({ours - theirs:+.2f})"


def table(record: Record) -> str:
    """Return every epoch of every configuration; fields are empty where one of the two has nothing."""
    parts = ("ours", "theirs", "difference")
    columns = [f"{name} {part}" for name in QUANTITIES.values() for part in parts]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["runs", "log", "seeds", "epoch", *columns], lineterminator="\n")
    writer.writeheader()
    for row in record["comparisons"]:
        first = {"runs": row["label"], "log": row["theirs"]["file"], "seeds": len(row["seeds"])}
        for epoch, found in _differences(row).items():
            cells = {
                f"{QUANTITIES[quantity]} {part}": f"{value:.4f}"
                for quantity, values in found.items()
                for part, value in zip(parts, values, strict=True)
            }
            writer.writerow({**first, "epoch": epoch, **cells})
    return text.getvalue()


FIGURE = Figure(
    "authors",
    f"standardisation: runs over their authors' published logs\n{__doc__}",
    add_options,
    smoke_runs,
    measure,
    draw,
    lines,
    table,
)
