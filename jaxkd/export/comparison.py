"""Compare exported student and teacher: size, parameters, multiply-accumulates, and latency on this machine."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxkd.export.formats import Format, Predict
from jaxkd.export.source import Classifier, Source, classifier, located
from jaxkd.export.written import Exported
from jaxkd.tables import text_table

BATCHES = (1, 64)
"""The batch sizes that latency is measured for."""

WARM_UP, REPEATS = 3, 20


@dataclass(frozen=True)
class Measured:
    """An exported network and what it costs.

    Attributes:
      role: "student", "teacher", or what else it is called.
      name: of the network.
      bytes: the size of its file.
      parameters: the number of trained values.
      macs: multiply-accumulates of all convolutions and linear layers for one image.
      latency: milliseconds for a batch, the median of `REPEATS`, for each of `BATCHES`.
    """

    role: str
    name: str
    bytes: int
    parameters: int
    macs: int
    latency: tuple[float, ...]


def compare(exported: Exported, teacher: Source | None = None) -> tuple[Measured, ...]:
    """Measure a network that was exported and, in the same format, its teacher.

    Args:
      exported: what `write` returned.
      teacher: anything that `write` takes; it sees the student's images, normalised with its own statistics if it
        carries any. It is never in int8.

    Returns:
      The teacher, where there is one, then the student.

    Example:
      >>> from jaxkd import Normalization, export, models
      >>> half = Normalization((0.5,) * 3, (0.5,) * 3)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     student, file = models.create("resnet8", num_classes=10), Path(folder) / "student.safetensors"
      ...     (row,) = compare(export.write(student, file, image_shape=(8, 8, 3), normalization=half))
      >>> row.role, row.parameters, row.macs
      ('network', 78042, 781952)
    """
    own, form = exported.classifier, exported.format
    if teacher is None:
        return (_measured("network", own, form, exported.path),)
    model, _, _ = located(teacher)
    other = classifier(model, own.image_shape, getattr(model, "normalization", None) or own.normalization)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"teacher{form.suffixes[0]}"
        form.write(other, path)
        return _measured("teacher", other, form, path), _measured("student", own, form, exported.path)


def _measured(role: str, network: Classifier, form: Format, path: Path) -> Measured:
    predict = form.read(path, network)
    latency = tuple(_latency(predict, network, batch) for batch in BATCHES)
    return Measured(role, network.name, path.stat().st_size, network.parameters, network.macs, latency)


def _latency(predict: Predict, network: Classifier, batch: int) -> float:
    images = np.random.default_rng(0).integers(0, 256, (batch, *network.image_shape), np.uint8)
    seconds = []
    for turn in range(WARM_UP + REPEATS):
        start = time.perf_counter()
        predict(images)
        if turn >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)


def table(rows: Sequence[Measured]) -> str:
    """Return what networks cost, a column each, so that it fits any terminal; of two, also how much less the second.

    Example:
      >>> teacher = Measured("teacher", "resnet56", 3_500_000, 861_620, 126_600_000, (4.2, 90.0))
      >>> student = Measured("student", "resnet20", 1_150_000, 278_324, 40_800_000, (1.4, 30.0))
      >>> print(table([teacher, student]))
                            teacher    student
      network               resnet56   resnet20
      file                  3,418 KiB  1,123 KiB  3.0 × less
      parameters            861,620    278,324    3.1 × less
      multiply-accumulates  126.6 M    40.8 M     3.1 × less
      batch of 1            4.20 ms    1.40 ms    3.0 × less
      batch of 64           90.0 ms    30.0 ms    3.0 × less
    """
    names = ("", "network", "file", "parameters", "multiply-accumulates", *(f"batch of {size}" for size in BATCHES))
    columns = [names, *(_cells(row) for row in rows)]
    if len(rows) == 2:
        larger, smaller = ((row.bytes, row.parameters, row.macs, *row.latency) for row in rows)
        columns.append(("", "", *map(_times, larger, smaller)))
    return "\n".join(text_table(list(zip(*columns, strict=True))))


def _times(one: float, other: float) -> str:
    return f"{one / other:.1f} × less" if one >= other else f"{other / one:.1f} × more"


def _three_digits(value: float) -> str:
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _cells(row: Measured) -> tuple[str, ...]:
    latency = (f"{_three_digits(milliseconds)} ms" for milliseconds in row.latency)
    size, macs = f"{row.bytes / 1024:,.0f} KiB", f"{row.macs / 1e6:,.1f} M"
    return (row.role, row.name, size, f"{row.parameters:,}", macs, *latency)
