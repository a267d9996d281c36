"""The table of common mistakes is what is printed."""

import re

import mistakes
import pytest


@pytest.fixture(scope="module")
def rows():
    return mistakes.table().splitlines()[2:]


def test_the_page_has_what_is_printed(rows):
    """Run tests/helpers/mistakes.py where this fails."""
    page = mistakes.PAGE.read_text(encoding="utf-8")
    assert page.split(mistakes.BEGIN)[1].split(mistakes.END)[0].strip().splitlines()[2:] == rows


def test_there_are_twenty_and_each_names_a_cure(rows):
    cures = (
        "give|create|pass|take|choose|did you mean|call compile|leave|name|load|need|the losses are|at its top are|"
        r"images\[None\]|the file fits|there is no|go on|cannot be compared"
    )
    assert len(rows) >= 20
    for row in rows:
        message = row.split(" | ")[-1]
        assert re.search(cures, message), row
        assert not re.search(r"Traceback|usage:|jax\.|XlaRuntimeError|Tracer", message), row
        assert len(message) < 700, row
