"""What the tests of several commands start from."""

import pytest

from jaxkd.commands import train

SMALL = ["--data", "digits", "--batch-size", "479", "--quiet"]  # three equal steps an epoch


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """A run directory with a teacher of one epoch."""
    path = tmp_path_factory.mktemp("runs") / "teacher"
    assert train.main(["--model", "resnet8", "--epochs", "1", "--output", str(path), *SMALL]) == 0
    return path
