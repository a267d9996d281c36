"""`jaxkd quickstart`, in small."""

import json
import re

import numpy as np
import pytest

from jaxkd.commands import quickstart


def read(path):
    return json.loads(path.read_text())


@pytest.mark.thorough
def test_quickstart_compares_methods(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quickstart, "TEACHER", "resnet8")
    monkeypatch.setattr(quickstart, "TEACHER_EPOCHS", 2)
    arguments = ["--seeds", "2", "--epochs", "2", "--methods", "ce", "ctkd", "--output", str(tmp_path / "out")]
    assert quickstart.main(arguments) == 0
    printed = capsys.readouterr().out
    runs = read(tmp_path / "out" / "results.json")["runs"]
    assert {name: len(histories) for name, histories in runs.items()} == {"student alone": 2, "CTKD": 2}
    for name, histories in runs.items():
        last = 100 * np.array([run["history"]["val_accuracy"][-1] for run in histories])
        assert re.search(rf"^{name} .* {last.mean():.1f} ± {last.std(ddof=1):.1f} ", printed, re.MULTILINE)
    assert runs["CTKD"][0]["history"]["kd_temperature"][0] < 15.7
    assert runs["CTKD"][0]["history"] != runs["CTKD"][1]["history"]
    for picture in ("curves.png", "temperature.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")


def test_a_run_is_not_written_over(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit, match="2"):
        quickstart.main(["--output", str(tmp_path)])
    assert "holds a run: choose another folder (--output)" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        quickstart.main(["--seeds", "three"])
    assert "argument --seeds: three is not a whole number above 0" in capsys.readouterr().err


def test_students_learn_from_as_many_images_of_each_digit():
    from tiny import digits

    few = quickstart.first_of_each(digits()[0], 20)
    assert np.bincount(few.labels).tolist() == [20] * 10
