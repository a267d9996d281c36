"""Options from files, first tries on a part of the images, and dry runs."""

import json

import pytest
import yaml

from jaxkd import records
from jaxkd.commands import config_file, distill, dry_run, train
from jaxkd.config import RunConfig

SMALL = ["--data", "digits", "--batch-size", "479", "--quiet"]  # three equal steps an epoch
OPTIONS = """
data: digits
student: resnet8
method: dkd          # with a comment
setting: {beta: 2, alpha: 0.5}
weight:
  ce: 2
learning-rate: 1e-2
epochs: 4
evaluate_teacher: false
balanced: true
"""


def options(command, *arguments):
    return config_file.parse(command.command_line(), arguments, command.config_of)


def refused(command, arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main([str(argument) for argument in arguments])
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(OPTIONS)
    return path


def test_a_file_stands_before_what_is_typed(file):
    found = options(distill, "--config", str(file), "--epochs", "7", "--setting", "beta=8", "--no-balanced")
    assert (found.epochs, found.student, found.learning_rate, found.evaluate_teacher) == (7, "resnet8", 0.01, False)
    assert (dict(found.setting), dict(found.weight)) == ({"beta": 8, "alpha": 0.5}, {"ce": 2})
    assert found.balanced is False
    assert options(distill, f"--config={file}").balanced is True


def test_the_recipe_decides_what_file_and_line_leave_open(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"recipe": "dkd/resnet56-resnet20", "batch_size": 128}))
    run = distill.config_of(options(distill, "--config", str(path), "--setting", "beta=8"))
    assert (run.training.epochs, run.training.batch_size, run.network) == (240, 128, "resnet20")
    assert run.method.describe()["settings"] == {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}


@pytest.mark.parametrize("name", ["again.yaml", "again.json"])
def test_what_is_saved_is_read_again_and_nothing_is_trained(file, tmp_path, capsys, name):
    saved = tmp_path / "out" / name
    assert distill.main(["--config", str(file), "--seed", "3", "--save-config", str(saved)]) == 0
    assert capsys.readouterr().out == f"{saved} has the options: jaxkd distill --config {saved}\n"
    first = options(distill, "--config", str(file), "--seed", "3")
    again = options(distill, "--config", str(saved))
    assert {**vars(again), "config": None} == {**vars(first), "config": None}
    assert yaml.safe_load(saved.read_text())["setting"] == {"beta": 2, "alpha": 0.5}


def test_a_run_is_made_again_from_its_record(teacher, tmp_path, capsys):
    arguments = ["--teacher", str(teacher), "--student", "resnet8", "--method", "kd", "--temperature", "2"]
    more = ["--epochs", "1", "--weight", "ce=0.5", "--no-evaluate-teacher", *SMALL]
    assert distill.main([*arguments, *more, "--output", str(tmp_path / "run")]) == 0
    found = options(distill, "--config", str(tmp_path / "run"), "--output", "elsewhere")
    assert str(found.output) == "elsewhere"
    again, recorded = distill.config_of(found), RunConfig.read(tmp_path / "run")
    assert (again.method.describe(), again.training) == (recorded.method.describe(), recorded.training)
    assert (again.teacher.path, again.teacher.evaluate, again.resume) == (teacher / "model", False, False)
    assert "this is a run of jaxkd distill: use it with jaxkd distill --config" in refused(
        train, ["--config", tmp_path / "run"], capsys
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["settings"]["training"] |= {"weight_decay": 0.25, "label_smoothing": 0.1, "decays_kernels_only": True}
    (tmp_path / "other.json").write_text(json.dumps(config))
    training = distill.config_of(options(distill, "--config", str(tmp_path / "other.json"))).training
    assert (training.weight_decay, training.label_smoothing, training.decays_kernels_only) == (0.25, 0.1, True)
    config["settings"]["training"]["momentum"] = 0.5
    (tmp_path / "other.json").write_text(json.dumps(config))
    said = refused(distill, ["--config", tmp_path / "other.json"], capsys)
    assert "the run has settings that no option says: training.momentum was 0.5 and would be 0.9" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epohcs: 3", "there is no option epohcs: did you mean epochs? --help shows all"),
        ("resume: true", "there is no option resume: --help"),
        ("epochs: many", "argument --epochs: 'many' is not a whole number: give one, as in 30"),
        ("epochs: [3, 4]", "epochs is [3, 4]: give one value"),
        ("epochs: true", "epochs is true, and --epochs takes N"),
        ("balanced: 3", "balanced is 3: give true or false"),
        ("method: kdd", "invalid choice: 'kdd'"),
        ("- epochs", "options are expected by name, as in 'epochs: 30'"),
        ("a: [", "not valid YAML or JSON"),
        ("settings: {student: resnet8}", "settings.data.name is missing"),
    ],
)
def test_mistakes_in_a_file_name_it(tmp_path, content, message, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    said = refused(distill, ["--config", path], capsys)
    assert said.startswith(f"jaxkd distill: error: {path}: ")
    assert message in said


def test_files_that_cannot_be(tmp_path, capsys):
    assert "there is no such file" in refused(train, ["--config", tmp_path / "no.yaml"], capsys)
    arguments = ["--model", "resnet8", "--data", "digits", "--save-config", tmp_path / "a.txt"]
    assert "give a name that ends in .yaml or .json" in refused(train, arguments, capsys)
    assert "name the network by --model" in refused(train, ["--save-config", tmp_path / "a.yaml"], capsys)
    assert not list(tmp_path.iterdir())


def test_a_first_try_says_that_it_is_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--recipe", "ce/resnet20", "--model", "resnet8", "--epochs", "1", *SMALL]
    assert train.main([*arguments, "--limit-examples", "100", "--batch-size", "50"]) == 0
    printed = capsys.readouterr().out
    assert "a first try, on 100 training and 100 test images: its numbers are no result" in printed
    assert printed.count("no result") == 2
    found = records.read("runs/digits-resnet8-seed0-limited")
    assert found.settings["limit_examples"] == 100
    assert found.settings["data"]["images"] == 100
    assert found.result["limited"] == {"train": 100, "test": 100}
    assert found.result["recipe"]["as_published"] is False
    assert "limit_examples=0: give at least 1" in refused(train, [*arguments, "--limit-examples", "0"], capsys)


def test_steps_are_limited_in_each_epoch():
    found = train.config_of(options(train, "--model", "resnet8", *SMALL, "--limit-steps", "2", "--batch-size", "16"))
    assert RunConfig.from_dict(found.to_dict()) == found
    images, test = distill.run.load_data(found)
    assert (len(images), len(test)) == (32, 32)
    assert len(set(images.labels.tolist())) > 5


def test_a_dry_run_measures_and_writes_nothing(teacher, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--teacher", str(teacher), "--student", "resnet8", "--epochs", "10", "--cache-teacher", "kept"]
    assert distill.main([*arguments, *SMALL, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "steps      3 an epoch, 30 in 10 epochs; 1,437 images" in printed
    assert "student    resnet8, 78,042 parameters" in printed
    assert "teacher    resnet8, 78,042 parameters" in printed
    assert yaml.safe_load(printed.split("\n\n")[0])["training"]["epochs"] == 10
    assert "directory  runs/digits-resnet8-resnet8-kd-seed0 (nothing was written)" in printed
    assert not list(tmp_path.iterdir())


def test_the_estimate_is_of_all_epochs(monkeypatch):
    monkeypatch.setattr(dry_run, "measured", lambda *given: dry_run.Measured(3.0, 143.7, 36.0, 2**30, True))
    found = train.config_of(options(train, "--model", "resnet8", "--epochs", "6", *SMALL))
    images, test = distill.run.load_data(found)
    said = dry_run.described(distill.run.prepare(distill.run.resolve(found, images), images, test))
    assert "time       about 2.0 min, 20 s an epoch; compiling takes 3.0 s where it is new" in said
    assert "memory     1.00 GiB of a device so far" in said
