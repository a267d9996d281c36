"""All figures by name; a new one is a module with a FIGURE and a line here."""

from __future__ import annotations

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
