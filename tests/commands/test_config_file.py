"""Options from files, first tries on a part of the images, and dry runs."""

import dataclasses
import json

import pytest
import yaml

from jaxkd import data, losses, recipes, records
from jaxkd.commands import config_file, distill, dry_run, train
from jaxkd.config import DataConfig, RunConfig

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

OWN_METHOD = """
from jaxkd import losses
def build(temperature=4.0):
    return {"ce": losses.CrossEntropy(), "mine": losses.KD(temperature)}, {"mine": 0.5}
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


def test_another_recipe_trains_in_its_own_way(tmp_path):
    run = distill.config_of(options(distill, "--recipe", "kd/resnet56-resnet20", "--learning-rate", "0.07"))
    file = recorded(tmp_path / "run.json", run)
    found = distill.config_of(options(distill, "--config", str(file), "--recipe", "mlkd/resnet56-resnet20"))
    mlkd = recipes.get("mlkd/resnet56-resnet20").training
    assert found.training == mlkd.adapted(learning_rate=0.07)
    assert found.training.epochs == 480
    lighter = distill.config_of(options(distill, "--config", str(file), "--student", "MobileNetV2"))
    assert lighter.training.learning_rate == 0.07
    run = distill.config_of(options(distill, "--recipe", "kd/resnet56-resnet20"))
    file = recorded(tmp_path / "run.json", run)
    lighter = distill.config_of(options(distill, "--config", str(file), "--student", "MobileNetV2"))
    assert lighter.training.learning_rate == 0.01


def recorded(path, run):
    """The file of a run as its record has it."""
    path.write_text(json.dumps(run.to_dict(), indent=2))
    return path


def again(path, run, command=distill):
    """The run that its record makes."""
    return command.config_of(options(command, "--config", str(recorded(path, run))))


def test_every_recipe_is_made_again_from_its_record(tmp_path):
    parser, base = distill.command_line(), distill.config_of(options(distill, "--student", "resnet8"))
    for name in recipes.list():
        recipe = recipes.get(name)
        training, method = recipe.training, recipe.method
        run = dataclasses.replace(
            base, network=recipe.student, training=training, method=method, recipe=name, data=DataConfig(recipe.data)
        )
        content = config_file.read(recorded(tmp_path / "config.json", run))
        found = config_file.options_of(RunConfig.from_dict(content), parser)
        assert (found["method"], found["weight"], found["setting"]) == (None, {}, {})
        found = distill.config_of(parser.parse_args(config_file.tokens_of(parser, found)))
        assert found == dataclasses.replace(run, teacher=found.teacher)


@pytest.mark.parametrize("training", recipes.trainings())
def test_every_training_is_made_again_from_its_record(tmp_path, training):
    given = ["--student", "resnet20", "--recipe", training, "--learning-rate", "2e-5", "--method", "pkt"]
    run = distill.config_of(options(distill, *given))
    assert again(tmp_path / "config.json", run).settings() == run.settings()
    run = train.config_of(options(train, "--model", *given[1:4]))
    assert again(tmp_path / "config.json", run, train).settings() == run.settings()


@pytest.mark.parametrize(
    "given",
    [
        ["--recipe", "kd/resnet34-resnet18"],  # weights of its own
        ["--recipe", "kd/resnet34-resnet18", "--method", "kd"],  # the usual ones in their place
        ["--recipe", "dkd/resnet34-resnet18", "--method", "dkd"],
        ["--recipe", "kd/resnet56-resnet20", "--method", "dkd", "--setting", "beta=2"],
        ["--recipe", "dkd/resnet56-resnet20", "--weight", "dkd=0.5", "--temperature", "2"],
        ["--recipe", "ats", "--student", "VGG8", "--method", "ats", "--correct", "3", "--ce-weight", "1e-5"],
        ["--student", "resnet8", "--method", "{own}:build", "--setting", "temperature=2", "--kd-weight", "3"],
        ["--recipe", "kd/resnet56-resnet20", "--method", "{own}:build"],
    ],
)
def test_a_method_is_made_again_from_its_record(tmp_path, given):
    own = tmp_path / "my_loss.py"
    own.write_text(OWN_METHOD)
    run = distill.config_of(options(distill, *(text.format(own=own) for text in given)))
    found = again(tmp_path / "config.json", run)
    assert (found.settings(), found.method) == (run.settings(), run.method)


def test_a_warm_up_is_scaled_with_the_run_and_not_pinned(tmp_path):
    given = ["--student", "resnet20", "--recipe", "ats", "--method", "ats"]
    short = recorded(tmp_path / "config.json", distill.config_of(options(distill, *given, "--epochs", "24")))
    whole = distill.config_of(options(distill, "--config", str(short), "--epochs", "240"))
    assert whole.training == distill.config_of(options(distill, *given)).training
    chosen = distill.config_of(options(distill, *given, "--epochs", "48", "--warmup", "5"))
    assert again(tmp_path / "config.json", chosen).training.warmup == 5


@pytest.mark.parametrize("method", ["ce", "tf-kd"])
def test_a_run_without_the_teacher_of_its_recipe_is_made_again(tmp_path, method):
    run = distill.config_of(options(distill, "--recipe", "kd/resnet56-resnet20", "--method", method))
    run = dataclasses.replace(run, teacher=None)  # as a run without one is recorded
    assert again(tmp_path / "config.json", run).settings() | {"teacher": None} == run.settings()


def test_every_recipe_trains_by_its_own_numbers():
    for name in recipes.list():
        assert distill.config_of(options(distill, "--recipe", name)).training == recipes.get(name).training


def test_what_no_option_says_is_refused(tmp_path, capsys):
    run = distill.config_of(options(distill, "--recipe", "dkd/resnet56-resnet20"))
    run = dataclasses.replace(run, method=run.method.adapted({"dkd": losses.warmup(3)}))
    said = refused(distill, ["--config", recorded(tmp_path / "config.json", run)], capsys)
    assert "settings that no option says: method.weights.dkd.epochs was 3 and would be 20" in said


@pytest.mark.parametrize(
    ("before", "typed", "weights", "settings"),
    [
        (["--temperature", "2"], ["--temperature", "8"], {}, {"temperature": 8}),
        (["--setting", "temperature=2"], ["--temperature", "8"], {}, {"temperature": 8}),
        (["--temperature", "2"], ["--setting", "temperature=8"], {}, {"temperature": 8}),
        (["--method", "ats", "--correct", "2", "--wrong", "3"], ["--wrong", "4"], {}, {"correct": 2, "wrong": 4}),
        (["--weight", "ce=2"], ["--ce-weight", "3", "--kd-weight", "4"], {"ce": 3, "kd": 4}, {}),
        (["--method", "pkt", "--weight", "pkt=2"], ["--kd-weight", "4"], {"pkt": 4}, {}),
        (["--kd-weight", "2"], ["--method", "pkt", "--weight", "pkt=4"], {"pkt": 4}, {}),
    ],
)
def test_what_is_typed_has_the_last_word_by_whichever_option(tmp_path, before, typed, weights, settings):
    before = ["--student", "resnet8", "--data", "digits", *before]
    saved = tmp_path / "run.yaml"
    distill.main([*before, "--save-config", str(saved)])
    record = recorded(tmp_path / "config.json", distill.config_of(options(distill, *before)))
    for file in (saved, record):
        if file is record and "--method" in typed:
            continue  # a record says the weight of kd, which another method has not
        method = distill.config_of(options(distill, "--config", str(file), *typed)).method
        assert {name: method.weights[name] for name in weights} == weights
        assert {name: method.settings[name] for name in settings} == settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--temperature", "8", "--setting", "temperature=4"], "--temperature 8 and --setting temperature=4: give one"),
        (
            ["--method", "kd", "--kd-weight", "1", "--weight", "kd=0.5"],
            "--kd-weight 1 and --weight kd=0.5: give",
        ),
        (["--method", "pkt", "--kd-weight", "1", "--weight", "pkt=2"], "--kd-weight 1 and --weight pkt=2"),
    ],
)
def test_one_number_is_not_given_two_values(file, given, message, capsys):
    for before in (["--student", "resnet8"], ["--config", file]):
        assert message in refused(distill, [*before, *given], capsys)


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


def test_images_in_memory_are_cropped_on_the_device_and_not_shifted_as_well():
    found = train.config_of(options(train, "--model", "resnet8", *SMALL, "--resized-crop", "--random-erasing", "0.25"))
    assert RunConfig.from_dict(found.to_dict()) == found
    images, _ = distill.run.load_data(found)
    assert images.augmentation == data.Augmentation(pad=0, flip=False)  # digits are not mirrored
    program = distill.run.compiled(found, images)._program
    assert program.augment == (data.CropAndResize(), data.RandomErasing(0.25))
    plain = dataclasses.replace(found, training=dataclasses.replace(found.training, resized_crop=False))
    images, _ = distill.run.load_data(plain)
    assert images.augmentation.pad == 1
    assert distill.run.compiled(plain, images)._program.augment == (data.RandomErasing(0.25),)


def test_a_strong_view_is_not_left_whole(teacher, capsys):
    arguments = ["--teacher", str(teacher), "--student", "resnet8", "--method", "mlkd", "--resized-crop", *SMALL]
    assert "a loss has a strong view of its own" in refused(distill, [*arguments, "--dry-run"], capsys)


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


def test_a_dry_run_of_a_method_that_remembers_each_image(teacher, capsys):
    arguments = ["--teacher", str(teacher), "--student", "resnet8", "--method", "crd", "--setting", "negatives=16"]
    assert distill.main([*arguments, *SMALL, "--dry-run"]) == 0
    assert "(nothing was written)" in capsys.readouterr().out


def test_the_estimate_is_of_all_epochs(monkeypatch):
    monkeypatch.setattr(dry_run, "measured", lambda *given: dry_run.Measured(3.0, 143.7, 36.0, 2**30, True))
    found = train.config_of(options(train, "--model", "resnet8", "--epochs", "6", *SMALL))
    images, test = distill.run.load_data(found)
    said = dry_run.described(distill.run.prepare(distill.run.resolve(found, images), images, test))
    assert "time       about 2.0 min, 20 s an epoch; compiling takes 3.0 s where it is new" in said
    assert "memory     1.00 GiB of a device so far" in said
