"""Trains a student for every combination of some settings: seeds, temperatures, weights, methods, …

Students of one seed that differ in temperatures, α, β, γ and the like are one program, and share each batch and every
forward pass of the teacher. What was stopped goes on with the same command and --resume.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

import jax
import numpy as np

import jaxkd
from jaxkd import distributed, plots, recipes
from jaxkd.callbacks import Checkpoint
from jaxkd.callbacks.base import in_a_list
from jaxkd.command_line import CommandLine, Help, program
from jaxkd.commands import distill, run
from jaxkd.commands.beginning import Beginning, RefusedError
from jaxkd.commands.method import method_of, numbers_of, set_numbers
from jaxkd.commands.options import add_options
from jaxkd.config import RunConfig
from jaxkd.records import RunDirectory, Spread, environment, write_json
from jaxkd.records.directory import read_mapping

EXAMPLES = """examples:
  a temperature, with three seeds each:
    jaxkd sweep --teacher runs/teacher --student resnet8 --data digits --grid temperature=2,4,8 --grid seed=0,1,2
  methods side by side:
    jaxkd sweep --teacher runs/teacher --student resnet8 --data digits --grid method=kd,dkd,ctkd --grid seed=0,1,2
  the weight of a term, and the learning rate:
    jaxkd sweep --teacher resnet56.pth --student resnet20 --grid kd_weight=0.5,0.9 --grid learning_rate=0.02,0.05
  the two temperatures of ATS, as in its paper (Li et al., NeurIPS 2022):
    jaxkd sweep --teacher runs/ats-teacher --student VGG8 --method ats --recipe ats \\
        --grid correct=1,2,3,4,5,6 --grid wrong=1,2,3,4,5

The folder gets config.json, grid.csv (every student and epoch), result.json, each student's checkpoints and, of one or
two settings, grid.png.
"""

CHOICES = {"seed": int, "learning_rate": float, "method": str, "student": str}
"""Options that a grid may vary beside the settings and weights of the method."""

FIRST_RATE = "first_learning_rate"
"""Its name in tables, whose column learning_rate has the rate of each epoch."""

SHARED = ("epochs", "batch_size", "data", "teacher", "recipe")

Axes = Mapping[str, Sequence[Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        axes = axes_of(options.grid)
        if "seed" in axes and options.seed != parser.get_default("seed"):
            raise ValueError(f"--seed {options.seed} and --grid seed={axes['seed'][0]},…: give one of them")
        config = config_of(options, {name: values[0] for name, values in axes.items()})
        name = f"sweep-{config.data.name}-{config.network}-{'-'.join(axes)}"
        return train(parser, options, axes, lambda **cell: config_of(options, cell), name)
    except ValueError as error:
        parser.error(str(error))


def axes_of(given: Sequence[tuple[str, list[Any]]]) -> dict[str, list[Any]]:
    """Return the values of each setting.

    Raises:
      ValueError: for none, or a setting that is named twice.
    """
    axes = dict(given)
    if not axes:
        raise ValueError("nothing to vary: name settings by --grid, as in --grid temperature=2,4,8 --grid seed=0,1,2")
    if len(axes) < len(given):
        twice = next(name for name, count in Counter(name for name, _ in given).items() if count > 1)
        raise ValueError(f"--grid names {twice} twice: give all its values at once, as in temperature=2,4,8")
    return axes


def config_of(options: argparse.Namespace, cell: Mapping[str, Any]) -> RunConfig:
    """Return the run of one student: what the options say, with the values of its cell.

    Raises:
      ValueError: as `distill.config_of`, and for a setting that does not exist.
    """
    own = copy(options)
    for name in CHOICES:
        setattr(own, name, cell.get(FIRST_RATE if name == "learning_rate" else name, getattr(options, name)))
    method = method_of(own)
    numbers = numbers_of(own, method)
    for name, value in cell.items():
        term = name.removesuffix("_weight")
        if name in (*CHOICES, FIRST_RATE):
            continue
        if name in method.settings:
            numbers.settings[name] = value
        elif term != name and term in method.weights:
            numbers.weights[term] = value
        elif name in SHARED:
            raise ValueError(f"--grid {name}: it is the same for all students: give it as an option of its own")
        else:
            known = ", ".join([*CHOICES, *method.settings, *(f"{term}_weight" for term in method.weights)])
            raise ValueError(f"--grid {name}: {method.name!r} has no such setting; there are {known}")
    set_numbers(own, numbers)
    return distill.config_of(own)


def train(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    axes: Axes,
    config_of_cell: Callable[..., RunConfig],
    name: str,
    labels: Mapping[str, str] | None = None,
) -> int:
    """Train all students, and leave table, result and picture in the run directory; print the table.

    Args:
      parser: tells what cannot be.
      options: those that commands share, and `at_once`.
      axes: the values of each setting; the seed among them, or that of the options.
      config_of_cell: called with a value of each; returns the run.
      name: of the folder under runs/, unless the options say another.
      labels: what axes are called in the picture, where their names do not do.
    """
    seeds = list(axes.get("seed", [options.seed]))
    varied = {axis: list(values) for axis, values in axes.items() if axis != "seed"}
    cells = jaxkd.grid(seed=seeds, **varied)
    try:
        if options.distributed:
            distributed.initialize()  # before anything computes
            _check_one_process()
        configs = [config_of_cell(**cell) for cell in cells]
        config, teacher, train, test = run.read(configs[0])
        run.check_batches(config)
        for one in configs:
            if teacher is None:
                run.require_no_teacher(one)
            jaxkd.models.create(one.network, num_classes=train.num_classes)  # a wrong name is refused before any work
        directory = RunDirectory(config.output or pathlib.Path("runs") / f"{name}{'-limited' * config.limited}")
        told: dict[str, Any] = {**varied, "seeds": seeds}
        settings = settings_of([config, *configs[1:]], varied) | told
        directory.check(_as_begun(settings, directory, config.resume), config.resume)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.error(str(error))
    arguments = config.arguments() | told | {"at_once": options.at_once}
    run.say_limits(config, train, test)
    known_teacher: dict[str, Any] = {}

    by_cell = {tuple(cell.values()): one for cell, one in zip(cells, configs, strict=True)}
    start = time.perf_counter()

    def begin() -> None:
        nonlocal start
        if config.teacher is not None:
            paused = time.perf_counter()
            known_teacher["teacher"] = distill.describe_teacher(teacher, test, config.teacher.evaluate)
            start += time.perf_counter() - paused
        directory.check(_as_begun(settings, directory, config.resume), config.resume)  # another may have begun there
        directory.start(settings, arguments)
        directory.hold()

    try:
        with Beginning(begin) as beginning:
            found = jaxkd.sweep(
                lambda **cell: run.compiled(by_cell[tuple(cell.values())], train, teacher),
                cells,
                train,
                validation_data=test,
                epochs=config.training.epochs,
                batch_size=config.training.batch_size,
                at_once=options.at_once,
                callbacks=lambda **cell: [beginning, *in_a_list(checkpoint_of(cell, directory, config))],
                resume="auto" if config.resume else None,
                verbose=not config.quiet,
            )
    except RefusedError as error:
        parser.error(str(error))
    finally:
        directory.release()
    found.to_csv(directory.path / "grid.csv")
    accuracy = found.last("val_accuracy").reshape(len(seeds), *map(len, varied.values()))
    facts: dict[str, Any] = {
        "seconds": round(time.perf_counter() - start, 2),
        "runs": len(cells),
        "epochs": config.training.epochs,
        **known_teacher,
    }
    if config.resume:
        facts["resumed"] = "the seconds are those of its last part"
    if config.limited:
        facts["limited"] = {"train": len(train), "test": len(test)}
    write_json(directory.path / "result.json", summary(varied, accuracy) | facts | environment())
    print(table(varied, accuracy, labels or {}))
    if plots.available():
        networks = f"{teacher.name} → {config.network}" if teacher else config.network
        title = f"{networks}, {config.data.name}, {config.training.epochs} epochs, last epoch"
        draw(varied, accuracy, directory.path / "grid.png", title, labels or {})
    if config.limited:
        print(run.NO_RESULT)
    print(f"{len(cells)} students in {facts['seconds']:.0f} s; everything is in {directory.path}")
    return 0


def _check_one_process() -> None:
    """Refuse several processes.

    Raises:
      ValueError: there are.
    """
    if (count := jax.process_count()) > 1:
        raise ValueError(
            f"--distributed: there are {count} processes, and a sweep is one: start it once, without --distributed, "
            "and all devices of its machine share the students"
        )


def checkpoint_of(cell: Mapping[str, Any], directory: RunDirectory, config: RunConfig) -> Checkpoint:
    """Return what saves one student: ten times and when it is stopped; each epoch of every student would take long."""
    name = ",".join(f"{setting}={value}" for setting, value in cell.items())
    folder = directory.checkpoints / re.sub(r"[^\w.,=+-]", "_", name)
    return Checkpoint(folder, every=max(1, config.training.epochs // 10), every_minutes=config.checkpoint_minutes)


def settings_of(configs: Sequence[RunConfig], varied: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that all students share; of several methods, those of each."""
    settings = {name: value for name, value in configs[0].settings().items() if name not in varied}
    if "method" in settings:
        settings["method"] = _fixed(settings["method"], varied)
    if "method" in varied:
        each = (one.method.describe() for one in configs if one.method is not None)
        settings["methods"] = {described["name"]: _fixed(described, varied) for described in each}
    if len({one.training.learning_rate for one in configs}) > 1:
        del settings["training"]["learning_rate"]
    return settings


def _fixed(method: Mapping[str, Any], varied: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a method without what varies."""
    settings = {name: value for name, value in method["settings"].items() if name not in varied}
    weights = {term: weight for term, weight in method["weights"].items() if f"{term}_weight" not in varied}
    return {**method, "settings": settings, "weights": weights}


def _as_begun(settings: Mapping[str, Any], directory: RunDirectory, resume: bool) -> dict[str, Any]:
    """Return settings as the sweep to be resumed has them.

    Earlier versions did not tell several methods' numbers, and told the first student's learning rate where it varies.
    """
    found = dict(settings)
    if resume and directory.config_file.exists():
        before = read_mapping(directory.config_file, "settings").get("settings", {})
        if "methods" not in before:
            found.pop("methods", None)
        rate = {name: value for name, value in before.get("training", {}).items() if name == "learning_rate"}
        found["training"] = {**rate, **found["training"]}
    return found


def summary(varied: Axes, accuracy: np.ndarray) -> dict[str, Any]:
    """Return each cell's mean over seeds and the best one, chosen on the test images as in papers' tables.

    Args:
      varied: the values of each setting but the seed.
      accuracy: of the last epoch, `[seeds, …]`, an axis for each setting.
    """
    mean = accuracy.mean(0)
    place = np.unravel_index(mean.argmax(), mean.shape)
    return {
        **{name: list(values) for name, values in varied.items()},
        "val_accuracy": mean.tolist(),
        "best": {
            **{name: values[number] for (name, values), number in zip(varied.items(), place, strict=True)},
            "val_accuracy": float(mean[place]),
            "rule": "the highest mean of the last epoch's val_accuracy over seeds, chosen on the test images",
        },
    }


def table(varied: Axes, accuracy: np.ndarray, labels: Mapping[str, str]) -> str:
    """Return test accuracies of the last epoch in percent: two settings as a grid, others a line for each cell."""
    if len(varied) == 2:
        (row_name, rows), (column_name, columns) = varied.items()
        corner = " \\ ".join(labels.get(name, name).partition(",")[0] for name in (row_name, column_name)) + " "
        widths = [max(8, len(_text(value)) + 2) for value in columns]
        lines = [corner + "".join(f"{_text(value):>{w}s}" for value, w in zip(columns, widths, strict=True))]
        for value, row in zip(rows, 100 * accuracy.mean(0), strict=True):
            cells = "".join(f"{cell:{w}.2f}" for cell, w in zip(row, widths, strict=True))
            lines.append(f"{_text(value):>{len(corner) - 1}s} {cells}")
        return "\n".join(lines)
    combined = [zip(varied, values, strict=True) for values in itertools.product(*varied.values())]
    names = [", ".join(f"{name} {_text(value)}" for name, value in pairs) or "all seeds" for pairs in combined]
    each = 100 * accuracy.reshape(len(accuracy), -1).T
    width = max(map(len, names))
    return "\n".join(f"{name:{width}s}  {Spread(tuple(values)):6.2f}" for name, values in zip(names, each, strict=True))


def draw(varied: Axes, accuracy: np.ndarray, path: pathlib.Path, title: str, labels: Mapping[str, str]) -> None:
    """Draw two settings as a heat map and one as dots, a dot for each seed; more have no picture."""
    names = [labels.get(name, name) for name in varied]
    if len(varied) == 2:
        rows, columns = ([_text(value) for value in values] for values in varied.values())
        row_name, column_name = names
        shown = (column_name, row_name, "test accuracy (%)")
        plots.heat_map(accuracy.mean(0), path, rows=rows, columns=columns, labels=shown, title=title)
    elif len(varied) == 1:
        ((_, values),) = varied.items()
        named = {f"{names[0]} {_text(value)}": accuracy[:, number].tolist() for number, value in enumerate(values)}
        plots.comparison(named, path, title=title)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def named_values(text: str) -> tuple[str, list[Any]]:
    """Return `NAME=V,V,…` from the command line in two.

    Example:
      >>> named_values("temperature=2,4.5"), named_values("method=kd,ctkd"), named_values("learning-rate=1e-2")
      (('temperature', [2, 4.5]), ('method', ['kd', 'ctkd']), ('first_learning_rate', [0.01]))
    """
    name, equals, values = text.partition("=")
    name = name.replace("-", "_")
    parts = [part.strip() for part in values.split(",")]
    if not (name and equals and all(parts)):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=V,V, as in temperature=2,4,8")
    if len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(f"{text!r} has a value twice: give each once")
    kind = CHOICES.get(name, _number)
    try:
        return (FIRST_RATE if name == "learning_rate" else name), [kind(part) for part in parts]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: the values are numbers, as in temperature=2,4,8") from None


def _number(text: str) -> float:
    return int(text) if text.lstrip("+-").isdecimal() else float(text)


def command_line() -> CommandLine:
    """Return the parser of the options."""
    parser = CommandLine(prog=program("sweep"), description=__doc__, epilog=EXAMPLES, formatter_class=Help)
    grid = parser.add_argument_group("grid")
    grid.add_argument(
        "--grid",
        type=named_values,
        action="append",
        default=[],
        metavar="NAME=V,V",
        help=f"{', '.join(CHOICES)}, a setting of the method, or TERM_weight, as in kd_weight; repeatable: every "
        "combination is a student",
    )
    grid.add_argument("--at-once", type=int, metavar="N", help="at most so many students in one program")
    distill.add_networks_and_method(parser)
    add_options(parser, recipes.list())
    return parser
