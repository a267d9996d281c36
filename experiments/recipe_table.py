"""Writes the tables of published numbers, and what was reached with jaxkd, into experiments/README.md.

A run counts if it lies anywhere under experiments/results and its result says that it kept to its recipe. Several of
one recipe, with other seeds, are averaged, and those of each precision stand apart.
"""

from __future__ import annotations

import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from jaxkd import recipes, records
from jaxkd.command_line import CommandLine

HERE = pathlib.Path(__file__).parent
BEGIN, END = "<!-- recipes: begin -->", "<!-- recipes: end -->"

Accuracies = Mapping[str, Sequence[float]]
"""The accuracies of runs of a recipe, in percent, by the precision in which the networks computed."""


def main() -> None:
    """Run the command, which has no options."""
    CommandLine(description=__doc__).parse_args()
    page = HERE / "README.md"
    page.write_text(updated(page.read_text(encoding="utf-8"), our_accuracies(HERE / "results")), encoding="utf-8")


def our_accuracies(folder: pathlib.Path) -> dict[str, Accuracies]:
    """Return the accuracies of the runs under a folder that kept to a recipe, by its name."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in records.find(folder):
        if (number := run.published) is not None and number.as_published:
            epoch = run.best if number.reported == "best" else run.last
            found[number.name][run.settings["precision"]].append(100 * epoch["val_accuracy"])
    return dict(found)


def updated(page: str, ours: Mapping[str, Accuracies]) -> str:
    """Return the page with the tables between its two marks made anew."""
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return before + "\n\n".join([BEGIN, *(section(table, ours) for table in recipes.tables()), END]) + after


def section(table: recipes.Table, ours: Mapping[str, Accuracies]) -> str:
    """Return one table in Markdown: heading, command, a row for each method and a column for each pair."""
    training = recipes.get_training(table.training)
    first = recipes.get(f"{next(iter(table.rows))}/{table.columns[0]}")
    command = (
        f"python experiments/train_teacher.py --recipe {first.name}"
        if first.teacher is None
        else f"python experiments/distill.py --recipe {first.name} --teacher {first.teacher}.pth"
    )
    lines = [
        f"**{table.title}** ({table.paper}; training `{training.name}`, {training.reported} epoch)",
        "",
        f"`{command}`",
        "",
        f"| | {' | '.join(table.columns)} |",
        "|---" * (1 + len(table.columns)) + "|",
    ]
    for method, row in table.rows.items():
        own = (reached(ours.get(f"{method}/{column}", {})) for column in table.columns)
        cells = [f"{published} / {mine}" for published, mine in zip(row, own, strict=True)]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def reached(accuracies: Accuracies) -> str:
    """Return mean, deviation and number of the runs of each precision; a dash for none.

    Example:
      >>> reached({"float32": [70.0, 71.0, 72.0]}), reached({"bfloat16": [70.5]}), reached({})
      ('71.00 ± 1.00 (3)', '70.50 in bfloat16', '–')
    """
    cells = [
        mean(found) + ("" if precision == "float32" else f" in {precision}") for precision, found in accuracies.items()
    ]
    return ", ".join(cells) or "–"


def mean(accuracies: Sequence[float]) -> str:
    """Return mean, deviation and number of runs; of a single one its accuracy."""
    spread = f"{records.Spread(tuple(accuracies)):.2f}"
    return spread if len(accuracies) == 1 else f"{spread} ({len(accuracies)})"


if __name__ == "__main__":
    main()
