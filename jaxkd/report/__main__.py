"""`jaxkd report`: write a page about some runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxkd import data, report
from jaxkd.command_line import CommandLine, Help, by_other_names, program

EXAMPLES = """examples:
  jaxkd report runs/digits-resnet14-resnet8-kd-seed0 runs/digits-resnet14-resnet8-ctkd-seed0 -o report.html
  jaxkd report runs -o report.html --teacher runs/digits-teacher/model
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    parser = command_line()
    options = parser.parse_intermixed_args(arguments)
    if options.teacher is None and (options.data or options.data_dir):
        parser.error("--data and --data-dir are for images that a --teacher and its students disagree on: give one")
    try:
        path = report.write(
            options.runs,
            options.output,
            title=options.title,
            teacher=options.teacher,
            data=options.data,
            data_dir=options.data_dir,
            authors=options.authors,
        )
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    print(f"{path}: {path.stat().st_size / 1024:,.0f} KiB, to be opened in any browser")
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = CommandLine(
        prog=program("report"),
        description="Write one page about some runs: results, learning curves, settings, environment.",
        epilog=EXAMPLES,
        formatter_class=Help,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNS", help="run directories, sweeps, or folders in which there are some"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html"
    )
    parser.add_argument(
        "--authors",
        nargs="?",
        const=True,
        type=Path,
        metavar="DIR",
        help="draw training logs that authors published beside the runs of the same method and networks: those of a "
        "folder, or the selection that comes with jaxkd",
    )
    parser.add_argument("--title", default="Distillation report", metavar="TEXT", help="of the page")
    images = parser.add_argument_group("images on which students and their teacher disagree")
    images.add_argument(
        "--teacher",
        type=Path,
        metavar="FILE",
        help="the runs' teacher: a file of weights, a converted teacher or the directory of its run",
    )
    images.add_argument("--data", choices=data.names(), help="default: the data set the runs were trained on")
    images.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where its files are; default: $JAXKD_DATA, else ~/data"
    )
    return parser


if __name__ == "__main__":
    sys.exit(by_other_names(main)())
