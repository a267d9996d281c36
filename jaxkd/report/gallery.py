"""The images a student and its teacher disagree on, as they are shown."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from jaxkd.report.curves import named, swatch
from jaxkd.report.markup import Element, tag
from jaxkd.report.results import scrolling
from jaxkd.report.samples import Comparison, Disagreement, Example

_LARGEST = 112  # pixels along a side


def gallery(comparison: Comparison) -> list[Element | None]:
    """Counts for all students, then the images of each."""
    columns = ("configuration", "same answer, %", "both right", "teacher only", "student only", "both wrong")
    head = tag("tr", [tag("th", name, scope="col") for name in columns])
    table = tag("table", tag("thead", head), tag("tbody", map(_counts, comparison.students)), class_="numbers")
    images = comparison.students[0].images
    note = (
        f"{images:,} test images, one student of each configuration beside the {comparison.teacher}. Below: the images "
        "of which both are surest, and say different things."
    )
    return [
        scrolling("Agreement with the teacher", table),
        tag("p", note, class_="note"),
        *(tag("p", note, class_="note") for note in comparison.notes),
        *(_examples(student, open_=place == 0) for place, student in enumerate(comparison.students)),
    ]


def png(image: np.ndarray) -> bytes:
    """An image `[H, W, 1 or 3]` of bytes as a PNG file.

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


def _counts(student: Disagreement) -> Element:
    counts = student.counts
    wrong = counts["same answer"] + counts["different answers"]
    cells = [f"{100 * student.agreement:.1f}", counts["both"], counts["teacher"], counts["student"], wrong]
    texts = [value if isinstance(value, str) else f"{value:,}" for value in cells]
    return tag("tr", tag("th", named(student.place, student.label), scope="row"), [tag("td", text) for text in texts])


def _examples(student: Disagreement, open_: bool) -> Element:
    differing = student.images - student.counts["both"] - student.counts["same answer"]
    shown = f"{len(student.examples)} of {differing:,}" if student.examples else "they never disagree"
    return tag(
        "details",
        tag("summary", swatch(student.place), f"{student.label}: {shown}"),
        tag("ul", map(_card, student.examples), class_="gallery"),
        open=open_,
    )


def _card(example: Example) -> Element:
    step = -(-max(example.image.shape[:2]) // _LARGEST)
    source = base64.b64encode(png(np.ascontiguousarray(example.image[::step, ::step]))).decode()
    answers = {"teacher": example.teacher, "student": example.student}
    said = [_said(who, *answer, example.truth) for who, answer in answers.items()]
    words = f"test image {example.index}, {example.truth}"
    image = tag("img", alt=words, title=words, src=f"data:image/png;base64,{source}", width=88, height=88)
    return tag("li", image, tag("strong", example.truth), said)


def _said(who: str, answer: str, sure: float, truth: str) -> Element:
    sign, word = ("✓", "right") if answer == truth else ("✗", "wrong")
    mark = tag("span", sign, class_=word, role="img", aria_label=word)
    return tag("span", mark, f" {who}: {answer}, {sure:.0%}", class_="said")
