"""Test images on which a student and its teacher disagree."""

from __future__ import annotations

import base64
import dataclasses
import os
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd import convert, data
from jaxkd.analysis.logits import softmax
from jaxkd.convert.checkpoint import locate
from jaxkd.data import Dataset
from jaxkd.records import Group, Record
from jaxkd.report.tables import Name, Row, Table
from jaxkd.trainer import Trainer

_LARGEST = 112  # pixels along a side


@dataclasses.dataclass(frozen=True)
class Example:
    """A test image, and what teacher and student answer.

    Attributes:
      index: its place among the test images.
      image: `[H, W, C]` uint8.
      truth: its class.
      teacher: the teacher's class and its probability.
      student: likewise.
    """

    index: int
    image: np.ndarray
    truth: str
    teacher: tuple[str, float]
    student: tuple[str, float]

    @property
    def words(self) -> str:
        """Its number and class in words."""
        return f"test image {self.index}, {self.truth}"

    @property
    def source(self) -> str:
        """The image as a data URL, made smaller where it is large."""
        step = -(-max(self.image.shape[:2]) // _LARGEST)
        content = png(np.ascontiguousarray(self.image[::step, ::step]))
        return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """A student beside its teacher on all test images.

    Attributes:
      label: the student's configuration.
      place: the place of that configuration among all.
      run: the run with the student's weights.
      images: the number of test images.
      counts: of images by who is right: "both", "teacher", "student", and of those that nobody gets, "same answer" and
        "different answers".
      examples: images with different answers, those first of which both are surest.
    """

    label: str
    place: int
    run: Record
    images: int
    counts: dict[str, int]
    examples: tuple[Example, ...]

    @property
    def agreement(self) -> float:
        """The share of images to which both give the same answer."""
        return (self.counts["both"] + self.counts["same answer"]) / self.images

    @property
    def shown(self) -> str:
        """Say how many of the images with different answers are examples."""
        differing = self.images - self.counts["both"] - self.counts["same answer"]
        return f"{len(self.examples)} of {differing:,}" if self.examples else "they never disagree"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All students beside one teacher.

    Attributes:
      teacher: its name.
      students: one of each configuration that has weights.
      notes: what a reader has to know.
    """

    teacher: str
    students: tuple[Disagreement, ...]
    notes: tuple[str, ...]

    @property
    def captions(self) -> tuple[str, ...]:
        """Return the page's text below the counts."""
        said = (
            f"{self.students[0].images:,} test images, one student of each configuration beside the {self.teacher}. "
            "Below: the images of which both are surest, and say different things."
        )
        return (said, *self.notes)


def compare(
    groups: Sequence[Group],
    teacher_path: str | os.PathLike[str],
    data_name: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    count: int = 12,
) -> Comparison:
    """Compare the answers of the teacher and of the first finished student of each configuration to the test images.

    Args:
      groups: the configurations.
      teacher_path: a file of weights, a folder that `convert.save` wrote, or the directory of the teacher's run.
      data_name: the data set; by default the one the runs were trained on.
      data_dir: where it is; by default where the runs had it, if it is still there.
      count: at most so many examples of each student.

    Raises:
      ValueError: for runs of several data sets, a teacher that is not theirs, or no student with weights.
      FileNotFoundError: there is no such teacher, or no such data.
    """
    runs = [run for group in groups for run in group.runs]
    name = data_name or _the_one("data set", (run.data for run in runs))
    if name is None:
        raise ValueError("the runs do not say what they were trained on: name the data set by --data")
    runs = [run for run in runs if run.data in (name, None)]
    theirs = [run.teacher for run in runs if run.teacher]
    pretrained = _load_teacher(teacher_path, _the_one("teacher", (teacher.get("name") for teacher in theirs)))
    teacher, path = pretrained
    test = _test_images(name, data_dir, runs)
    if teacher.num_classes != test.num_classes:
        raise ValueError(f"{path} has {teacher.num_classes} classes, but {name} has {test.num_classes}")
    answers = probabilities(teacher, test)
    students, notes = [], []
    for place, group in enumerate(groups):
        run = next((run for run in group.finished if run in runs), None)
        if run is None or path.resolve().is_relative_to(run.path.resolve()):
            continue  # of other data, not finished, or the teacher's own run
        try:
            student = run.student()
        except FileNotFoundError:
            notes.append(f"{group.label}: its weights were not kept.")
            continue
        examples, counts = _disagreements(answers, probabilities(student, test), test, count)
        students.append(Disagreement(group.label, place, run, len(test), counts, examples))
    if not students:
        raise ValueError(f"no run has a trained student for {name}: name folders with student/ or model/ in them")
    known = {teacher["sha256"] for teacher in theirs if "sha256" in teacher}
    if known and pretrained.sha256 not in known:
        notes.append(f"{path.name} is not, byte for byte, the file that the runs learned from.")
    return Comparison(teacher.name, tuple(students), tuple(notes))


def probabilities(model: Any, images: Dataset) -> np.ndarray:
    """Return the softmax of a network's logits, `[N, K]`."""
    return softmax(Trainer(model).predict(images).astype(np.float64))


def _disagreements(
    teacher: np.ndarray, student: np.ndarray, test: Dataset, count: int
) -> tuple[tuple[Example, ...], dict[str, int]]:
    told, said, truth = teacher.argmax(1), student.argmax(1), test.labels
    surest = np.minimum(teacher.max(1), student.max(1))
    order = [int(index) for index in np.argsort(-surest, kind="stable") if told[index] != said[index]]
    names = test.class_names
    examples = tuple(
        Example(
            index=index,
            image=test.images[index],
            truth=names[truth[index]],
            teacher=(names[told[index]], float(teacher[index].max())),
            student=(names[said[index]], float(student[index].max())),
        )
        for index in order[:count]
    )
    right, too = told == truth, said == truth
    wrong = ~right & ~too
    kinds = {"both": right & too, "teacher": right & ~too, "student": ~right & too}
    kinds |= {"same answer": wrong & (told == said), "different answers": wrong & (told != said)}
    return examples, {name: int(which.sum()) for name, which in kinds.items()}


def _load_teacher(path: str | os.PathLike[str], name: str | None) -> convert.Pretrained:
    try:
        found = convert.load_pretrained(path, name if locate(path).is_file() else None)  # a folder has its own name
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--teacher {error}") from None
    if name not in (None, found.model.name):
        raise ValueError(f"--teacher {found.path} is a {found.model.name}, and the runs learned from a {name}")
    return found


def _test_images(name: str, data_dir: str | os.PathLike[str] | None, runs: Sequence[Record]) -> Dataset:
    """Load the test images of the runs, normalised as in them; a ValueError for those that are not in memory."""
    entries = [entry for run in runs if isinstance(entry := run.settings.get("data"), Mapping)]
    normalization: dict[str, list[float]] = next(filter(None, (one.get("normalization") for one in entries)), {})
    options = [run.data_options for run in runs]
    test: Dataset | data.StreamedDataset = data.load(
        name,
        Path(data_dir) if data_dir else next(filter(None, (run.data_folder for run in runs)), None),
        split="test",
        mean=normalization.get("mean"),
        std=normalization.get("std"),
        validation_split=next(filter(None, (one["validation_split"] for one in options)), None),
    )
    if not isinstance(test, Dataset):
        raise ValueError(f"the images of {name} are read from files, and are not compared: leave --teacher out")
    return test


def _the_one(what: str, names: Iterable[str | None]) -> str | None:
    """Return the only name there is, if there is any."""
    found = sorted({name for name in names if name is not None})
    if len(found) > 1:
        raise ValueError(f"the runs have more than one {what} ({', '.join(found)}): name runs that share it")
    return found[0] if found else None


def counts_table(comparison: Comparison) -> Table:
    """Return a row for each student: how often it agrees with the teacher, and who of the two is right."""
    columns = ["configuration", "same answer, %", "both right", "teacher only", "student only", "both wrong"]
    rows = []
    for student in comparison.students:
        counts = student.counts
        wrong = counts["same answer"] + counts["different answers"]
        numbers = [f"{count:,}" for count in (counts["both"], counts["teacher"], counts["student"], wrong)]
        rows.append(Row(Name(student.place, student.label), [f"{100 * student.agreement:.1f}", *numbers]))
    return Table("Agreement with the teacher", columns, rows)


def png(image: np.ndarray) -> bytes:
    """Encode an image `[H, W, 1 or 3]` of bytes as a PNG file.

    Example:
      >>> png(np.zeros((2, 3, 1), np.uint8))[1:4]
      b'PNG'
    """
    height, width, channels = image.shape
    kind = {1: 0, 3: 2}[channels]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)  # 0: no filter

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
