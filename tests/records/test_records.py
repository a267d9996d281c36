"""Records of runs and sweeps: what was written comes back, and what is damaged is named."""

import json
import math
import os
import pathlib
import subprocess
import types

import numpy as np
import pytest
import recorded

from jaxkd import History, convert, models, records
from jaxkd.sweep import Sweep

RESULTS = pathlib.Path(__file__).parents[2] / "experiments" / "results"


def test_a_run_comes_back(tmp_path):
    record = recorded.run(tmp_path / "run", seed=3, facts={"recipe": recorded.RECIPE})
    assert record.settings == json.loads(json.dumps({**recorded.SETTINGS, "seed": 3}))
    assert (record.name, record.seed, record.method, record.network, record.data) == (
        "run",
        3,
        "kd",
        "resnet8",
        "digits",
    )
    assert (record.epochs, record.reported, record.finished, record.measured) == (4, "last", True, True)
    assert record.teacher["sha256"] == recorded.SETTINGS["teacher"]["sha256"]
    assert record.teacher_accuracy == 0.9833
    assert record.history.epoch == [0, 1, 2, 3]
    assert record.history.history["kd_temperature"] == [14.0, 13.0, 12.0, 11.0]
    assert (record.last["epoch"], record.last["val_accuracy"]) == (4, pytest.approx(0.7))
    assert (record.best["epoch"], record.best["val_accuracy"]) == (3, pytest.approx(0.8))
    assert "highest val_accuracy" in record.rule
    assert record.published == records.PublishedNumber(**recorded.RECIPE)
    assert {"jax", "flax", "numpy", "python"} <= record.environment["versions"].keys()
    assert record.environment["device"]["count"] >= 1
    assert record.arguments == {"output": str(tmp_path / "run")}


def test_of_averaged_weights_the_best_epoch_is_their_own(tmp_path):
    """Each best epoch is what would have been deployed of one of the two networks, and states both accuracies."""
    own, averaged = (0.6, 0.8, 0.7), (0.3, 0.75, 0.85)
    record = recorded.run(tmp_path, own)
    assert record.best_ema is None
    assert "best_ema" not in record.rule
    history = History.from_dict(
        {"epoch": [0, 1, 2], "history": {"val_accuracy": list(own), "val_ema_accuracy": list(averaged)}}
    )
    found = records.summary(history)
    assert found["best"] == {"epoch": 2, "val_accuracy": 0.8, "val_ema_accuracy": 0.75}
    assert found["best_ema"] == {"epoch": 3, "val_accuracy": 0.7, "val_ema_accuracy": 0.85}
    assert "best_ema: likewise the highest val_ema_accuracy" in found["rule"]

    metrics = "".join(f"{i},{one},{other}\n" for i, (one, other) in enumerate(zip(own, averaged, strict=True), 1))
    (tmp_path / "metrics.csv").write_text("epoch,val_accuracy,val_ema_accuracy\n" + metrics)
    result = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps(result | found))
    assert records.read(tmp_path).best_ema == found["best_ema"]
    (tmp_path / "result.json").write_text(json.dumps(result | found | {"best_ema": {**found["best_ema"], "epoch": 2}}))
    with pytest.raises(ValueError, match=r"val_accuracy of epoch 2 is 0\.7, and 0\.8 in metrics"):
        records.read(tmp_path)


def test_an_unfinished_run_has_the_same_ends_so_far(tmp_path):
    record = recorded.run(tmp_path, (0.5, 0.75, 0.7), finished=False)
    assert not record.finished
    assert (record.last["epoch"], record.best["epoch"], record.published) == (3, 2, None)
    assert record.teacher == recorded.SETTINGS["teacher"]
    with pytest.raises(FileNotFoundError, match="the run is not finished"):
        record.student()


def test_a_run_in_its_first_epoch(tmp_path):
    record = recorded.run(tmp_path, (), finished=False)
    assert (record.history.epoch, record.measured) == ([], False)
    with pytest.raises(KeyError, match="never measured"):
        record.last["val_accuracy"]


def test_nan_and_what_was_not_measured_stay_apart(tmp_path):
    record = recorded.run(tmp_path, (), finished=False)
    (tmp_path / "metrics.csv").write_text("epoch,loss,val_accuracy\n1,nan,\n2,0.5,0.25\n")
    history = records.read(tmp_path).history.history
    assert math.isnan(history["loss"][0])
    assert history["val_accuracy"] == [None, 0.25]
    assert record.history.history == {}


DAMAGE = [
    ("config.json", "{", r"config\.json is damaged .*copy it anew"),
    ("config.json", "[1]", r"config\.json is damaged \(it holds list"),
    ("config.json", '{"arguments": {}}', r"config\.json is damaged \(it has no 'settings'"),
    ("config.json", '{"settings": 1}', r"config\.json is damaged \('settings' is 1"),
    ("config.json", b"\xff", r"config\.json is damaged"),
    ("metrics.csv", "", r"metrics\.csv is damaged \(it has no column 'epoch'"),
    ("metrics.csv", "epoch,loss\n", r"metrics\.csv is damaged \(it has no rows"),
    ("metrics.csv", "epoch,loss\n1,0.5\n2", r"metrics\.csv is damaged \(line 3 has not one value for each of 2"),
    ("metrics.csv", "epoch,loss\n1,0.5,3\n", r"metrics\.csv is damaged \(line 2 has not"),
    ("metrics.csv", "epoch,loss\n1,much\n", r"metrics\.csv is damaged \(could not convert string to float: 'much'"),
    ("metrics.csv", "epoch,loss\n2,1\n1,1\n", r"metrics\.csv is damaged \(epoch 1 comes after epoch 2"),
    ("metrics.csv", "epoch,loss\n0,1\n", r"metrics\.csv is damaged \(epoch 0 comes after"),
    ("result.json", "{", r"result\.json is damaged"),
    ("result.json", '{"last": 0.7}', r"result\.json is damaged \('last' is 0\.7"),
    ("result.json", '{"last": {"epoch": 9}}', r"result\.json is damaged \(last is epoch 9, which metrics\.csv has not"),
    ("result.json", '{"last": {"epoch": 4, "val_accuracy": 0.9}}', r"val_accuracy of epoch 4 is 0\.9, and 0\.69999"),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGE)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    recorded.run(tmp_path)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        records.read(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run: there is no config\.json\. Name the folder"):
        records.read(tmp_path)
    recorded.run(tmp_path / "run")
    (tmp_path / "run" / "metrics.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"metrics\.csv is missing, .*result\.json says"):
        records.read(tmp_path / "run")


def test_the_student_is_loaded_from_its_own_file(tmp_path):
    student = models.create("resnet8", num_classes=10, seed=1)
    for name in ("student", "model"):
        record = recorded.run(tmp_path / name)
        with pytest.raises(FileNotFoundError, match="copy the folder student/"):
            record.student()
        convert.save(student, tmp_path / name / name)
        theirs = convert.to_state_dict(record.student())
        for key, value in convert.to_state_dict(student).items():
            np.testing.assert_array_equal(theirs[key], value)


def test_a_network_that_only_its_owner_can_build(tmp_path):
    record = recorded.run(tmp_path)
    convert.to_torch(models.create("resnet8"), tmp_path / "student.pth")
    with pytest.raises(FileNotFoundError, match=r"read .*student\.pth into it: convert\.load_state_dict"):
        record.student()


def test_all_runs_under_a_folder_are_found_once(tmp_path):
    for name in ("b", "a/2", "a/1", ".hidden/run", "b/checkpoints/inside"):
        recorded.run(tmp_path / name)
    recorded.grid(tmp_path / "grid")
    found = records.find(tmp_path, tmp_path / "a" / "1")
    assert [str(record.path.relative_to(tmp_path)) for record in found] == ["a/1", "a/2", "b"]
    assert [sweep.name for sweep in records.find_sweeps(tmp_path)] == ["grid"]
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        records.find(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds a sweep, not one run"):
        records.read(tmp_path / "grid")


def test_what_other_programs_call_config_is_no_run(tmp_path):
    from jaxkd.export.source import record_in

    for name, content in (("model", '{"hidden_size": 768}'), ("list", "[1, 2]")):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(content)
        assert record_in(tmp_path / name) is None
    recorded.run(tmp_path / "model" / "below" / "kd")
    assert [run.name for run in records.find(tmp_path)] == ["kd"]


def test_one_process_trains_a_run(tmp_path):
    recorded.run(tmp_path / "kd")
    ours, theirs = records.RunDirectory(tmp_path / "kd"), records.RunDirectory(tmp_path / "kd")
    ours.hold()
    with pytest.raises(ValueError, match="kd is being trained by another process: let it end, or stop it first"):
        theirs.hold()
    ours.release()
    theirs.hold()
    theirs.release()


def test_a_commit_is_recorded_whatever_files_are_called(tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    subprocess.run([*git, "config", "core.quotePath", "false"], check=True)
    (pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).touch()
    monkeypatch.chdir(tmp_path)
    assert records.environment()["git"] is None or records.environment()["git"]["changed"]


def test_a_sweep_that_is_not_finished_is_no_run(tmp_path):
    """Its table is written at its end."""
    recorded.run(tmp_path / "kd")
    recorded.grid(tmp_path / "grid")
    (tmp_path / "grid" / "grid.csv").unlink()
    assert [run.name for run in records.find(tmp_path)] == ["kd"]
    assert records.find_sweeps(tmp_path) == []
    for read in (records.read, records.read_sweep):
        with pytest.raises(FileNotFoundError, match=r"holds a sweep that is not finished: .* --resume"):
            read(tmp_path / "grid")


@pytest.mark.parametrize(
    ("settings", "arguments", "options"),
    [
        ({"data": "digits"}, {}, ("digits", None, None, None)),
        ({"data": {"name": "folder", "image_size": 96, "validation_split": 0.1}}, {"data_dir": "here"},
         ("folder", "here", 96, 0.1)),
        ({"data": {"name": "folder"}}, {"image_size": 64}, ("folder", None, 64, None)),  # of earlier versions
        ({}, {}, (None, None, None, None)),
    ],
)  # fmt: skip
def test_a_record_says_how_its_images_are_read_again(settings, arguments, options):
    record = records.Record(pathlib.Path(), "run", settings, History(), arguments=arguments)
    assert tuple(record.data_options.values()) == options


def test_the_committed_records_are_read():
    runs = {run.method: run for run in records.find(RESULTS / "cpu" / "four-epochs")}
    assert runs.keys() == {"ce", "kd", "ctkd", "dkd", "kd+std", "ctkd+std", "ats"}
    assert {(run.network, len(run.history.epoch), run.finished) for run in runs.values()} == {("resnet20", 4, True)}
    run = runs["kd"]
    assert (run.teacher["name"], run.last["val_accuracy"]) == ("resnet56", 0.3528)
    assert run.environment["written"].startswith("2026-")
    sweeps = {sweep.name: sweep for sweep in records.find_sweeps(RESULTS)}
    grid = sweeps["ats_grid"].grid()
    stated = json.loads((RESULTS / "ats_grid" / "result.json").read_text())
    np.testing.assert_allclose(grid.mean, stated["val_accuracy"])
    assert (grid.names, grid.rows, grid.columns) == (
        ("correct", "wrong"), tuple(stated["correct"]), tuple(stated["wrong"]),
    )  # fmt: skip
    quickstart = records.groups(sweeps["quickstart"].runs)
    assert [(group.label, len(group.runs)) for group in quickstart] == [
        ("resnet8 alone", 3), ("KD", 3), ("ATS", 3), ("CTKD", 3), ("standardised KD", 3),
    ]  # fmt: skip
    assert all(run.finished and run.teacher_accuracy > 0.9 for run in sweeps["quickstart"].runs)


# Sweeps


def test_a_table_of_a_sweep_comes_back(tmp_path):
    cells = [{"temperature": 2.0, "rule": "fixed", "seed": 0}, {"temperature": 4.0, "rule": "learned", "seed": 0}]
    histories = [
        History.from_dict({"epoch": [0, 1], "history": {"loss": [2.0, 1.0], "val_accuracy": [None, 0.5]}}),
        History.from_dict({"epoch": [0, 1], "history": {"loss": [2.0, math.inf], "val_accuracy": [None, 0.75]}}),
    ]
    Sweep(tuple(cells), tuple(types.SimpleNamespace(history=history) for history in histories)).to_csv(
        tmp_path / "t.csv"
    )
    sweep = records.read_sweep(tmp_path / "t.csv")
    assert list(sweep.cells) == cells
    assert [history.to_dict() for history in sweep.histories] == [history.to_dict() for history in histories]
    assert sweep.axes == {"temperature": (2.0, 4.0), "rule": ("fixed", "learned")}
    np.testing.assert_array_equal(sweep.last(), [0.5, 0.75])
    np.testing.assert_array_equal(sweep.grid().mean, [[0.5, np.nan], [np.nan, 0.75]])
    first = sweep.runs[0]
    assert (first.seed, first.settings["temperature"], first.finished) == (0, 2.0, True)
    with pytest.raises(FileNotFoundError, match="holds no network"):
        first.student()


def test_what_was_measured_of_the_teacher_of_a_sweep_comes_back(tmp_path):
    recorded.grid(tmp_path / "grid")
    records.write_json(tmp_path / "grid" / "result.json", {"teacher": {"name": "resnet14", "accuracy": 0.9}})
    for run in records.read_sweep(tmp_path / "grid").runs:
        assert (run.teacher_accuracy, run.teacher["sha256"]) == (0.9, recorded.SETTINGS["teacher"]["sha256"])


def test_a_setting_keeps_its_value_where_a_measure_has_its_name(tmp_path):
    cells = [{"learning_rate": 0.05}, {"learning_rate": 0.1, "kd": 0.9}]
    runs = [
        types.SimpleNamespace(
            history=History.from_dict(
                {"epoch": [0, 1], "history": {"learning_rate": [rate, rate / 10], "kd": [2.0, 1.0]}}
            )
        )
        for rate in (0.05, 0.1)
    ]
    Sweep(tuple(cells), tuple(runs)).to_csv(tmp_path / "t.csv")
    sweep = records.read_sweep(tmp_path / "t.csv")
    assert list(sweep.cells) == [{"learning_rate": 0.05, "kd": None}, {"learning_rate": 0.1, "kd": 0.9}]
    np.testing.assert_allclose(sweep.last("measured_learning_rate"), [0.005, 0.01])
    np.testing.assert_array_equal(sweep.last("measured_kd"), [1.0, 1.0])


def test_a_grid_is_averaged_over_seeds(tmp_path):
    sweep = recorded.grid(tmp_path / "grid", seeds=3)
    grid = sweep.grid()
    assert (grid.names, grid.rows, grid.columns, grid.runs) == (("correct", "wrong"), (1.0, 2.0), (1.0, 2.0, 3.0), 3)
    np.testing.assert_allclose(grid.mean, 0.72 + np.array([[0.01], [0.02]]) + 0.05 * np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(grid.deviation, 0.02)
    assert {run.seed for run in sweep.runs} == {0, 1, 2}
    assert "seeds" not in sweep.runs[0].settings


def test_runs_of_a_table_alone_are_not_taken_for_networks_without_a_teacher(tmp_path):
    (tmp_path / "t.csv").write_text("temperature,seed,epoch,val_accuracy\n2,0,1,0.5\n2,1,1,0.6\n4,0,1,0.7\n")
    found = records.groups(records.read_sweep(tmp_path / "t.csv").runs)
    assert [(group.label, len(group.runs), group.alone) for group in found] == [
        ("t.csv, temperature 2", 2, False), ("t.csv, temperature 4", 1, False),
    ]  # fmt: skip


def test_a_sweep_over_teachers_tells_them_apart(tmp_path):
    (tmp_path / "t.csv").write_text("teacher,training,epoch,val_accuracy\nresnet56,long,1,0.5\nresnet110,long,1,0.6\n")
    runs = records.read_sweep(tmp_path / "t.csv").runs
    assert [run.teacher for run in runs] == [{"name": "resnet56"}, {"name": "resnet110"}]
    assert [(run.epochs, run.reported) for run in runs] == [(None, "last")] * 2
    assert [group.label for group in records.groups(runs)] == ["t.csv, teacher resnet56", "t.csv, teacher resnet110"]


def test_files_of_other_programs_are_no_sweeps(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "results.json").write_text('[{"acc": 0.7}]')
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "results.json").write_text('{"acc": 0.7}\n{"acc": 0.8}\n')
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "grid.csv").write_text("alpha,score\n1,2\n")
    recorded.run(tmp_path / "run")
    assert records.find_sweeps(tmp_path) == []
    assert [run.name for run in records.find(tmp_path)] == ["run"]


def test_a_sweep_over_one_setting_is_no_grid(tmp_path):
    with pytest.raises(ValueError, match="1 settings vary \\(wrong\\); a grid has two"):
        recorded.grid(tmp_path / "grid", correct=(1.0,)).grid()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch,loss\n1,2\n", "it is the log of one run; name its folder"),
        ("seed,epoch,loss\n0,1,2\n0,1,2\n", "epoch 1 comes after epoch 1"),
        ("seed,loss\n0,1\n", "no column 'epoch'"),
    ],
)
def test_a_damaged_table_of_a_sweep(tmp_path, content, message):
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        records.read_sweep(tmp_path / "table.csv")


def test_a_damaged_comparison(tmp_path):
    (tmp_path / "results.json").write_text('{"runs": {"KD": [{"epoch": [0], "history": {"loss": [1, 2]}}]}}')
    with pytest.raises(ValueError, match=r"results\.json is damaged .*2 values for 1 epochs"):
        records.read_sweep(tmp_path)
    (tmp_path / "results.json").write_text('{"runs": 7}')
    with pytest.raises(FileNotFoundError, match="holds no sweep"):
        records.read_sweep(tmp_path)


# Groups


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path):
    runs = [recorded.run(tmp_path / f"{seed}", (0.5, 0.7 + 0.1 * seed), seed=seed) for seed in range(2)]
    runs.append(recorded.run(tmp_path / "other", (0.6,), student="resnet20"))
    first, second = records.groups(runs)
    assert [len(first.runs), len(second.runs)] == [2, 1]
    spread = first.spread("last")
    assert (spread.mean, spread.deviation) == (pytest.approx(0.75), pytest.approx(np.std([0.7, 0.8], ddof=1)))
    assert second.spread("last").deviation is None
    assert first.spread("last", "val_top5") is None
    curve = first.curve("val_accuracy")
    assert curve.epochs.tolist() == [1, 2]
    np.testing.assert_allclose(curve.mean, [0.5, 0.75], rtol=1e-6)
    np.testing.assert_allclose(curve.deviation, [0.0, np.std([0.7, 0.8], ddof=1)], rtol=1e-6, atol=1e-12)
    assert second.curve("val_accuracy").deviation is None
    assert first.curve("val_top5") is None


def test_labels_say_what_tells_configurations_apart(tmp_path):
    def method(name, **settings):
        return {"name": name, "weights": {"ce": 0.1, "kd": 0.9}, "settings": settings}

    runs = [
        recorded.run(tmp_path / "1"),
        recorded.run(tmp_path / "2", method=method("kd", temperature=2.0)),
        recorded.run(tmp_path / "3", method=method("ctkd", t_end=20.0)),
        recorded.run(tmp_path / "4", student="resnet20"),
        recorded.run(tmp_path / "5", student="resnet20", precision="bfloat16"),
        recorded.alone(tmp_path / "6"),
    ]
    assert [group.label for group in records.groups(runs)] == [
        "KD, student resnet8, temperature 4", "KD, student resnet8, temperature 2", "CTKD",
        "KD, student resnet20, precision float32", "KD, student resnet20, precision bfloat16", "resnet8 alone",
    ]  # fmt: skip


def test_a_student_alone_and_a_network_trained_on_labels_are_the_same(tmp_path):
    settings = {
        name: value for name, value in recorded.SETTINGS.items() if name not in ("student", "teacher", "method")
    }
    directory = records.RunDirectory(tmp_path / "model")
    directory.start({**settings, "seed": 1, "model": "resnet8"}, {})
    (group,) = records.groups([recorded.alone(tmp_path / "student"), records.read(tmp_path / "model")])
    assert (group.label, len(group.runs), len(group.finished)) == ("resnet8 alone", 2, 1)


def test_numbers_come_from_finished_runs_where_there_are_some(tmp_path):
    done, running = recorded.run(tmp_path / "a"), recorded.run(tmp_path / "b", (0.1,), finished=False, seed=1)
    (group,) = records.groups([done, running])
    assert group.compared == (done,)
    (group,) = records.groups([running])
    assert group.spread("last").values == (pytest.approx(0.1),)


def test_a_seed_that_is_there_twice_is_seen(tmp_path):
    (group,) = records.groups([recorded.run(tmp_path / name) for name in "ab"])
    assert group.repeated == (0,)
