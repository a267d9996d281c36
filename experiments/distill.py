"""Distils a student from a teacher, with any method and recipe; see train_teacher.py for networks without a teacher."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import training_options
import training_run

import jaxkd
from jaxkd import convert, models, recipes
from jaxkd.records import RunDirectory, fingerprint

EXAMPLES = """examples:
  one number of a paper's table; --list-recipes prints them all:
    python experiments/distill.py --data-dir ~/data --recipe ctkd+dkd/resnet56-resnet20 --teacher cifar100_resnet56.pth
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
        recipe = training_options.begin(options)
        name = options.student or (recipe and recipe.student)
        if name is None:
            raise ValueError(
                "name the network by --student, as in resnet20, or by --recipe, as in kd/resnet56-resnet20"
            )
        method = method_of(options, recipe)
        training = training_options.training_of(options, name, recipe)
        teacher = load_teacher(options, method, recipe)
        train, test = training_options.load_data(options, training)
        check_classes(teacher, train)
        student: Any = models.create(name, num_classes=train.num_classes, seed=options.seed)
        directory = RunDirectory(options.output or default_output(options, method, teacher, name))
        settings = training_options.settings_of(
            options,
            training,
            train,
            method=method.describe(),
            student=name,
            teacher=None if teacher is None else {"name": teacher.name, "sha256": fingerprint(options.teacher)},
        )
        training_run.check(directory, settings, options)
        trainer = jaxkd.Trainer(student) if teacher is None else jaxkd.Distiller(student=student, teacher=teacher)
        # A student alone has nothing to keep.
        cache = False if teacher is None else teacher_cache(options.cache_teacher)
        training_options.compile_trainer(trainer, train, training, options, method.losses(train), method.weights, cache)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.error(str(error))
    training_run.start(directory, settings, options)

    student_parameters = training_run.parameters(student)
    training_run.say(f"student {name}: {student_parameters:,} parameters; {method.title}, recipe {training.name}")
    facts: dict[str, Any] = {"student": {"name": name, "parameters": student_parameters}}
    if teacher is not None:
        facts["teacher"] = describe_teacher(teacher, test, options.evaluate_teacher)
    facts |= training_options.published(recipe, method, teacher and teacher.name, name, training, options)
    training_run.run(trainer, train, test, training, options, directory, "student", facts)
    return 0


def method_of(options: argparse.Namespace, recipe: recipes.Recipe | None) -> recipes.Method:
    """The method, with the published numbers unless the command line has others.

    Raises:
      ValueError: for a setting or weight that the method does not have.
    """
    chosen = recipes.get_method(options.method or "kd") if recipe is None or options.method else recipe.method
    names = ("temperature", "correct", "wrong")
    settings = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    weights = {"ce": options.ce_weight, chosen.teaching_term or "kd": options.kd_weight}
    weights = {name: weight for name, weight in weights.items() if weight is not None}
    return chosen.adapted(weights | dict(options.weight), **(settings | dict(options.setting)))


def load_teacher(options: argparse.Namespace, method: recipes.Method, recipe: recipes.Recipe | None) -> Any:
    """The teacher, from a torch file or a checkpoint folder; None where the method has no use for one.

    Raises:
      ValueError, OSError: for options that do not go together, or a file that cannot be read.
    """
    path, name = options.teacher, options.teacher_name or (recipe and recipe.teacher)
    if path is None:
        if method.needs_teacher:
            which = f", a {name}" if name else ""
            raise ValueError(f"--method {method.name} needs a --teacher{which}")
        return None
    if not path.exists():
        raise FileNotFoundError(f"--teacher {path}: there is no such file or folder")
    if path.is_dir():
        teacher: Any = convert.load(path)
        if name not in (None, teacher.name):
            whose = f"--teacher-name {name}" if options.teacher_name else f"--recipe {options.recipe} has a {name}"
            raise ValueError(f"{whose}, but {path} holds a {teacher.name}")
        return teacher
    return convert.from_torch(path, name)


def teacher_cache(option: str | None) -> bool | str | jaxkd.TeacherCache:
    """What `--cache-teacher` says: nothing, "auto", or a folder."""
    if option is None:
        return False
    return option if option == "auto" else jaxkd.TeacherCache(option)


def check_classes(teacher: Any, train: training_options.Images) -> None:
    """Refuses a teacher that was trained for something else."""
    if teacher is not None and teacher.num_classes != train.num_classes:
        raise ValueError(
            f"the teacher tells {teacher.num_classes} classes apart, and {train.name} has {train.num_classes}: "
            "choose the --data it was trained on"
        )


def describe_teacher(teacher: Any, test: training_options.Images, evaluate: bool) -> dict[str, Any]:
    """Prints and returns what the teacher is and how good: a low accuracy means that something is wrong with it."""
    size = training_run.parameters(teacher)
    described = {"name": teacher.name, "parameters": size, "normalization": teacher.normalization or test.normalization}
    if not evaluate:
        return described
    measured = jaxkd.Trainer(teacher).evaluate(test)
    training_run.say(
        f"teacher {teacher.name}: {size:,} parameters; top-1 {measured['accuracy']:.2%}, top-5 {measured['top5']:.2%} "
        f"of {len(test):,} test images"
    )
    return described | {"accuracy": measured["accuracy"], "top5": measured["top5"]}


def default_output(options: argparse.Namespace, method: recipes.Method, teacher: Any, student: str) -> pathlib.Path:
    """A folder under runs/ that says what the run is."""
    pair = student if teacher is None else f"{teacher.name}-{student}"
    return pathlib.Path("runs") / f"{options.data}-{pair}-{method.name}-seed{options.seed}"


def named_number(text: str) -> tuple[str, float]:
    """`NAME=NUMBER` from the command line; whole numbers stay whole.

    Example:
      >>> named_number("pkt=3e4"), named_number("negatives=4096")
      (('pkt', 30000.0), ('negatives', 4096))
    """
    name, equals, number = text.partition("=")
    try:
        if not (name and equals):
            raise ValueError
        return name, int(number) if number.lstrip("+-").isdecimal() else float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=NUMBER, as in kd=0.9") from None


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks = parser.add_argument_group("networks")
    networks.add_argument(
        "--teacher", type=pathlib.Path, metavar="FILE",
        help="a file of weights (.pth, .pt, .th, .tar, .safetensors), or a folder that train_teacher.py, "
        "jaxkd.convert.save or python -m jaxkd.convert wrote, which also knows its normalisation",
    )  # fmt: skip
    networks.add_argument(
        "--teacher-name",
        metavar="NAME",
        help="the network in a file of weights: resnet56, wrn_40_2, …; default: the recipe's, else found by its keys",
    )
    networks.add_argument("--student", metavar="NAME", help="resnet20, wrn_16_2, vgg8, …; default: the recipe's")
    networks.add_argument(
        "--evaluate-teacher", action=argparse.BooleanOptionalAction, default=True,
        help="measure the teacher on the test images first, so that a wrong file or normalisation is noticed",
    )  # fmt: skip
    networks.add_argument(
        "--cache-teacher", nargs="?", const="auto", metavar="DIR",
        help="compute the teacher once for every view of an image: kept in memory where that is possible, or in a "
        "folder for other runs as well",
    )  # fmt: skip
    method = parser.add_argument_group("method", "what is not given keeps its published value")
    method.add_argument(
        "--method", choices=recipes.methods(), metavar="NAME",
        help=f"default: the recipe's, else kd; ce is a student alone: {', '.join(recipes.methods())}",
    )  # fmt: skip
    method.add_argument("--temperature", type=float, metavar="T", help="of kd, dkd, mlkd, dist and their kin")
    method.add_argument("--correct", type=float, metavar="T", help="of ats: τ₁, for the true class")
    method.add_argument("--wrong", type=float, metavar="T", help="of ats: τ₂, for the other classes")
    method.add_argument("--ce-weight", type=float, metavar="W", help="of the cross-entropy with the labels")
    method.add_argument("--kd-weight", type=float, metavar="W", help="of the first term that compares with the teacher")
    method.add_argument(
        "--weight", type=named_number, action="append", default=[], metavar="TERM=W",
        help="of any term, as in pkt=30000; repeatable. It holds from the first epoch, also where the published one "
        "warms up",
    )  # fmt: skip
    method.add_argument(
        "--setting", type=named_number, action="append", default=[], metavar="NAME=X",
        help="any other number of the method, as in beta=2 or t_end=10; repeatable",
    )  # fmt: skip
    training_options.add_options(parser, recipes.list())
    return parser


if __name__ == "__main__":
    sys.exit(main())
