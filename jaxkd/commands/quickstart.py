"""Knowledge distillation in two minutes: one teacher, five ways to train its student, on real handwritten digits.

    jaxkd quickstart

The teacher learns from all 1,437 training images, the students from 20 of each digit only, so that a teacher has
something to tell. Every method starts from the same weights and sees the same batches, seed by seed.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import optax
from flax import nnx

import jaxkd
from jaxkd import data, models, plots, recipes
from jaxkd.command_line import CommandLine, Help, program, spoken
from jaxkd.commands.options import method_name
from jaxkd.commands.run import parameters
from jaxkd.data import Dataset
from jaxkd.formats.files import check_folder
from jaxkd.records import Spread, environment, write_json

TEACHER, STUDENT = "resnet14", "resnet8"
TEACHER_EPOCHS, TEACHER_BATCH = 8, 64
METHODS = ("ce", "kd", "ats", "ctkd", "kd+std")
IMAGES_PER_DIGIT = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        if (options.output / "config.json").exists():
            raise ValueError(f"{options.output} holds a run: choose another folder (--output)")
        check_folder(options.output)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    start = time.perf_counter()
    training = recipes.get_training("digits").adapted(epochs=options.epochs)
    train, test = data.load("digits")
    few = first_of_each(train, IMAGES_PER_DIGIT)

    print(f"teacher {TEACHER}, {len(train)} images, {TEACHER_EPOCHS} epochs", end=" ", flush=True)
    teacher = train_teacher(train)
    measured = jaxkd.Trainer(teacher).evaluate(test)["accuracy"]
    print(f"… {measured:.1%} of {len(test)} test images")

    print(f"student {STUDENT}, {len(few)} images, {training.epochs} epochs, {options.seeds} seeds")
    runs: dict[str, list[jaxkd.History]] = {}
    for name in options.methods:
        method = recipes.get_method(name)
        print(f"  {method.title:16s}", end=" ", flush=True)
        runs[method.title] = []
        optimizer = training.optimizer()  # one for all seeds, which then share a compiled program
        for seed in range(options.seeds):
            history = train_student(method, optimizer, teacher, few, test, training, seed)
            runs[method.title].append(history)
            print(f"{history.last('val_accuracy'):.1%}", end=" ", flush=True)
        print()

    print(f"\n{table(runs, measured, parameters(teacher), parameters(new_student(0)))}\n")
    options.output.mkdir(parents=True, exist_ok=True)
    write_results(options.output, runs, measured, len(few))
    draw(options.output, runs, measured)
    print(f"{time.perf_counter() - start:.0f} s. Pictures and the numbers of every run are in {options.output}/")
    print(spoken(f"As a page for a browser: jaxkd report {options.output} -o report.html"))
    return 0


def first_of_each(train: Dataset, count: int) -> Dataset:
    """Return the first `count` images of every class."""
    places = [np.flatnonzero(train.labels == label)[:count] for label in range(train.num_classes)]
    return train.take(np.sort(np.concatenate(places)))


def train_teacher(train: Dataset) -> nnx.Module:
    """Train a network on the labels of all images."""
    training = recipes.get_training("digits").adapted(epochs=TEACHER_EPOCHS, batch_size=TEACHER_BATCH)
    trainer = jaxkd.Trainer(models.create(TEACHER, num_classes=train.num_classes, seed=0))
    trainer.compile(training.optimizer())
    trainer.fit(train, epochs=training.epochs, batch_size=training.batch_size, verbose=0)
    return trainer.model


def new_student(seed: int) -> nnx.Module:
    """Return a student with the initial weights of a seed."""
    return models.create(STUDENT, num_classes=10, seed=100 + seed)


def train_student(
    method: recipes.Method,
    optimizer: optax.GradientTransformationExtraArgs,
    teacher: nnx.Module,
    few: Dataset,
    test: Dataset,
    training: recipes.Training,
    seed: int,
) -> jaxkd.History:
    """Train one student by a method."""
    distiller = jaxkd.Distiller(student=new_student(seed), teacher=teacher)
    distiller.compile(optimizer, loss=method.losses(few), loss_weights=method.weights, seed=seed)
    return distiller.fit(few, validation_data=test, epochs=training.epochs, batch_size=training.batch_size, verbose=0)


def table(
    runs: Mapping[str, list[jaxkd.History]], teacher_accuracy: float, teacher_size: int, student_size: int
) -> str:
    """Return test accuracies as text: mean ± sample deviation over seeds, of the last and of the best epoch."""
    lines = [
        f"{'test accuracy, %':18s} {'parameters':>10s} {'last epoch':>13s} {'best epoch':>13s}",
        f"{'teacher':18s} {teacher_size:10,d} {100 * teacher_accuracy:7.1f}",
    ]
    for name, histories in runs.items():
        last = spread(history.last("val_accuracy") for history in histories)
        best = spread(history.best("val_accuracy")[1] for history in histories)
        lines.append(f"{name:18s} {student_size:10,d} {last:>13s} {best:>13s}")
    lines.append("The last epoch is the result; the best was chosen by looking at test images.")
    return "\n".join(lines)


def spread(accuracies: Iterable[float]) -> str:
    """Return mean and deviation in percent, the means of all lines one below the other.

    Example:
      >>> spread([0.9, 0.92]), spread([0.9])
      ('91.0 ± 1.4', '90.0      ')
    """
    values = Spread(tuple(100 * accuracy for accuracy in accuracies))
    return f"{values:.1f}" + ("" if len(values.values) > 1 else 6 * " ")


def write_results(
    output: pathlib.Path, runs: Mapping[str, list[jaxkd.History]], teacher_accuracy: float, images: int
) -> None:
    """Write every run's history, with the versions it came from."""
    record = {
        "teacher": {"name": TEACHER, "accuracy": teacher_accuracy},
        "student": STUDENT,
        "data": {"name": "digits", "images": images},
        "runs": {name: [history.to_dict() for history in histories] for name, histories in runs.items()},
        **environment(),
    }
    write_json(output / "results.json", record, indent=None)


def draw(output: pathlib.Path, runs: Mapping[str, list[jaxkd.History]], teacher_accuracy: float) -> None:
    """Draw curves.png, test accuracy over the epochs and at their end, and temperature.png, what CTKD learned."""
    if not plots.available():
        print('No pictures without matplotlib: pip install "jaxkd[demo]"')
        return
    figure, (left, right) = plots.canvas(columns=2)
    plots.learning_curves(runs, left, title="while training: mean ± deviation over seeds")
    ends = {name: [history.last("val_accuracy") for history in histories] for name, histories in runs.items()}
    plots.comparison(ends, right, {"teacher": teacher_accuracy}, title="at the last epoch, a dot per seed")
    plots.save(figure, output / "curves.png")
    curricula = {name: histories for name, histories in runs.items() if "kd_temperature" in histories[0].history}
    if curricula:
        plots.temperatures(curricula, output / "temperature.png")


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = CommandLine(prog=program("quickstart"), description=__doc__, formatter_class=Help)
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="runs per method; default: 3")
    parser.add_argument("--epochs", type=positive, metavar="N", help="of the students; default: 30")
    parser.add_argument(
        "--methods",
        nargs="+",
        type=method_name,
        default=METHODS,
        metavar="NAME",
        help=f"any of {', '.join(recipes.methods())}, or FILE.py:FUNCTION; default: {' '.join(METHODS)}",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/quickstart"),
        metavar="DIR",
        help="default: runs/quickstart",
    )
    return parser


def positive(text: str) -> int:
    """Return a whole number above 0 from the command line."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return number
