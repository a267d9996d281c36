"""Distils a student from a teacher, with any method and recipe; see train_teacher.py for networks without a teacher."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import training_options
from run_directory import RunDirectory, fingerprint

import jaxkd
from jaxkd import convert, data, models, recipes

EXAMPLES = """examples:
  KD, ResNet-56 to ResNet-20:
    python experiments/distill.py --data-dir ~/data --teacher cifar100_resnet56.pth --teacher-name resnet56 \\
        --student resnet20 --method kd
  CTKD:
    … --method ctkd
  standardised KD at temperature 2 with weight 9:
    … --method kd+std
  ATS with its own schedule and normalisation, from a network trained by train_teacher.py:
    python experiments/distill.py --teacher runs/ats-teacher/model --student ResNet14 --method ats --recipe ats \\
        --correct 4 --wrong 2

A killed run goes on with the same command and --resume. In the directory of a run are config.json, metrics.csv,
checkpoints, result.json, curves.png and the student, for jaxkd (student/) and for PyTorch (student.pth).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; None takes the process's own command line."""
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        method = method_of(options)
        training = training_options.training_of(options, options.student)
        teacher = load_teacher(options, method)
        train, test = training_options.load_data(options, training)
        check_classes(teacher, train)
        student: Any = models.create(options.student, num_classes=train.num_classes, seed=options.seed)
        directory = RunDirectory(options.output or default_output(options, teacher))
        settings = training_options.settings_of(
            options,
            training,
            train,
            method={"name": method.name, "weights": dict(method.weights), "settings": dict(method.settings)},
            student=options.student,
            teacher=None if teacher is None else {"name": teacher.name, "sha256": fingerprint(options.teacher)},
        )
        directory.check(settings, options.resume)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    directory.start(settings, vars(options))

    student_parameters = training_options.parameters(student)
    facts: dict[str, Any] = {"student": {"name": options.student, "parameters": student_parameters}}
    print(f"student {options.student}: {student_parameters:,} parameters; {method.title}, recipe {training.name}")
    if teacher is None:
        trainer = jaxkd.Trainer(student)
    else:
        facts["teacher"] = describe_teacher(teacher, test, options.evaluate_teacher)
        trainer = jaxkd.Distiller(student=student, teacher=teacher)
    training_options.run(
        trainer, train, test, training, options, directory, "student", facts, method.losses(), method.weights
    )
    return 0


def method_of(options: argparse.Namespace) -> recipes.Method:
    """The method, with the published numbers unless the command line has others.

    Raises:
      ValueError: for a setting or weight that the method does not have.
    """
    names = ("temperature", "correct", "wrong")
    settings = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    method = recipes.get_method(options.method, **settings)
    weights = {"ce": options.ce_weight, method.teaching_term or "kd": options.kd_weight}
    return method.adapted(weights={name: weight for name, weight in weights.items() if weight is not None})


def load_teacher(options: argparse.Namespace, method: recipes.Method) -> Any:
    """The teacher, from a torch file or a checkpoint folder; None where the method has no use for one.

    Raises:
      ValueError, OSError: for options that do not go together, or a file that cannot be read.
    """
    path = options.teacher
    if path is None:
        if method.needs_teacher:
            raise ValueError(f"--method {options.method} needs a --teacher")
        return None
    if not path.exists():
        raise FileNotFoundError(f"--teacher {path}: there is no such file or folder")
    if path.is_dir():
        teacher: Any = convert.load(path)
        if options.teacher_name not in (None, teacher.name):
            raise ValueError(f"--teacher-name {options.teacher_name}, but {path} holds a {teacher.name}")
        return teacher
    if options.teacher_name is None:
        raise ValueError(f"--teacher {path} is a torch file: say which network it is by --teacher-name, as in resnet56")
    return convert.from_torch(path, options.teacher_name)


def check_classes(teacher: Any, train: data.Dataset) -> None:
    """Refuses a teacher that was trained for something else."""
    if teacher is not None and teacher.num_classes != train.num_classes:
        raise ValueError(
            f"the teacher tells {teacher.num_classes} classes apart, and {train.name} has {train.num_classes}: "
            "choose the --data it was trained on"
        )


def describe_teacher(teacher: Any, test: data.Dataset, evaluate: bool) -> dict[str, Any]:
    """Prints and returns what the teacher is and how good: a low accuracy means that something is wrong with it."""
    size = training_options.parameters(teacher)
    described = {"name": teacher.name, "parameters": size, "normalization": teacher.normalization or test.normalization}
    if not evaluate:
        return described
    measured = jaxkd.Trainer(teacher).evaluate(test)
    print(
        f"teacher {teacher.name}: {size:,} parameters; top-1 {measured['accuracy']:.2%}, top-5 {measured['top5']:.2%} "
        f"of {len(test):,} test images"
    )
    return described | {"accuracy": measured["accuracy"], "top5": measured["top5"]}


def default_output(options: argparse.Namespace, teacher: Any) -> pathlib.Path:
    """A folder under runs/ that says what the run is."""
    pair = options.student if teacher is None else f"{teacher.name}-{options.student}"
    return pathlib.Path("runs") / f"{options.data}-{pair}-{options.method}-seed{options.seed}"


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks = parser.add_argument_group("networks")
    networks.add_argument(
        "--teacher", type=pathlib.Path, metavar="FILE",
        help="a torch file (.pth, .pt, .th, .tar), or a folder that train_teacher.py, jaxkd.convert.save or "
        "python -m jaxkd.convert wrote, which also knows its normalisation",
    )  # fmt: skip
    networks.add_argument("--teacher-name", metavar="NAME", help="the network in a torch file: resnet56, wrn_40_2, …")
    networks.add_argument("--student", required=True, metavar="NAME", help="resnet20, wrn_16_2, vgg8, …")
    networks.add_argument(
        "--evaluate-teacher", action=argparse.BooleanOptionalAction, default=True,
        help="measure the teacher on the test images first, so that a wrong file or normalisation is noticed",
    )  # fmt: skip
    method = parser.add_argument_group("method", "what is not given keeps its published value")
    method.add_argument("--method", choices=recipes.methods(), default="kd", help="default: kd; ce is a student alone")
    method.add_argument("--temperature", type=float, metavar="T", help="of kd and kd+std")
    method.add_argument("--correct", type=float, metavar="T", help="of ats: τ₁, for the true class")
    method.add_argument("--wrong", type=float, metavar="T", help="of ats: τ₂, for the other classes")
    method.add_argument("--ce-weight", type=float, metavar="W", help="of the cross-entropy with the labels")
    method.add_argument("--kd-weight", type=float, metavar="W", help="of the term that compares with the teacher")
    training_options.add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
