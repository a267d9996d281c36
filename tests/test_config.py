"""`RunConfig`: what a run is, written to config.json and read back."""

import dataclasses
import json
import pathlib

import pytest

from jaxkd import recipes, records
from jaxkd.config import DataConfig, RunConfig, TeacherConfig
from jaxkd.types import Normalization

RESULTS = pathlib.Path(__file__).parents[1] / "experiments" / "results"
RUNS = sorted((RESULTS / "cpu" / "four-epochs").rglob("config.json"))
STATISTICS = Normalization((0.5, 0.4, 0.3), (0.25, 0.25, 0.25))


def config(**changes):
    values = {
        "network": "resnet20",
        "data": DataConfig("cifar100", pathlib.Path("images"), None, 2, 50000, STATISTICS),
        "training": recipes.get_training("ats"),
        "method": recipes.get_method("dkd", beta=2.0),
        "teacher": TeacherConfig(pathlib.Path("resnet56.pth"), "resnet56", "0f", evaluate=False, cache="auto"),
        "recipe": "dkd/resnet56-resnet20",
        "seed": 3,
        "precision": "bfloat16",
        "batch_norm": "per_device",
        "gradient_accumulation_steps": 4,
        "output": pathlib.Path("runs/one"),
        "resume": True,
        "checkpoint_minutes": 30,
    }
    return RunConfig(**(values | changes))


def through_json(run):
    return RunConfig.from_dict(json.loads(json.dumps(run.to_dict())))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": None, "teacher": None, "recipe": None},
        {"method": recipes.get_method("ce"), "teacher": None},
        {"method": recipes.get_method("dkd", weights={"dkd": 0.5})},
        {"data": DataConfig("folder", image_size=64)},
        {"data": DataConfig("npz", pathlib.Path("mine.npz"), validation_split=0.1, balanced=True)},
        {"output": None, "distributed": True, "quiet": True, "checkpoint_minutes": 0.5},
    ],
)
def test_a_configuration_is_read_back(changes):
    assert through_json(config(**changes)) == config(**changes)


@pytest.mark.parametrize("name", recipes.methods())
def test_every_method_is_read_back(name):
    run = config(method=recipes.get_method(name))
    assert through_json(run).method == run.method


@pytest.mark.parametrize("name", recipes.trainings())
def test_every_training_is_read_back(name):
    assert through_json(config(training=recipes.get_training(name))).training == recipes.get_training(name)


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.parts[-4])
def test_a_run_of_an_earlier_version_is_read_and_may_be_resumed(file):
    run = RunConfig.read(file.parent)
    written = records.read_json(file)
    assert run.settings() == written["settings"]
    assert str(run.output) == written["arguments"]["output"]
    records.RunDirectory(file.parent).check(run.settings(), resume=True)
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        records.RunDirectory(file.parent).check(dataclasses.replace(run, seed=1).settings(), resume=True)


def test_there_are_runs_of_an_earlier_version():
    assert len(RUNS) > 5


def test_the_directory_of_a_sweep_is_refused():
    with pytest.raises(ValueError, match=r"config\.json: settings\.correct, settings\.seeds, settings\.wrong is unkno"):
        RunConfig.read(RESULTS / "ats_grid")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("setings",), {}, "setings is unknown; known are settings, arguments"),
        (("settings", "sede"), 1, "settings.sede is unknown"),
        (("settings", "seed"), "1", "settings.seed is '1': give int"),
        (("settings", "seed"), True, "settings.seed is True: give int"),
        (("settings", "data"), "cifar100", "settings.data is 'cifar100': give an object with names"),
        (("settings", "data", "name"), 3, "settings.data.name is 3: give str"),
        (("settings", "training", "epoch"), 3, "settings.training.epoch is unknown; known are name, paper, epochs"),
        (("settings", "training", "epochs"), None, "settings.training.epochs is None: give int"),
        (("settings", "method", "name"), "kdd", "no method is called 'kdd'"),
        (("settings", "method", "settings"), {"gamma": 1}, "has no setting 'gamma'"),
        (("settings", "method", "weights"), {"dkd": {"function": "Ramp"}}, "weights.dkd is a Ramp, which is not"),
        (("settings", "method", "settings"), {"beta": "2"}, "settings.method.settings.beta is '2': give a number"),
        (("settings", "method", "weights"), {"ce": None}, "settings.method.weights.ce is None: give a number"),
        (("settings", "training", "drops"), 3, "settings.training.drops is 3: give a list"),
        (("settings", "training", "normalization"), [[0.5]], "give mean and std, a number for each channel"),
        (("settings", "data", "normalization"), {"mean": 0.5}, "settings.data.normalization.mean is 0.5: give a list"),
        (("settings", "teacher", "sha"), "0f", "settings.teacher.sha is unknown; known are name, sha256"),
        (("arguments", "output"), 3, "arguments.output is 3: give a path as text, or null"),
        (("arguments", "resum"), True, "arguments.resum is unknown"),
        (("arguments", "checkpoint_minutes"), "5", "checkpoint_minutes is '5': give float or null"),
    ],
)
def test_what_is_wrong_is_named(place, value, message):
    content = json.loads(json.dumps(config().to_dict()))
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        RunConfig.from_dict(content)


def test_files_that_only_the_arguments_name_are_not_forgotten():
    content = config(teacher=None).to_dict()
    content["arguments"] |= {"init": "resnet18.pth", "teacher": "runs/teacher"}
    found = RunConfig.from_dict(content)
    assert (found.init.path, found.teacher.path) == (pathlib.Path("resnet18.pth"), pathlib.Path("runs/teacher"))


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="settings names no network"):
        RunConfig.from_dict({"settings": {}})
    with pytest.raises(ValueError, match=r"settings\.data\.name is missing"):
        RunConfig.from_dict({"settings": {"model": "resnet20"}})
    with pytest.raises(ValueError, match="has a teacher and no method"):
        config(method=None)


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: "):
        RunConfig.read(tmp_path)
    with pytest.raises(FileNotFoundError):
        RunConfig.read(tmp_path / "nowhere")


def test_what_a_run_is_called():
    run = config(output=None)
    assert run.folder == pathlib.Path("runs/cifar100-resnet56-resnet20-dkd-seed3")
    assert config(output=None, method=None, teacher=None).folder == pathlib.Path("runs/cifar100-resnet20-seed3")
    assert (run.role, config(method=None, teacher=None).role) == ("student", "model")
