"""Writes the tables of published numbers, and what was reached with jaxkd, into experiments/README.md.

A run counts if its result.json lies anywhere under experiments/results and says that it kept to its recipe. Several of
one recipe, with other seeds, are averaged.
"""

from __future__ import annotations

import json
import pathlib
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from jaxkd import recipes
from jaxkd.command_line import CommandLine

HERE = pathlib.Path(__file__).parent
BEGIN, END = "<!-- recipes: begin -->", "<!-- recipes: end -->"


def main() -> None:
    """Run the command, which has no options."""
    CommandLine(description=__doc__).parse_args()
    page = HERE / "README.md"
    page.write_text(updated(page.read_text(encoding="utf-8"), our_accuracies(HERE / "results")), encoding="utf-8")


def our_accuracies(folder: pathlib.Path) -> dict[str, list[float]]:
    """Return the accuracies, in percent, of the runs under a folder that kept to a recipe, by its name."""
    found = defaultdict(list)
    for file in sorted(folder.rglob("result.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        recipe = result.get("recipe", {})
        if recipe.get("as_published"):
            found[recipe["name"]].append(100 * result[recipe["reported"]]["val_accuracy"])
    return dict(found)


def updated(page: str, ours: Mapping[str, Sequence[float]]) -> str:
    """Return the page with the tables between its two marks made anew."""
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return before + "\n\n".join([BEGIN, *(section(table, ours) for table in recipes.tables()), END]) + after


def section(table: recipes.Table, ours: Mapping[str, Sequence[float]]) -> str:
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
        own = (mean(ours.get(f"{method}/{column}")) for column in table.columns)
        cells = [f"{published} / {reached}" for published, reached in zip(row, own, strict=True)]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def mean(accuracies: Sequence[float] | None) -> str:
    """Return mean, deviation and number of runs; a dash for none.

    Example:
      >>> mean([70.0, 71.0, 72.0]), mean([70.5]), mean(None)
      ('71.00 ± 1.00 (3)', '70.50', '–')
    """
    if not accuracies:
        return "–"
    if len(accuracies) == 1:
        return f"{accuracies[0]:.2f}"
    return f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f} ({len(accuracies)})"


if __name__ == "__main__":
    main()
