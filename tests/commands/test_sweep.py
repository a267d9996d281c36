"""`jaxkd sweep`, run as a user runs it, on the digits."""

import csv
import json

import numpy as np
import pytest

from jaxkd.commands import sweep

SMALL = ["--data", "digits", "--batch-size", "479", "--quiet"]  # three equal steps an epoch


@pytest.mark.thorough
def test_the_grid_of_temperatures(teacher, tmp_path, capsys):
    folder = tmp_path / "grid"
    command = [
        *("--teacher", str(teacher / "model"), "--student", "resnet8", "--recipe", "digits", "--epochs", "1"),
        *("--correct", "2", "4", "--wrong", "1", "2", "3", "--seeds", "2", "--output", str(folder), *SMALL),
    ]
    assert sweep.main(command) == 0
    assert "12 students in" in capsys.readouterr().out
    with (folder / "grid.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    result = json.loads((folder / "result.json").read_text())
    accuracy = np.array([float(row["val_accuracy"]) for row in rows]).reshape(2, 2, 3).mean(0)
    np.testing.assert_allclose(result["val_accuracy"], accuracy)
    assert result["best"]["val_accuracy"] == pytest.approx(accuracy.max())
    assert (folder / "grid.png").stat().st_size > 10_000
    assert json.loads((folder / "config.json").read_text())["settings"]["wrong"] == [1.0, 2.0, 3.0]
    with pytest.raises(SystemExit):
        sweep.main(command)
    assert "is not empty: choose another --output" in capsys.readouterr().err
