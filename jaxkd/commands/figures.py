"""The papers' figures, and what else a student shows, as a picture and as data: one command each.

Every command writes NAME.png (or .pdf, .svg) and NAME.json, and prints the numbers in a few lines. With --smoke it
first trains small networks on digits, in about a minute, and shows those.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from jaxkd import plots
from jaxkd.command_line import CommandLine, Help, program
from jaxkd.commands.figuring import (
    agreement,
    authors,
    class_gain,
    class_relations,
    embedding,
    grid,
    learned_temperature,
    logit_scatter,
    reliability,
    teacher_statistics,
    temperature_sweep,
    wrong_classes,
)
from jaxkd.commands.figuring.figure import Figure
from jaxkd.formats.files import check_folder
from jaxkd.records import environment, read_json, write_json

FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        *teacher_statistics.FIGURES,
        grid.FIGURE,
        learned_temperature.FIGURE,
        temperature_sweep.FIGURE,
        authors.FIGURE,
        logit_scatter.FIGURE,
        class_relations.FIGURE,
        embedding.FIGURE,
        reliability.FIGURE,
        agreement.FIGURE,
        class_gain.FIGURE,
        wrong_classes.FIGURE,
    )
}
"""By name; a new one is a module with a FIGURE and a line here."""

EXAMPLES = """examples:
  without any file:
    jaxkd figures fig7 --smoke
  the variance among wrong classes that published teachers show:
    jaxkd figures fig7 cifar100_resnet20.pth cifar100_resnet56.pth --data-dir ~/data
  the grid of jaxkd sweep:
    jaxkd figures fig10 runs/ats-grid-cifar100-VGG8
  the temperature that runs of jaxkd distill learned:
    jaxkd figures temperature runs/
  students beside their teacher:
    jaxkd figures logits --teacher cifar100_resnet56.pth runs/kd runs/kd-std --data-dir ~/data
  runs of jaxkd distill over the logs of the authors of logit standardisation:
    jaxkd figures authors runs/kd-std runs/ctkd-std
  a figure again, for a paper:
    jaxkd figures fig7 --redraw runs/figures/fig7.json --format pdf

jaxkd figures NAME --help says what a figure shows and what it takes.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = command_line()
    options = parser.parse_args(given)
    figure = FIGURES[options.figure]
    data_file, picture = (options.output / f"{figure.name}.{suffix}" for suffix in ("json", options.format))
    try:
        plots.canvas()  # what is missing is said before anything is computed
        check_folder(options.output)
        if options.redraw:
            record = read_json(options.redraw)
        else:
            if options.smoke:
                others = [argument for argument in given[1:] if argument != "--smoke"]
                options = parser.parse_args([figure.name, *figure.smoke(options.output / "smoke"), *others])
            record = {"figure": figure.name, **figure.measure(options), **environment()}
        if record.get("figure") != figure.name:
            raise ValueError(f"{options.redraw} holds the data of {record.get('figure')!r}, not of {figure.name!r}")
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.redraw:
        write_json(data_file, record, indent=None)
        if figure.table is not None:
            data_file.with_suffix(".csv").write_text(figure.table(record), encoding="utf-8")
    figure.draw(record, picture)
    print("\n".join(figure.lines(record)))
    print(f"{picture}, drawn from {options.redraw or data_file}")
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return the parser, with a part for each figure."""
    parser = CommandLine(prog=program("figures"), description=__doc__, epilog=EXAMPLES, formatter_class=Help)
    parts = parser.add_subparsers(dest="figure", metavar="NAME", required=True)
    for figure in FIGURES.values():
        short, _, long = figure.about.partition("\n")
        part = parts.add_parser(
            figure.name,
            help=short,
            description=long,
            allow_abbrev=False,
            formatter_class=Help,
        )
        figure.add_options(part)
        files = part.add_argument_group("files")
        files.add_argument("--smoke", action="store_true", help="train small networks on digits first, and show those")
        files.add_argument(
            "--output",
            type=pathlib.Path,
            default=pathlib.Path("runs/figures"),
            metavar="DIR",
            help="default: runs/figures",
        )
        files.add_argument(
            "--format", choices=("png", "pdf", "svg"), default="png", help="of the picture; default: png"
        )
        files.add_argument("--redraw", type=pathlib.Path, metavar="JSON", help="draw again from data written before")
    return parser
