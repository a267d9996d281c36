"""Runs a published table's rows and writes what was reached beside what is published.

A row is a method for a pair of networks. Each seed of it is a run of jaxkd distill with its own directory; what is done
is skipped, what was killed goes on. On GPUs and TPUs the seeds of a row are one program. The table is written anew
whenever one ends.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import traceback
from collections.abc import Collection, Mapping, Sequence

import jax

from jaxkd import plots, recipes, records
from jaxkd.command_line import CommandLine, Help, program
from jaxkd.commands import config_file, distill, train
from jaxkd.commands.result_table import (
    SMOKE_TEACHER,
    PublishedVsOurs,
    Row,
    comma_separated,
    draw,
    markdown,
    on_digits,
    rows_of,
    teacher_file,
)
from jaxkd.commands.run import digest_of
from jaxkd.config import DataConfig, RunConfig
from jaxkd.formats.files import sha256, write_text
from jaxkd.records import flat
from jaxkd.records.directory import ABSENT, changes
from jaxkd.training.preemption import TERMINATED

EXAMPLES = """examples:
  everything that is published for a pair, the student alone included, and ATS beside it:
    jaxkd reproduce resnet56-resnet20 --also ats --teachers ~/teachers --data-dir ~/data --seeds 0 1 2
  a learned temperature, for every pair it is published for:
    jaxkd reproduce ctkd --teachers ~/teachers --data-dir ~/data
  what a table's runs would be:
    jaxkd reproduce standardization --list
  other options of jaxkd distill go to every run, behind two dashes:
    jaxkd reproduce kd/resnet56-resnet20 --teachers ~/teachers -- --epochs 30 --cache-teacher
  all methods of the pair on digits, three epochs each, without any file:
    jaxkd reproduce resnet56-resnet20 --smoke

--teachers names a folder with a file or folder for each teacher, called after the network: resnet56.pth, resnet56/,
cifar100_resnet56.pth or resnet56_vanilla/*.pth. The output gets METHOD/PAIR/seedN/ with the runs, table.md, table.csv
and table.png.
"""


RESUMED = ("--resume", "--quiet")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, passed_on = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = command_line()
    options = parser.parse_args(own)
    try:
        rows = rows_of(options.names, options.methods, options.also)
        rows = on_digits(rows) if options.smoke else rows
        if not rows:
            raise ValueError(f"--methods {' '.join(options.methods)}: none of them is published for that")
        if options.list:
            print("\n".join(f"{row.method:14s} {row.pair}" for row in rows))
            return 0
        if options.at_once is not None and options.at_once < 1:
            raise ValueError(f"--at-once {options.at_once}: at least one is needed")
        if owned := [name for name in ("--seed", "--output") if any(is_option(word, name) for word in passed_on)]:
            raise ValueError(
                f"{owned[0]} behind the dashes: every run has its own; give --seeds or --output before them"
            )
        teachers = find_teachers(rows, options)
        if options.smoke:  # three epochs show that a method runs; some, as weighted for CIFAR-100, do not learn in them
            passed_on = ["--data", "digits", "--epochs", "3", "--batch-size", "64", *passed_on]
        commands = [[*arguments_of(row, teachers, options), *passed_on, *RESUMED] for row in rows]
        configs = [config_of(command) for command in commands]
    except (ValueError, OSError) as error:
        parser.error(str(error))
    kinds = [*(["smoke"] * options.smoke), *(["limited"] * configs[0].limited)]
    output = options.output or pathlib.Path("runs") / "-".join(["reproduce", *kinds])
    seeds = list(dict.fromkeys(options.seeds))
    plan = [
        Planned(row, config, {seed: directory(output, row, seed) for seed in seeds})
        for row, config in zip(rows, configs, strict=True)
    ]
    at_once = (1 if jax.default_backend() == "cpu" else None) if options.at_once is None else options.at_once
    failed: list[pathlib.Path] = []
    for number, (planned, command) in enumerate(zip(plan, commands, strict=True), 1):
        print(f"{number} of {len(plan)}: {planned.row.method} {planned.row.pair}", flush=True)
        for folders in planned.parts_to_do(at_once):
            failed += attempt(planned, command, folders, at_once)
            write_table(output, plan)
    print(f"\n{write_table(output, plan)}\neverything is in {output}")
    if failed:
        names = ", ".join(map(str, failed))
        print(f"not done, as said above: {names}; the same command goes on with them", file=sys.stderr)
    return 1 if failed else 0


@dataclasses.dataclass(frozen=True)
class Planned:
    """A row that is to be run.

    Attributes:
      row: what it is.
      config: its run, but for the seed, and with the digest of its teacher's file.
      folders: where the run of each seed goes.
    """

    row: Row
    config: RunConfig
    folders: Mapping[int, pathlib.Path]

    def done(self, seed: int) -> records.Record | None:
        """Return the run of a seed that has its result; None where it has none, or had other settings than wanted."""
        if not records.RunDirectory(self.folders[seed]).result_file.exists():
            return None
        run = records.read(self.folders[seed])
        differing = changes(run.settings, dataclasses.replace(self.config, seed=seed).settings())
        always = flat(plain(self.config).settings())  # what earlier versions may not have said
        others = [
            name
            for name, (there, here) in differing.items()
            if not name.startswith(FOUND_LATER)
            and not (there == ABSENT and name in always)
            and not (here == ABSENT and there is None)
        ]
        return None if others or run.limited != self.config.limited else run

    @property
    def runs(self) -> list[records.Record]:
        """Return the runs that are done."""
        return [run for seed in self.folders if (run := self.done(seed)) is not None]

    def parts_to_do(self, at_once: int | None) -> list[dict[int, pathlib.Path]]:
        """Return the folders of the seeds that are not done: together, or each by itself where one is taken at once."""
        wanted = {seed: folder for seed, folder in self.folders.items() if self.done(seed) is None}
        for seed, folder in self.folders.items():
            print(f"{folder} {'…' if seed in wanted else 'is done'}", flush=True)
        return [{seed: folder} for seed, folder in wanted.items()] if at_once == 1 else [wanted] if wanted else []


FOUND_LATER = ("data.images", "data.normalization", "teacher.name")
"""Settings that are known when the files are read."""


def plain(config: RunConfig) -> RunConfig:
    """Return a run with every optional setting at its usual value."""
    training = recipes.get_training(config.training.name)
    return dataclasses.replace(
        config, init=None, data=DataConfig(config.data.name), training=training, limit_examples=None, limit_steps=None
    )


def is_option(word: str, name: str) -> bool:
    """Return whether a word of a command line is an option, or the option with its value.

    Example:
      >>> is_option("--seed", "--seed"), is_option("--seed=3", "--seed"), is_option("--seeds", "--seed")
      (True, True, False)
    """
    return word.partition("=")[0] == name


def config_of(arguments: Sequence[str]) -> RunConfig:
    """Return the run that arguments of jaxkd distill describe, with the digests of the files that it begins with."""
    config = distill.config_of(config_file.parse(distill.command_line(), arguments, distill.config_of))
    teacher, init = config.teacher, config.init
    if teacher is not None and teacher.path is not None:
        digest = digest_of([sha256(path) for path in (teacher.path, *teacher.others)])
        config = dataclasses.replace(config, teacher=dataclasses.replace(teacher, sha256=digest))
    if init is not None and init.path is not None:
        config = dataclasses.replace(config, init=dataclasses.replace(init, sha256=sha256(init.path)))
    return config


def attempt(
    planned: Planned, arguments: Sequence[str], folders: dict[int, pathlib.Path], at_once: int | None
) -> Collection[pathlib.Path]:
    """Run some seeds of a row; print what they die of, and leave the other rows to be run.

    Returns:
      The folders of those that failed.
    """
    try:
        distill.several(arguments, folders, at_once)
    except SystemExit as end:  # refused, which was said in a line
        if end.code == TERMINATED:
            raise
    except Exception:
        traceback.print_exc()
    else:
        return ()
    return [folder for seed, folder in folders.items() if planned.done(seed) is None]


def find_teachers(rows: Sequence[Row], options: argparse.Namespace) -> dict[str, pathlib.Path]:
    """Return the file of every teacher, before anything is trained; for digits a small one is trained."""
    names = sorted({row.teacher for row in rows if row.teacher})
    if not options.smoke:
        return {name: teacher_file(options.teachers, name) for name in names}
    if not names:
        return {}
    folder = (options.output or pathlib.Path("runs/reproduce-smoke")) / "teacher"
    if not records.RunDirectory(folder).result_file.exists():
        training = ["--data", "digits", "--model", SMOKE_TEACHER, "--epochs", "6", "--batch-size", "64"]
        train.main([*training, "--output", str(folder), "--resume", "--quiet"])
    return {SMOKE_TEACHER: folder / "model"}


def arguments_of(row: Row, teachers: dict[str, pathlib.Path], options: argparse.Namespace) -> list[str]:
    """Return the arguments of jaxkd distill for a row."""
    data = [] if options.data_dir is None or options.smoke else ["--data-dir", str(options.data_dir)]
    teacher_option = [] if row.teacher is None else ["--teacher", str(teachers[row.teacher])]
    return [*row.arguments, *teacher_option, *data]


def directory(output: pathlib.Path, row: Row, seed: int) -> pathlib.Path:
    """Return where a run goes."""
    return output / recipes.get_method(row.method).name / row.pair / f"seed{seed}"


def write_table(output: pathlib.Path, plan: Sequence[Planned]) -> str:
    """Write the table of what is done so far, and return it in Markdown."""
    table = [PublishedVsOurs(planned.row, planned.runs) for planned in plan]
    runs = [run for entry in table for run in entry.runs]
    if not runs:
        return "nothing is done yet"
    lengths = sorted({len(run.history.epoch) for run in runs})
    devices = sorted({run.environment["device"]["kind"] for run in runs})
    caption = (
        f"Test accuracy in percent on {', '.join(sorted({str(run.data) for run in runs}))}, "
        f"{'/'.join(map(str, lengths))} {'epoch' if lengths == [1] else 'epochs'}, on {', '.join(devices)}"
    )
    page = markdown(table, caption)
    write_text(output / "table.md", page)
    write_text(output / "table.csv", comma_separated(table))
    if plots.available():
        draw(table, output / "table.png", caption)
    return page


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = CommandLine(prog=program("reproduce"), description=__doc__, epilog=EXAMPLES, formatter_class=Help)
    parser.add_argument(
        "names",
        nargs="+",
        metavar="TABLE",
        help="a pair (resnet56-resnet20), a method (ctkd), a recipe (kd/resnet56-resnet20) or a training "
        "(standardization); repeatable",
    )
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these of them")
    parser.add_argument(
        "--also", nargs="+", default=[], metavar="NAME", help="methods to run for the same pairs, such as ats"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="default: 0")
    parser.add_argument(
        "--at-once",
        type=int,
        metavar="N",
        help="at most so many seeds in one program; default: all that fit into memory, and on the CPU one",
    )
    parser.add_argument(
        "--teachers", type=pathlib.Path, default=pathlib.Path("teachers"), metavar="DIR", help="default: teachers/"
    )
    parser.add_argument("--data-dir", type=pathlib.Path, metavar="DIR", help="where the images are")
    parser.add_argument("--output", type=pathlib.Path, metavar="DIR", help="default: runs/reproduce")
    parser.add_argument("--list", action="store_true", help="print the rows and end")
    parser.add_argument(
        "--smoke", action="store_true", help="every method for three epochs on digits, without any file"
    )
    return parser
