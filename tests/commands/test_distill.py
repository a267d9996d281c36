"""`jaxkd distill`, run as a user runs it, on the digits."""

import csv
import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from broken_off import broken_off

import jaxkd
from jaxkd import convert, models, recipes, records
from jaxkd.commands import config_file, distill, run, sweep, train
from jaxkd.commands.beginning import Beginning
from jaxkd.commands.options import published
from jaxkd.config import DataConfig, RunConfig
from jaxkd.convert import checkpoint
from jaxkd.formats import torch_reader
from jaxkd.training.sharding import Placement

COMMANDS = {"distill": distill, "sweep": sweep, "train": train}
SMALL = ["--data", "digits", "--batch-size", "479", "--quiet"]  # three equal steps an epoch


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def distilled(teacher):
    """A run directory with a student of two epochs, and the command line that made it."""
    path = teacher.parent / "student"
    arguments = [
        *("--teacher", str(teacher / "model.pth"), "--teacher-name", "resnet8", "--student", "resnet8"),
        *("--method", "ctkd", "--epochs", "2", "--seed", "3", "--output", str(path), *SMALL),
    ]
    assert distill.main(arguments) == 0
    return path, arguments


def test_a_run_directory_holds_everything(distilled):
    path, _ = distilled
    names = {entry.name for entry in path.iterdir()}
    assert names == {
        "config.json",
        "metrics.csv",
        "checkpoints",
        "result.json",
        "curves.png",
        "student.pth",
        "student",
    }
    assert [entry.name for entry in (path / "checkpoints").iterdir()] == ["2"]


def test_a_finished_run_is_left_as_others_learned_from_it(distilled, capsys):
    path, arguments = distilled
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}
    assert distill.main([*arguments, "--resume"]) == 0
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()} == before
    assert f"everything is in {path}" in capsys.readouterr().out


def test_a_folder_of_something_else_is_no_run(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    students = ["--student", "resnet8", "--method", "ce", "--grid", "ce_weight=1,2"]
    for more in ([], ["--resume"]):
        for command, given in ((train, ["--model", "resnet8"]), (sweep, students)):
            with pytest.raises(SystemExit, match="2"):
                command.main([*given, *SMALL, "--output", str(tmp_path), *more])
            assert "exists and holds no run: choose another folder" in capsys.readouterr().err


def test_a_teacher_for_other_images_is_told_in_a_line(tmp_path, capsys):
    convert.to_torch(models.create("resnet8", num_classes=10, channels=1), tmp_path / "grey.pth")
    arguments = ["--teacher", str(tmp_path / "grey.pth"), "--teacher-name", "resnet8", "--student", "resnet8"]
    with pytest.raises(SystemExit, match="2"):
        distill.main([*arguments, *SMALL, "--output", str(tmp_path / "run")])
    assert "the images have 3 channels, but resnet8 takes 1" in capsys.readouterr().err


def test_the_configuration_is_resolved(distilled, teacher):
    config = read(distilled[0] / "config.json")
    settings = config["settings"]
    assert settings["training"]["epochs"] == 2
    assert settings["training"]["learning_rate"] == 0.05
    assert settings["method"] == {
        "name": "ctkd",
        "weights": {"ce": 0.1, "kd": 0.9},
        "settings": {"t_start": 1.0, "t_end": 20.0, "curriculum_epochs": 10},
    }
    assert settings["data"]["images"] == 1437
    assert len(settings["data"]["normalization"]["mean"]) == 3
    assert (settings["seed"], settings["student"], settings["teacher"]["name"]) == (3, "resnet8", "resnet8")
    assert {"jaxkd", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "python"} <= config["versions"].keys()
    assert config["device"]["count"] >= 1
    assert config["arguments"]["teacher"] == str(teacher / "model.pth")


def test_metrics_have_a_line_per_epoch_and_result_agrees_with_them(distilled, teacher):
    path, _ = distilled
    with (path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"ce", "kd", "kd_temperature", "kd_lambda", "learning_rate", "images_per_second"} <= rows[0].keys()
    result = read(path / "result.json")
    accuracies = [float(row["val_accuracy"]) for row in rows]
    assert result["last"]["epoch"] == 2
    assert result["last"]["val_accuracy"] == pytest.approx(accuracies[1])
    assert result["best"]["val_accuracy"] == pytest.approx(max(accuracies))
    assert result["best"]["epoch"] == 1 + int(np.argmax(accuracies))
    assert (result["reported"], result["seed"], result["epochs"]) == ("last", 3, 2)
    assert result["training_seconds"] > 0
    own = read(teacher / "result.json")["last"]
    assert result["teacher"]["accuracy"] == pytest.approx(own["val_accuracy"])


def test_the_student_comes_out_for_torch_and_for_jaxkd(distilled):
    path, _ = distilled
    weights = torch_reader.read(path / "student.pth")
    loaded = convert.load(path / "student")
    assert weights["conv1.weight"].shape == (16, 3, 3, 3)
    ours = convert.to_state_dict(loaded)
    for name, value in weights.items():
        np.testing.assert_array_equal(value, ours[name], err_msg=name)
    mean = read(path / "config.json")["settings"]["data"]["normalization"]["mean"]
    assert list(loaded.normalization.mean) == mean


def test_a_run_is_not_overwritten(distilled, capsys):
    path, arguments = distilled
    before = (path / "student.pth").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        distill.main(arguments)
    assert "holds a run already" in capsys.readouterr().err
    assert (path / "student.pth").read_bytes() == before


def test_resume_refuses_other_settings_and_names_them(distilled, capsys):
    _, arguments = distilled
    with pytest.raises(SystemExit, match="2"):
        distill.main([*arguments, "--resume", "--kd-weight", "0.5", "--seed", "4"])
    error = " ".join(capsys.readouterr().err.split())
    assert "method.weights.kd was 0.9 and is 0.5" in error
    assert "seed was 3 and is 4" in error
    assert "method.settings" not in error


def test_a_folder_of_something_else_is_left_alone(distilled, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        distill.main([*distilled[1], "--output", str(tmp_path)])
    assert "holds no run" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_killed_run_resumed_ends_as_if_it_had_not_been(distilled, tmp_path):
    whole, arguments = distilled
    arguments = [*arguments, "--output", str(tmp_path / "run")]
    broken_off(distill.main, arguments)
    assert not (tmp_path / "run" / "result.json").exists()
    assert distill.main([*arguments, "--resume"]) == 0

    ours, theirs = (torch_reader.read(path / "student.pth") for path in (tmp_path / "run", whole))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    results = [read(path / "result.json") for path in (tmp_path / "run", whole)]
    assert results[0]["last"] == results[1]["last"]
    assert results[0]["best"] == results[1]["best"]
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.thorough
def test_seeds_of_one_program_leave_what_runs_of_their_own_leave(distilled, tmp_path, capsys):
    whole, arguments = distilled
    own = [option for option in arguments if option != "--quiet"]
    assert distill.several([*own, "--resume"], {3: tmp_path / "3", 4: tmp_path / "4"}, None) == 0
    assert "2 of 2 runs in one program" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "3").iterdir()} == {path.name for path in whole.iterdir()}
    ours, theirs = (torch_reader.read(path / "student.pth") for path in (tmp_path / "3", whole))
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    one, other = (records.read(tmp_path / name) for name in ("3", "4"))
    assert (one.settings["seed"], other.settings["seed"]) == (3, 4)
    assert one.history.last("loss") == pytest.approx(records.read(whole).history.last("loss"), rel=1e-4)
    assert one.history.last("loss") != other.history.last("loss")
    assert read(tmp_path / "3" / "result.json")["trained_with"] == 1


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:kd_temperature stayed")
def test_a_seed_that_diverges_in_a_program_with_others_leaves_no_result(distilled, tmp_path, monkeypatch):
    _, arguments = distilled
    compiled = run.compiled

    def one_diverges(config, *rest):
        if config.seed == 4:
            rate = dataclasses.replace(config.training, learning_rate=1e30)
            config = dataclasses.replace(config, training=rate)
        return compiled(config, *rest)

    monkeypatch.setattr(run, "compiled", one_diverges)
    folders = {3: tmp_path / "3", 4: tmp_path / "4"}
    with pytest.warns(UserWarning, match="ends after this epoch"), pytest.raises(FloatingPointError, match=r"/4; the"):
        distill.several(arguments, folders, None)
    assert [(folder / "result.json").exists() for folder in folders.values()] == [True, False]


@pytest.mark.parametrize("name", ["distill", "sweep"])
def test_the_directory_of_a_run_is_its_network(teacher, name):
    read = COMMANDS[name].command_line().parse_args
    assert read(["--teacher", str(teacher)]).teacher == teacher / "model"
    assert read(["--teacher", str(teacher / "model.pth")]).teacher == teacher / "model.pth"


@pytest.mark.thorough
def test_a_teacher_folder_and_a_student_alone(teacher, tmp_path, capsys):
    folder = ["--teacher", str(teacher / "model"), "--no-evaluate-teacher", "--method", "kd", "--temperature", "2"]
    common = ["--student", "resnet8", "--epochs", "1", *SMALL]
    assert distill.main([*folder, *common, "--output", str(tmp_path / "kd")]) == 0
    assert "accuracy" not in read(tmp_path / "kd" / "result.json")["teacher"]
    assert read(tmp_path / "kd" / "config.json")["settings"]["method"]["settings"] == {"temperature": 2.0}
    assert distill.main([*common, "--method", "ce", "--output", str(tmp_path / "ce")]) == 0
    assert "teacher" not in read(tmp_path / "ce" / "result.json")
    assert "last epoch    1" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_chain_of_teachers(teacher, tmp_path):
    """A teacher's student teaches another: each run is the next one's teacher by its directory alone."""
    generations = [teacher]
    for number in (1, 2):
        generations.append(tmp_path / f"generation-{number}")
        of = ["--student", "resnet8", "--teacher", str(generations[-2]), "--output", str(generations[-1])]
        labels_alike = ["--temperature", "1", "--ce-weight", "1", "--kd-weight", "1", "--seed", str(number)]
        assert distill.main([*of, *labels_alike, "--epochs", "1", *SMALL]) == 0
    own, of_next = (read(path / "result.json") for path in generations[1:])
    assert of_next["teacher"]["accuracy"] == pytest.approx(own["last"]["val_accuracy"])
    settings = read(generations[2] / "config.json")["settings"]
    assert settings["method"]["weights"] == {"ce": 1.0, "kd": 1.0}
    assert read(generations[2] / "config.json")["arguments"]["teacher"] == str(generations[1] / "student")


def test_a_virtual_teacher_is_no_network(tmp_path):
    options = ["--data", "digits", "--student", "resnet8", "--method", "tf-kd", "--kd-weight", "0.2"]
    config = distill.config_of(distill.command_line().parse_args(options))
    assert config.method.weights == {"ce": 0.9, "tfkd": 0.2}
    assert run.load_teacher(config) is None


def several(teacher, *options):
    other = teacher.parent / "other"
    if not other.exists():
        convert.save(models.create("resnet14", num_classes=10, seed=1), other)
    return ["--teacher", str(teacher), str(other), "--student", "resnet8", *options, *SMALL]


def test_several_teachers_are_an_ensemble(teacher):
    options = distill.command_line().parse_args(several(teacher, "--method", "kd"))
    config, ensemble, *_ = run.read(distill.config_of(options))
    assert [network.name for network in ensemble.networks] == ["resnet8", "resnet14"]
    assert config.teacher.name == "resnet8+resnet14"
    assert config.folder.name == "digits-resnet8+resnet14-resnet8-kd-seed0"
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    each = [jaxkd.Trainer(network).predict(images) for network in ensemble.networks]
    found = jaxkd.Trainer(ensemble).predict(images)
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-4, atol=1e-5)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))).teacher == config.teacher
    swapped = several(teacher)
    swapped[1:3] = swapped[2], swapped[1]
    swapped_config, *_ = run.read(distill.config_of(distill.command_line().parse_args(swapped)))
    assert swapped_config.teacher.sha256 != config.teacher.sha256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher-name", "resnet8+resnet14+vgg8"], "number of names 3, of teachers 2"),
        (["--teacher-name", "resnet14"], "--teacher-name resnet14, but "),
        (["--method", "at"], "AT pairs the stages between stem and pooled embedding, but the student has 3 and the"),
    ],
)
def test_several_teachers_that_cannot_be_are_told(teacher, options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        distill.main(several(teacher, *options))
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_with_several_teachers_is_recorded_and_made_again(teacher, tmp_path, capsys):
    path = tmp_path / "run"
    arguments = several(teacher, "--epochs", "1", "--cache-teacher", "--output", str(path))
    assert distill.main(arguments) == 0
    assert "teacher resnet8+resnet14: 253,300 parameters; top-1 " in capsys.readouterr().out
    found = records.read(path)
    assert found.teacher["name"] == "resnet8+resnet14"
    assert len(found.teacher["normalization"]) == 2
    assert found.arguments["teacher"] == [str(teacher / "model"), str(teacher.parent / "other")]
    assert distill.main([*arguments, "--resume"]) == 0
    saved = tmp_path / "saved.yaml"
    assert distill.main(["--config", str(path), "--save-config", str(saved)]) == 0
    again = config_file.parse(distill.command_line(), ["--config", str(saved)], distill.config_of)
    assert list(map(str, again.teacher)) == found.arguments["teacher"]
    assert distill.config_of(again).teacher.name == "resnet8+resnet14"


@pytest.mark.thorough
def test_a_published_recipe_runs_with_some_of_it_overridden(teacher, tmp_path, capsys):
    path = tmp_path / "run"
    arguments = [
        *("--recipe", "kd/resnet56-resnet20", "--teacher", str(teacher / "model.pth"), "--teacher-name", "resnet8"),
        *("--student", "resnet8", "--epochs", "1", "--temperature", "2", "--output", str(path)),
    ]
    assert distill.main([*arguments, "--no-evaluate-teacher", *SMALL]) == 0
    settings = read(path / "config.json")["settings"]
    weights = {"ce": 0.1, "kd": 0.9}
    assert settings["method"] == {"name": "kd", "weights": weights, "settings": {"temperature": 2.0}}
    assert (settings["training"]["name"], settings["training"]["epochs"]) == ("repdistiller", 1)
    assert (settings["student"], settings["teacher"]["name"]) == ("resnet8", "resnet8")
    assert read(path / "result.json")["recipe"] == {
        "name": "kd/resnet56-resnet20",
        "accuracy": 0.7066,
        "deviation": None,
        "top5": None,
        "reported": "last",
        "paper": "Tian et al., Contrastive Representation Distillation, ICLR 2020",
        "table": "CIFAR-100, teacher and student of one style",
        "as_published": False,
    }
    printed = capsys.readouterr().out
    assert "published: test top-1 70.66%, last epoch, by a run that differs from this one; Tian et al." in printed


def resolved(*arguments):
    """What distill.py makes of a command line, without files: student, method, training, and the published facts."""
    options = distill.command_line().parse_args(["--teacher-name", "resnet56", *arguments])
    run = distill.config_of(options)
    return run.network, run.method, run.training, published(run)


def test_a_recipe_resolves_to_what_was_published():
    student, method, training, facts = resolved("--recipe", "dkd/resnet56-resnet20")
    assert (student, training) == ("resnet20", recipes.get_training("mdistiller"))
    assert method.describe()["settings"] == {"alpha": 1.0, "beta": 2.0, "temperature": 4.0}
    assert method.describe()["weights"]["dkd"] == {"function": "Warmup", "epochs": 20, "weight": 1.0}
    assert facts["recipe"]["as_published"]
    assert (facts["recipe"]["accuracy"], facts["recipe"]["deviation"]) == (0.7197, None)


@pytest.mark.parametrize(
    "change",
    [
        "--setting beta=8",
        "--weight dkd=1",
        "--ce-weight 0.5",
        "--epochs 24",
        "--student resnet32",
        "--data digits",
        "--method kd",
        "--temperature 2",
        "--learning-rate 0.1",
        "--balanced",
        "--image-size 112",
        "--gradient-accumulation-steps 2",
    ],
)
def test_any_override_makes_it_another_run(change):
    facts = resolved("--recipe", "dkd/resnet56-resnet20", *change.split())[-1]
    assert facts["recipe"]["as_published"] is False


def test_without_a_recipe_nothing_is_published():
    for arguments in ([], ["--recipe", "standardization"]):
        assert resolved("--student", "resnet20", *arguments)[-1] == {}


def test_a_student_needs_a_name(capsys):
    with pytest.raises(SystemExit, match="2"):
        distill.main(SMALL)
    assert "name the network by --student, as in resnet20, or by --recipe" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("name", "count"), [("distill", 250), ("train", 19)])
def test_recipes_are_listed(name, count, capsys):
    with pytest.raises(SystemExit, match="0"):
        COMMANDS[name].main(["--list-recipes"])
    rows = re.findall(r"^  (\S+/\S+) +(\d\d\.\d\d.*)$", capsys.readouterr().out, re.MULTILINE)
    assert len(rows) == count
    assert ("ce/resnet56", "72.34") in rows
    assert (("ctkd+dkd/resnet56-resnet20", "71.65 ± 0.24") in rows) is (name == "distill")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "kdd"], "invalid choice: 'kdd'"),
        (["--recipe", "crd"], "no recipe is called 'crd'; did you mean crd/resnet56-resnet20"),
        (["--recipe", "crd"], "names of trainings are repdistiller, mdistiller"),
        (["--recipe", "kd/resnet56-resnet20"], "--recipe kd/resnet56-resnet20 has a resnet56, but"),
        (["--weight", "kd"], "'kd': write NAME=NUMBER"),
        (["--weight", "kd=much"], "'kd=much': write NAME=NUMBER"),
        (["--weight", "dkd=1"], "'kd' has no term 'dkd'; it has ce, kd"),
        (["--setting", "beta=1"], "'kd' has no setting 'beta'; it has temperature"),
        (["--method", "reviewkd", "--student", "vgg8"], "ReviewKD"),
        (["--student", "resnet21"], "unknown model 'resnet21'"),
        (["--epochs", "0"], "epochs=0"),
        (["--method", "ats", "--temperature", "4"], "'ats' has no setting 'temperature'"),
        (["--method", "kd", "--correct", "4"], "'kd' has no setting 'correct'"),
        (["--method", "ce", "--kd-weight", "1"], "'ce' has no term 'kd'"),
        (["--temperature", "-1"], "temperature=-1.0"),
        (["--teacher", "nowhere.pth"], "no such file or folder"),
        (["--teacher-name", "resnet14"], "holds a resnet8"),
        (["--data", "cifar100", "--data-dir", "/nowhere"], "'cifar100' was not found"),
        (["--checkpoint-minutes", "0"], "checkpoint_minutes=0.0: give a number above 0"),
        (["--gradient-accumulation-steps", "480"], "gradient_accumulation_steps=480, but a batch has 479 examples"),
        (["--temperature", "8", "--setting", "temperature=4"], "--temperature 8 and --setting temperature=4: give one"),
        (["--teacher", "hf://nobody/file.pth"], "argument --teacher: hf://nobody/file.pth: give hf://user/repo/file"),
    ],
)
def test_bad_options_fail_before_any_work(teacher, tmp_path, capsys, arguments, message):
    good = ["--teacher", str(teacher / "model"), "--student", "resnet8", "--output", str(tmp_path / "run"), *SMALL]
    with pytest.raises(SystemExit, match="2"):
        distill.main([*good, *arguments])
    output = capsys.readouterr()
    assert message in " ".join(output.err.split())
    assert "top-1" not in output.out
    assert not (tmp_path / "run").exists()


CACHED = ["--cache-teacher", "outputs", "--no-evaluate-teacher"]
ONE_LEFT = ["--student", "vgg8", "--batch-size", "1436"]  # of 1,437 images


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*CACHED, "--method", "at"], "cache_teacher: a loss reads the teacher's feature maps"),
        ([*CACHED, "--mixup", "0.5"], "cache_teacher: mixed images are new ones in every step; leave it out"),
        ([*CACHED, "--augment", "trivial"], "makes new views in every step"),
        ([*ONE_LEFT, "--no-evaluate-teacher"], "choose another batch_size"),
        ([*ONE_LEFT, "--dry-run"], "choose another batch_size"),
    ],
)
def test_what_only_training_can_refuse_leaves_no_folder(teacher, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    good = ["--teacher", str(teacher / "model"), "--student", "resnet8", "--output", "run", *SMALL]
    with pytest.raises(SystemExit, match="2"):
        distill.main([*good, *arguments])
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_what_fails_later_is_no_mistake_of_the_command():
    def fails():
        with Beginning(lambda: begun.append(1)) as beginning:
            beginning.on_train_begin()
            beginning.on_train_begin()  # of another run of the same program
            raise OSError("the disk is full")

    begun = []
    with pytest.raises(OSError, match="disk"):
        fails()
    assert begun == [1]


def test_a_batch_that_devices_cannot_share_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(run, "Placement", lambda: Placement(jax.devices()[:1] * 8))
    config = RunConfig("resnet8", DataConfig("digits"), recipes.get_training("digits").adapted(batch_size=100))
    with pytest.raises(ValueError, match="batch_size=100 does not divide over 8 devices; the nearest that does is 96"):
        run.check_batches(config)
    config = dataclasses.replace(config, training=config.training.adapted(batch_size=96), batch_norm="per_device")
    run.check_batches(config)
    with pytest.raises(ValueError, match="does not divide into 5 parts over 8 devices"):
        run.check_batches(dataclasses.replace(config, gradient_accumulation_steps=5))


@pytest.mark.parametrize("option", ["--teacher", "--student-init"])
def test_weights_are_fetched_from_an_address(teacher, monkeypatch, option):
    asked = []
    monkeypatch.setattr(checkpoint, "fetched", lambda path: asked.append(path) or teacher / "model.pth")
    found = distill.command_line().parse_args(["--student", "resnet8", option, "hf://user/repo/student.safetensors"])
    assert asked == ["hf://user/repo/student.safetensors"]
    assert (found.init if option == "--student-init" else found.teacher) == teacher / "model.pth"


def test_the_users_home_is_known_in_files_of_options(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(teacher.parent))
    file = tmp_path / "run.yaml"
    file.write_text(f"{{student: resnet8, teacher: ~/{teacher.name}}}")
    found = config_file.parse(distill.command_line(), ["--config", str(file)], distill.config_of)
    assert found.teacher == teacher / "model"


def test_a_torch_teacher_is_found_by_its_keys_and_needs_the_data_it_knows(teacher, tmp_path, capsys):
    common = ["--student", "resnet8", "--output", str(tmp_path / "run"), *SMALL]
    options = distill.command_line().parse_args(["--teacher", str(teacher / "model.pth"), *common])
    assert run.load_teacher(distill.config_of(options)).name == "resnet8"
    with pytest.raises(SystemExit, match="2"):
        distill.main(["--teacher", str(teacher / "model.pth"), "--teacher-name", "resnet14", *common])
    assert "the file fits resnet8 (num_classes=10)" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit, match="2"):
        distill.main(common)
    assert "--method kd needs a --teacher" in capsys.readouterr().err


def test_the_classes_of_teacher_and_data_are_compared(teacher):
    from tiny import TinyNet, digits

    with pytest.raises(ValueError, match="has 7 classes, but digits has 10"):
        run.check_classes(TinyNet(7), digits()[0])


def test_a_damaged_record_is_named(tmp_path):
    directory = records.RunDirectory(tmp_path)
    directory.config_file.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        directory.check({}, resume=True)


def test_a_digest_changes_with_any_byte_or_name(tmp_path):
    sha256 = records.sha256
    (tmp_path / "a").write_bytes(b"1")
    seen = {sha256(tmp_path), sha256(tmp_path / "a")}
    (tmp_path / "a").write_bytes(b"2")
    seen |= {sha256(tmp_path)}
    (tmp_path / "a").rename(tmp_path / "b")
    seen |= {sha256(tmp_path)}
    assert len(seen) == 4


@pytest.mark.thorough
def test_the_teachers_outputs_are_kept_for_other_runs(teacher, tmp_path, capsys):
    command = ["--teacher", str(teacher / "model"), "--student", "resnet8", "--epochs", "1", *SMALL]
    command += ["--cache-teacher", str(tmp_path / "outputs"), "--precision", "bfloat16"]
    for name, hits in (("first", 0.0), ("second", 1.0)):
        assert distill.main([*command, "--output", str(tmp_path / name)]) == 0
        with (tmp_path / name / "metrics.csv").open() as file:
            assert [float(row["teacher_cache_hits"]) for row in csv.DictReader(file)] == [hits]
        assert json.loads((tmp_path / name / "config.json").read_text())["settings"]["precision"] == "bfloat16"
    first, second = (torch_reader.read(tmp_path / name / "student.pth") for name in ("first", "second"))
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])
