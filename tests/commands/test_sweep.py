"""`jaxkd sweep`, run as a user runs it, on the digits."""

import contextlib
import csv
import io
import json
import signal

import numpy as np
import pytest
from image_tree import image_tree

import jaxkd
from jaxkd import records
from jaxkd.callbacks import Callback
from jaxkd.commands import distill, sweep

SMALL = ["--data", "digits", "--batch-size", "479", "--quiet"]  # three equal steps an epoch


@pytest.fixture(scope="module")
def swept(teacher, tmp_path_factory):
    """A sweep over two temperatures, and the command line that made it."""
    folder = tmp_path_factory.mktemp("sweeps")
    grid = ["--grid", "temperature=2,4", "--limit-examples", "479", *SMALL]
    command = ["--teacher", str(teacher), "--student", "resnet8", "--epochs", "1", *grid]
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        assert sweep.main(command) == 0
    said = [line for line in printed.getvalue().splitlines() if "no result" in line]
    assert said == [
        "a first try, on 479 training and 360 test images: its numbers are no result",
        "a first try on a part of the images: these numbers are no result",
    ]
    folder /= "runs/sweep-digits-resnet8-temperature-limited"
    return folder, [*command, "--output", str(folder)]


def read(path):
    return json.loads(path.read_text())


def cell(*grid, options=()):
    parsed = sweep.command_line().parse_args(["--student", "resnet20", *options, *(f"--grid={one}" for one in grid)])
    return sweep.config_of(parsed, {name: values[-1] for name, values in sweep.axes_of(parsed.grid).items()})


def test_every_value_is_a_student(swept, teacher):
    folder, _ = swept
    with (folder / "grid.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["temperature"] for row in rows] == ["2", "4"]
    result, config = read(folder / "result.json"), read(folder / "config.json")
    np.testing.assert_allclose(result["val_accuracy"], [float(row["val_accuracy"]) for row in rows])
    assert result["best"]["val_accuracy"] == pytest.approx(max(result["val_accuracy"]))
    assert (result["temperature"], result["runs"], result["limited"]) == ([2, 4], 2, {"train": 479, "test": 360})
    assert config["settings"]["method"] == {"name": "kd", "weights": {"ce": 0.1, "kd": 0.9}, "settings": {}}
    assert (config["settings"]["seeds"], config["settings"]["temperature"]) == ([0], [2, 4])
    assert result["teacher"]["accuracy"] == pytest.approx(read(teacher / "result.json")["last"]["val_accuracy"])
    assert (folder / "grid.png").stat().st_size > 10_000
    assert records.read_sweep(folder).axes == {"temperature": (2, 4)}


@pytest.mark.thorough
def test_a_student_is_what_distill_makes_of_its_cell(swept, teacher, tmp_path):
    folder, _ = swept
    arguments = ["--teacher", str(teacher), "--student", "resnet8", "--epochs", "1", "--no-evaluate-teacher", *SMALL]
    own = ["--temperature", "4", "--limit-examples", "479", "--output", str(tmp_path / "run")]
    assert distill.main([*arguments, *own]) == 0
    together = records.read_sweep(folder).runs[1]
    assert together.history.last("loss") == pytest.approx(records.read(tmp_path / "run").history.last("loss"), rel=1e-4)


def test_all_that_may_vary_reaches_the_run():
    run = cell(
        "seed=0,3", "learning-rate=1e-2", "kd_weight=0.1,0.5", "temperature=3", options=["--setting", "temperature=9"]
    )
    assert (run.seed, run.training.learning_rate) == (3, 0.01)
    assert run.method.describe() == {"name": "kd", "weights": {"ce": 0.1, "kd": 0.5}, "settings": {"temperature": 3.0}}
    assert cell("method=kd,ctkd").method.name == "ctkd"
    assert cell("student=resnet8,vgg8").network == "vgg8"
    assert cell("beta=4", options=["--recipe", "dkd/resnet56-resnet20"]).method.describe()["settings"]["beta"] == 4


def test_two_settings_are_printed_as_a_grid_and_others_line_by_line():
    accuracy = np.array([[[0.5, 0.25], [0.125, 1.0]], [[0.7, 0.25], [0.125, 1.0]]])
    printed = sweep.table(
        {"correct": [1, 2], "wrong": [0.5, 4]}, accuracy, {"correct": "τ₁, correct class"}
    ).splitlines()
    assert printed[0].split() == ["τ₁", "\\", "wrong", "0.5", "4"]
    assert [line.split() for line in printed[1:]] == [["1", "60.00", "25.00"], ["2", "12.50", "100.00"]]
    printed = sweep.table({"method": ["kd", "ctkd"]}, accuracy[:, 0], {}).splitlines()
    assert printed == ["method kd     60.00 ± 14.14", "method ctkd   25.00 ± 0.00"]
    assert sweep.table({}, accuracy[:, 0, 0], {}) == "all seeds   60.00 ± 14.14"


def test_an_existing_sweep_is_not_overwritten(swept, capsys):
    with pytest.raises(SystemExit, match="2"):
        sweep.main(swept[1])
    assert "go on with it (--resume), or choose another folder (--output)" in capsys.readouterr().err


@pytest.mark.thorough
def test_a_sweep_that_was_interrupted_ends_as_if_it_had_not(teacher, tmp_path, monkeypatch):
    grid = ["--grid", "temperature=2,4", "--epochs", "2", "--limit-examples", "479", *SMALL]
    command = ["--teacher", str(teacher), "--student", "resnet8", *grid, "--output"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert sweep.main([*command, str(whole)]) == 0
    assert sorted(folder.name for folder in (whole / "checkpoints").iterdir()) == [
        "seed=0,temperature=2",
        "seed=0,temperature=4",
    ]

    class Interrupt(Callback):
        def on_epoch_end(self, epoch, logs=None):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sweep, "checkpoint_of", lambda *given, own=sweep.checkpoint_of: [own(*given), Interrupt()])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            sweep.main([*command, str(stopped)])
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    assert not (stopped / "grid.csv").exists()
    assert sweep.main([*command, str(stopped), "--resume"]) == 0
    one, other = (records.read_sweep(folder) for folder in (whole, stopped))
    for uninterrupted, resumed in zip(one.histories, other.histories, strict=True):
        assert resumed.epoch == [0, 1]
        for quantity in ("loss", "kd", "val_accuracy", "val_loss"):
            assert resumed.history[quantity] == uninterrupted.history[quantity]


def test_a_sweep_does_not_go_on_with_other_values(swept, capsys):
    _, command = swept
    other = [text.replace("temperature=2,4", "temperature=2,5") for text in command]
    with pytest.raises(SystemExit, match="2"):
        sweep.main([*other, "--resume"])
    assert "other settings (--resume): temperature was [2, 4] and is [2, 5]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to vary: name settings by --grid"),
        (
            ["--grid", "temprature=2,4"],
            "'kd' has no such setting; there are seed, learning_rate,",
        ),
        (["--grid", "temperature=2", "--grid", "temperature=4"], "--grid names temperature twice"),
        (["--grid", "temperature=2,2"], "'temperature=2,2' has a value twice"),
        (["--grid", "temperature"], "write NAME=V,V, as in temperature=2,4,8"),
        (["--grid", "temperature=2,warm"], "the values are numbers"),
        (["--grid", "epochs=2,4"], "--grid epochs: it is the same for all students"),
        (["--grid", "method=kd,kdd"], "no method is called 'kdd'"),
        (["--grid", "temperature=2,-1"], "temperature=-1"),
        (["--grid", "student=resnet8,resnet9"], "resnet9"),
        (["--grid", "seed=1,2", "--seed", "3"], "--seed 3 and --grid seed=1,…: give one of them"),
        (["--grid", "seed=1,2", "--at-once", "0"], "at_once=0: must be at least 1"),
        (["--grid", "seed=1,2", "--checkpoint-minutes", "0"], "checkpoint_minutes=0.0: give a number above 0"),
        (["--grid", "seed=1,2", "--gradient-accumulation-steps", "480"], "a batch has 479 examples"),
        (
            ["--grid", "seed=1,2", "--method", "at", "--cache-teacher", "outputs"],
            "a loss reads the teacher's feature maps",
        ),
    ],
)
def test_what_cannot_vary_is_told_before_any_work(teacher, tmp_path, arguments, message, capsys):
    good = ["--teacher", str(teacher), "--student", "resnet8", "--output", str(tmp_path / "run"), *SMALL]
    with pytest.raises(SystemExit, match="2"):
        sweep.main([*good, *arguments])
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_images_that_are_streamed_cannot_be_swept(tmp_path, capsys):
    tree = image_tree(tmp_path, classes=2, train=8, val=1)
    data = ["--data", "folder", "--data-dir", str(tree.root / "train"), "--validation-split", "0.25"]
    options = ["--image-size", "16", "--workers", "0", "--batch-size", "4", "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="2"):
        sweep.main(["--student", "resnet8", "--method", "ce", "--grid", "seed=0,1", *data, *options, "--quiet"])
    assert "a sweep needs data that can be on the device" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_sweep_is_one_process(teacher, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep.distributed, "initialize", lambda: None)
    monkeypatch.setattr(sweep.jax, "process_count", lambda: 2)
    with pytest.raises(SystemExit, match="2"):
        sweep.main(["--student", "resnet8", "--teacher", str(teacher), "--grid", "seed=0,1", "--distributed", *SMALL])
    assert "there are 2 processes, and a sweep is one: start it once, without" in capsys.readouterr().err


def shared(*grid, options=()):
    parsed = sweep.command_line().parse_args(["--student", "resnet20", *options, *(f"--grid={one}" for one in grid)])
    axes = sweep.axes_of(parsed.grid)
    return sweep.settings_of([sweep.config_of(parsed, values) for values in jaxkd.grid(**axes)], axes)


def test_what_students_share_is_recorded_and_what_varies_is_not():
    found = shared("method=kd,dkd", options=["--kd-weight", "0.5", "--temperature", "2"])
    assert "method" not in found
    assert {name: one["weights"] for name, one in found["methods"].items()} == {
        "kd": {"ce": 0.1, "kd": 0.5},
        "dkd": {"ce": 1.0, "dkd": 0.5},
    }
    assert found["methods"]["dkd"]["settings"] == {"alpha": 1.0, "beta": 8.0, "temperature": 2.0}
    assert "temperature" not in shared("method=kd,dkd", "temperature=2,4")["methods"]["dkd"]["settings"]
    assert shared("temperature=2,4")["training"]["learning_rate"] == 0.05
    for varied in ("learning_rate=0.1,0.2", "student=resnet20,MobileNetV2"):
        assert "learning_rate" not in shared(varied)["training"]


def test_a_sweep_of_an_earlier_version_goes_on(tmp_path):
    now = shared("method=kd,dkd", "learning_rate=0.1,0.2", options=["--kd-weight", "0.5"])
    directory = records.RunDirectory(tmp_path)
    assert sweep._as_begun(now, directory, True) == now
    before = {name: value for name, value in now.items() if name != "methods"}
    directory.start(before | {"training": now["training"] | {"learning_rate": 0.1}}, {})
    directory.check(sweep._as_begun(now, directory, True), True)
    directory.config_file.unlink()
    directory.start(now, {})
    other = shared("method=kd,dkd", "learning_rate=0.1,0.2", options=["--kd-weight", "0.6"])
    with pytest.raises(ValueError, match=r"methods\.dkd\.weights\.dkd was 0\.5 and is 0\.6"):
        directory.check(sweep._as_begun(other, directory, True), True)
