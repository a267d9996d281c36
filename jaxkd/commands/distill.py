"""Distils a student from a teacher, with any method and recipe; see jaxkd train for networks without a teacher."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jaxkd
from jaxkd import distributed, recipes
from jaxkd.command_line import CommandLine, Help, program
from jaxkd.commands import config_file, dry_run, method, run
from jaxkd.commands.beginning import Beginning, RefusedError
from jaxkd.commands.options import (
    add_init_options,
    add_options,
    init_of,
    network_of,
    recipe_of,
    run_config,
    teacher_path,
)
from jaxkd.config import RunConfig, TeacherConfig
from jaxkd.records import read_json

EXAMPLES = """examples:
  one number of a paper's table; --list-recipes prints them all:
    jaxkd distill --data-dir ~/data --recipe ctkd+dkd/resnet56-resnet20 --teacher cifar100_resnet56.pth
  KD, ResNet-56 to ResNet-20:
    jaxkd distill --data-dir ~/data --teacher cifar100_resnet56.pth --teacher-name resnet56 \\
        --student resnet20 --method kd
  CTKD:
    … --method ctkd
  standardised KD at temperature 2 with weight 9:
    … --method kd+std
  a method of your own, its losses built by a function of your file:
    … --method my_loss.py:build --setting gamma=2
  ATS with its own schedule and normalisation, from a network trained by jaxkd train:
    jaxkd distill --teacher runs/ats-teacher/model --student ResNet14 --method ats --recipe ats \\
        --correct 4 --wrong 2

A killed run goes on with the same command and --resume. In the directory of a run are config.json, metrics.csv,
checkpoints, result.json, curves.png and the student, for jaxkd (student/) and for PyTorch (student.pth).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    parser = command_line()
    options = config_file.parse(parser, arguments, config_of)
    return train_each(parser, options, config_of, {options.seed: options.output})


def several(arguments: Sequence[str], folders: Mapping[int, pathlib.Path], at_once: int | None = 1) -> int:
    """Run the command for several seeds.

    Args:
      arguments: of the command, but for `--seed` and `--output`.
      folders: where the run of each seed goes.
      at_once: so many seeds become one program, where the runs allow it; None takes all that fit into memory.
    """
    parser = command_line()
    return train_each(parser, config_file.parse(parser, arguments, config_of), config_of, folders, at_once)


def train_each(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    config_of: Callable[[argparse.Namespace], RunConfig],
    folders: Mapping[int, pathlib.Path | None],
    at_once: int | None = 1,
) -> int:
    """Train a network for each seed, with the same images and teacher, if any, and leave each in its folder.

    Args:
      parser: tells of what is wrong.
      options: as it read them.
      config_of: the run that they describe.
      folders: by seed.
      at_once: as of `several`.
    """
    try:
        if options.distributed:
            distributed.initialize()  # before anything computes
        wanted = config_of(options)
        if options.save_config is not None:
            return config_file.save(parser, options)
        config, teacher, train, test = run.read(wanted)
        configs = [dataclasses.replace(config, seed=seed, output=folder) for seed, folder in folders.items()]
        networks = [run.prepare(one, train, test, teacher) for one in configs]
        for network in networks:
            network.check()
        results = {one.directory.path: read_json(one.directory.result_file) for one in networks if one.is_finished}
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.error(str(error))
    try:
        if options.dry_run:
            run.say(dry_run.described(networks[0], teacher))
            return 0
        for network in networks:
            if result := results.get(network.directory.path):  # its files stay: others may have learned from them
                run.say(f"{network.directory.path} is finished already")
                run.print_result(result, network.directory)
        if unfinished := [one for one in networks if one.directory.path not in results]:
            for network in unfinished:
                if network.config.resume and not network.config.quiet and not network.directory.config_file.exists():
                    run.say(f"{network.directory.path.absolute()} holds no run yet: it begins")
            _train(unfinished, teacher, at_once)
    except RefusedError as error:
        parser.error(str(error))
    return 0


def _train(networks: list[run.Experiment], teacher: Any, at_once: int | None) -> None:
    config, test = networks[0].config, networks[0].test
    size = networks[0].facts[config.role]["parameters"]
    run.say(f"{config.role} {config.network}: {size:,} parameters; {config.title}")
    run.say_start(networks[0])
    if config.teacher is not None:
        with Beginning():
            described = describe_teacher(teacher, test, config.teacher.evaluate)
        networks = [dataclasses.replace(one, facts={**one.facts, "teacher": described}) for one in networks]
    if len(networks) > 1 and at_once != 1 and all(network.can_share_a_program for network in networks):
        run.fit_together(networks, at_once)
    else:
        for network in networks:
            run.fit(network)


def config_of(options: argparse.Namespace) -> RunConfig:
    """Return the run that a command line describes; of files, only weights are read that are to say their network.

    Raises:
      ValueError: for what does not exist or does not go together.
    """
    recipe = recipe_of(options)
    init = init_of(options, "--student-init")
    student = options.student or (recipe.student if recipe else network_of(init))
    if student is None:
        raise ValueError("name the network by --student, as in resnet20, or by --recipe, as in kd/resnet56-resnet20")
    first, *others = options.teacher if isinstance(options.teacher, list) else [options.teacher]
    chosen = method.method_of(options)
    of_recipe = recipe.teacher if recipe and (first is not None or chosen.needs_teacher) else None
    teacher = TeacherConfig(
        path=first,
        others=tuple(others),
        name=options.teacher_name or of_recipe,
        evaluate=options.evaluate_teacher,
        cache=options.cache_teacher,
    )
    return run_config(options, student, recipe, chosen, teacher, init)


def describe_teacher(teacher: Any, test: run.Images, evaluate: bool) -> dict[str, Any]:
    """Print and return what the teacher is and how good: a low accuracy means that something is wrong with it."""
    size = run.parameters(teacher)
    name, each = run.name_of(teacher), run.members(teacher)
    known = [network.normalization or test.normalization for network in each]
    described = {"name": name, "parameters": size, "normalization": known[0] if len(known) == 1 else known}
    if not evaluate:
        return described
    measured = jaxkd.Trainer(teacher).evaluate(test)
    run.say(
        f"teacher {name}: {size:,} parameters; top-1 {measured['accuracy']:.2%}, top-5 {measured['top5']:.2%} "
        f"of {len(test):,} test images"
    )
    return described | {"accuracy": measured["accuracy"], "top5": measured["top5"]}


class OneOrSeveral(argparse.Action):
    """Store the value of an option, or the list of them where it has several."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values if len(values) > 1 else values[0])


def command_line() -> CommandLine:
    """Return the parser of the options."""
    parser = CommandLine(prog=program("distill"), description=__doc__, epilog=EXAMPLES, formatter_class=Help)
    add_networks_and_method(parser)
    add_options(parser, recipes.list())
    config_file.add_options(parser)
    dry_run.add_option(parser)
    return parser


def add_networks_and_method(parser: argparse.ArgumentParser) -> None:
    """Add the options for teacher, student and method, which `config_of` reads beside those that commands share."""
    networks = parser.add_argument_group("networks")
    networks.add_argument(
        "--teacher",
        type=teacher_path,
        nargs="+",
        action=OneOrSeveral,
        metavar="FILE",
        help="a file of weights (.pth, .pt, .th, .tar, .ckpt, .safetensors), or a folder that jaxkd train, "
        "jaxkd.convert.save or jaxkd convert wrote, which also knows its normalisation, or that of a run; of several "
        "the student learns from the mean of their logits",
    )
    networks.add_argument(
        "--teacher-name",
        metavar="NAME",
        help="the network in a file of weights: resnet56, wrn_40_2, …; of several with + between them; default: the "
        "recipe's, else found by its keys",
    )
    networks.add_argument("--student", metavar="NAME", help="resnet20, wrn_16_2, vgg8, …; default: the recipe's")
    networks.add_argument(
        "--evaluate-teacher",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the teacher on the test images first, so that a wrong file or normalisation is noticed",
    )
    networks.add_argument(
        "--cache-teacher",
        nargs="?",
        const="auto",
        metavar="DIR",
        help="compute the teacher once for every view of an image: kept in memory where that is possible, or in a "
        "folder for other runs as well",
    )
    method.add_options(parser)
    add_init_options(parser, "--student-init")
