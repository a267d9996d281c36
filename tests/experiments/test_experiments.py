"""The scripts, run as a user runs them, on the digits."""

import csv
import json
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from experiment_scripts import broken_off, imported

from jaxkd import convert, optimizers, recipes, records
from jaxkd.formats import torch_reader

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = ("quickstart", "train_teacher", "distill", "ats_grid")
PARTS = ("recipe_table", "common.config", "common.run")
SMALL = ["--data", "digits", "--batch-size", "479", "--quiet"]  # three equal steps an epoch


@pytest.fixture(scope="module", autouse=True)
def scripts():
    with imported(*SCRIPTS, *PARTS) as modules:
        yield modules


@pytest.fixture(scope="module")
def teacher(scripts, tmp_path_factory):
    """A run directory with a teacher of one epoch."""
    path = tmp_path_factory.mktemp("runs") / "teacher"
    assert scripts["train_teacher"].main(["--model", "resnet8", "--epochs", "1", "--output", str(path), *SMALL]) == 0
    return path


@pytest.fixture(scope="module")
def distilled(scripts, teacher):
    """A run directory with a student of two epochs, and the command line that made it."""
    path = teacher.parent / "student"
    arguments = [
        *("--teacher", str(teacher / "model.pth"), "--teacher-name", "resnet8", "--student", "resnet8"),
        *("--method", "ctkd", "--epochs", "2", "--seed", "3", "--output", str(path), *SMALL),
    ]
    assert scripts["distill"].main(arguments) == 0
    return path, arguments


def read(path):
    return json.loads(path.read_text())


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


def test_a_run_is_not_overwritten(scripts, distilled, capsys):
    path, arguments = distilled
    before = (path / "student.pth").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        scripts["distill"].main(arguments)
    assert "holds a run already" in capsys.readouterr().err
    assert (path / "student.pth").read_bytes() == before


def test_resume_refuses_other_settings_and_names_them(scripts, distilled, capsys):
    _, arguments = distilled
    with pytest.raises(SystemExit, match="2"):
        scripts["distill"].main([*arguments, "--resume", "--kd-weight", "0.5", "--seed", "4"])
    error = " ".join(capsys.readouterr().err.split())
    assert "method.weights.kd was 0.9 and is 0.5" in error
    assert "seed was 3 and is 4" in error
    assert "method.settings" not in error


def test_a_folder_of_something_else_is_left_alone(scripts, distilled, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        scripts["distill"].main([*distilled[1], "--output", str(tmp_path)])
    assert "holds no run" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_killed_run_resumed_ends_as_if_it_had_not_been(scripts, distilled, tmp_path):
    whole, arguments = distilled
    arguments = [*arguments, "--output", str(tmp_path / "run")]
    broken_off(scripts["distill"].main, arguments)
    assert not (tmp_path / "run" / "result.json").exists()
    assert scripts["distill"].main([*arguments, "--resume"]) == 0

    ours, theirs = (torch_reader.read(path / "student.pth") for path in (tmp_path / "run", whole))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    results = [read(path / "result.json") for path in (tmp_path / "run", whole)]
    assert results[0]["last"] == results[1]["last"]
    assert results[0]["best"] == results[1]["best"]
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.thorough
def test_seeds_of_one_program_leave_what_runs_of_their_own_leave(scripts, distilled, tmp_path, capsys):
    whole, arguments = distilled
    own = [option for option in arguments if option != "--quiet"]
    assert scripts["distill"].several([*own, "--resume"], {3: tmp_path / "3", 4: tmp_path / "4"}, None) == 0
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


@pytest.mark.parametrize("name", ["distill", "ats_grid"])
def test_the_directory_of_a_run_is_its_network(scripts, teacher, name):
    read = scripts[name].command_line().parse_args
    assert read(["--teacher", str(teacher)]).teacher == teacher / "model"
    assert read(["--teacher", str(teacher / "model.pth")]).teacher == teacher / "model.pth"


@pytest.mark.thorough
def test_a_teacher_folder_and_a_student_alone(scripts, teacher, tmp_path, capsys):
    folder = ["--teacher", str(teacher / "model"), "--no-evaluate-teacher", "--method", "kd", "--temperature", "2"]
    common = ["--student", "resnet8", "--epochs", "1", *SMALL]
    assert scripts["distill"].main([*folder, *common, "--output", str(tmp_path / "kd")]) == 0
    assert "accuracy" not in read(tmp_path / "kd" / "result.json")["teacher"]
    assert read(tmp_path / "kd" / "config.json")["settings"]["method"]["settings"] == {"temperature": 2.0}
    assert scripts["distill"].main([*common, "--method", "ce", "--output", str(tmp_path / "ce")]) == 0
    assert "teacher" not in read(tmp_path / "ce" / "result.json")
    assert "last epoch    1" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_published_recipe_runs_with_some_of_it_overridden(scripts, teacher, tmp_path, capsys):
    path = tmp_path / "run"
    arguments = [
        *("--recipe", "kd/resnet56-resnet20", "--teacher", str(teacher / "model.pth"), "--teacher-name", "resnet8"),
        *("--student", "resnet8", "--epochs", "1", "--temperature", "2", "--output", str(path)),
    ]
    assert scripts["distill"].main([*arguments, "--no-evaluate-teacher", *SMALL]) == 0
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


def resolved(scripts, *arguments):
    """What distill.py makes of a command line, without files: student, method, training, and the published facts."""
    options = scripts["distill"].command_line().parse_args(["--teacher-name", "resnet56", *arguments])
    run = scripts["distill"].config_of(options)
    return run.network, run.method, run.training, scripts["common.config"].published(run)


def test_a_recipe_resolves_to_what_was_published(scripts):
    student, method, training, facts = resolved(scripts, "--recipe", "dkd/resnet56-resnet20")
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
    ],
)
def test_any_override_makes_it_another_run(scripts, change):
    facts = resolved(scripts, "--recipe", "dkd/resnet56-resnet20", *change.split())[-1]
    assert facts["recipe"]["as_published"] is False


def test_without_a_recipe_nothing_is_published(scripts):
    for arguments in ([], ["--recipe", "standardization"]):
        assert resolved(scripts, "--student", "resnet20", *arguments)[-1] == {}


def test_a_teacher_of_a_recipe_is_trained_by_its_name(scripts, tmp_path):
    arguments = ["--recipe", "ce/resnet20", "--epochs", "1", "--output", str(tmp_path / "run"), *SMALL]
    assert scripts["train_teacher"].main([*arguments, "--model", "resnet8"]) == 0
    assert read(tmp_path / "run" / "result.json")["recipe"]["accuracy"] == 0.6906
    settings = read(tmp_path / "run" / "config.json")["settings"]
    assert (settings["model"], settings["training"]["name"]) == ("resnet8", "repdistiller")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--recipe", "kd/resnet56-resnet20"],
            "kd/resnet56-resnet20 learns from a resnet56: that is what distill.py does",
        ),
        (["--recipe", "ce/resnet21"], "did you mean ce/resnet"),
        ([], "name the network by --model"),
    ],
)
def test_a_teacher_that_cannot_be_trained(scripts, arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        scripts["train_teacher"].main([*SMALL, *arguments])
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_student_needs_a_name(scripts, capsys):
    with pytest.raises(SystemExit, match="2"):
        scripts["distill"].main(SMALL)
    assert "name the network by --student, as in resnet20, or by --recipe" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("name", "count"), [("distill", 242), ("train_teacher", 15)])
def test_recipes_are_listed(scripts, name, count, capsys):
    with pytest.raises(SystemExit, match="0"):
        scripts[name].main(["--list-recipes"])
    rows = re.findall(r"^  (\S+/\S+) +(\d\d\.\d\d.*)$", capsys.readouterr().out, re.MULTILINE)
    assert len(rows) == count
    assert ("ce/resnet56", "72.34") in rows
    assert (("ctkd+dkd/resnet56-resnet20", "71.65 ± 0.24") in rows) is (name == "distill")


def test_the_page_has_the_published_numbers(scripts):
    """Run experiments/recipe_table.py where this fails."""
    page = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    table = scripts["recipe_table"]
    assert table.updated(page, table.our_accuracies(ROOT / "experiments" / "results")) == page
    cells = re.findall(r"\d\d\.\d\d(?: ± \d\.\d\d)?(?:, top-5 \d\d\.\d\d)? / (?:–|\d)", page)
    assert len(cells) == len(recipes.list())


def test_the_page_gets_our_numbers_from_the_runs_that_kept_to_a_recipe(scripts, tmp_path):
    table, name = scripts["recipe_table"], "dkd/resnet56-resnet20"
    for seed, (best, kept) in enumerate([(0.71, True), (0.73, True), (0.5, False)]):
        (tmp_path / str(seed)).mkdir()
        recipe = {"name": name, "reported": "best", "as_published": kept}
        result = {"recipe": recipe, "best": {"val_accuracy": best}, "last": {"val_accuracy": 0.1}}
        (tmp_path / str(seed) / "result.json").write_text(json.dumps(result))
    (tmp_path / "result.json").write_text(json.dumps({"last": {"val_accuracy": 0.9}}))
    ours = table.our_accuracies(tmp_path)
    assert ours == {name: pytest.approx([71.0, 73.0])}
    page = table.updated(f"a{table.BEGIN}old{table.END}b", ours)
    assert page.startswith(f"a{table.BEGIN}")
    assert page.endswith(f"{table.END}b")
    assert "old" not in page
    assert "| `dkd` | 71.97 / 72.00 ± 1.41 (2) | 74.11 / – |" in page


def test_every_method_is_on_the_front_page():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Methods")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    assert set(re.findall(r"`([^`]+)`", " ".join(rows))) == {"--method", *recipes.methods()} - {"ce"}


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
        (["--data", "cifar100", "--data-dir", "/nowhere"], "cifar100 was not found"),
    ],
)
def test_bad_options_fail_before_any_work(scripts, teacher, tmp_path, capsys, arguments, message):
    good = ["--teacher", str(teacher / "model"), "--student", "resnet8", "--output", str(tmp_path / "run"), *SMALL]
    with pytest.raises(SystemExit, match="2"):
        scripts["distill"].main([*good, *arguments])
    output = capsys.readouterr()
    assert message in " ".join(output.err.split())
    assert "top-1" not in output.out
    assert not (tmp_path / "run").exists()


def test_a_torch_teacher_is_found_by_its_keys_and_needs_the_data_it_knows(scripts, teacher, tmp_path, capsys):
    common = ["--student", "resnet8", "--output", str(tmp_path / "run"), *SMALL]
    options = scripts["distill"].command_line().parse_args(["--teacher", str(teacher / "model.pth"), *common])
    assert scripts["common.run"].load_teacher(scripts["distill"].config_of(options)).name == "resnet8"
    with pytest.raises(SystemExit, match="2"):
        scripts["distill"].main(["--teacher", str(teacher / "model.pth"), "--teacher-name", "resnet14", *common])
    assert "the file fits resnet8 (num_classes=10)" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit, match="2"):
        scripts["distill"].main(common)
    assert "--method kd needs a --teacher" in capsys.readouterr().err


def test_the_classes_of_teacher_and_data_are_compared(scripts, teacher):
    from tiny import TinyNet, digits

    with pytest.raises(ValueError, match="tells 7 classes apart, and digits has 10"):
        scripts["common.run"].check_classes(TinyNet(7), digits()[0])


def test_a_damaged_record_is_named(scripts, tmp_path):
    directory = records.RunDirectory(tmp_path)
    directory.config_file.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        directory.check({}, resume=True)


def test_a_fingerprint_changes_with_any_byte_or_name(scripts, tmp_path):
    fingerprint = records.fingerprint
    (tmp_path / "a").write_bytes(b"1")
    seen = {fingerprint(tmp_path), fingerprint(tmp_path / "a")}
    (tmp_path / "a").write_bytes(b"2")
    seen |= {fingerprint(tmp_path)}
    (tmp_path / "a").rename(tmp_path / "b")
    seen |= {fingerprint(tmp_path)}
    assert len(seen) == 4


@pytest.mark.thorough
def test_quickstart_compares_methods(scripts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scripts["quickstart"], "TEACHER", "resnet8")
    monkeypatch.setattr(scripts["quickstart"], "TEACHER_EPOCHS", 2)
    arguments = ["--seeds", "2", "--epochs", "2", "--methods", "ce", "ctkd", "--output", str(tmp_path / "out")]
    assert scripts["quickstart"].main(arguments) == 0
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


def test_students_learn_from_as_many_images_of_each_digit(scripts):
    from tiny import digits

    few = scripts["quickstart"].first_of_each(digits()[0], 20)
    assert np.bincount(few.labels).tolist() == [20] * 10


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_explains(scripts, name, capsys):
    with pytest.raises(SystemExit, match="0"):
        scripts[name].main(["--help"])
    assert f"python experiments/{name}.py" in capsys.readouterr().out


@pytest.mark.thorough
def test_the_teachers_outputs_are_kept_for_other_runs(scripts, teacher, tmp_path, capsys):
    command = ["--teacher", str(teacher / "model"), "--student", "resnet8", "--epochs", "1", *SMALL]
    command += ["--cache-teacher", str(tmp_path / "outputs"), "--precision", "bfloat16"]
    for name, hits in (("first", 0.0), ("second", 1.0)):
        assert scripts["distill"].main([*command, "--output", str(tmp_path / name)]) == 0
        with (tmp_path / name / "metrics.csv").open() as file:
            assert [float(row["teacher_cache_hits"]) for row in csv.DictReader(file)] == [hits]
        assert json.loads((tmp_path / name / "config.json").read_text())["settings"]["precision"] == "bfloat16"
    first, second = (torch_reader.read(tmp_path / name / "student.pth") for name in ("first", "second"))
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])


@pytest.mark.thorough
def test_the_grid_of_temperatures(scripts, teacher, tmp_path, capsys):
    folder = tmp_path / "grid"
    command = [
        *("--teacher", str(teacher / "model"), "--student", "resnet8", "--recipe", "digits", "--epochs", "1"),
        *("--correct", "2", "4", "--wrong", "1", "2", "3", "--seeds", "2", "--output", str(folder), *SMALL),
    ]
    assert scripts["ats_grid"].main(command) == 0
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
        scripts["ats_grid"].main(command)
    assert "is not empty: choose another --output" in capsys.readouterr().err


def test_scripts_start_from_any_folder(tmp_path):
    command = [sys.executable, str(ROOT / "experiments" / "distill.py"), "--student", "resnet8"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "--method kd needs a --teacher" in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("page", ["README.md", "experiments/README.md"])
def test_commands_on_the_pages_are_valid(scripts, page):
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"python experiments/(quickstart|train_teacher|distill|ats_grid)\.py([^\n`|&]*)", text)
    assert {"quickstart", "distill"} <= {name for name, _ in commands}
    for name, arguments in commands:
        options = scripts[name].command_line().parse_args(shlex.split(arguments, comments=True))
        if name == "distill":
            assert scripts[name].config_of(options).method.name in recipes.methods()
        elif name == "train_teacher":
            scripts[name].config_of(options)


@pytest.mark.thorough
def test_the_example_on_the_front_page_runs(teacher, tmp_path, monkeypatch):
    """As it stands, but for the sizes, the files and the data."""
    code, own_loss, cache, sweep = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert "class " in own_loss  # which tests/losses/test_own_loss.py runs
    smaller = {
        '"cifar100", data_dir="~/data"': '"digits"',
        '"cifar100_resnet56.pth", "resnet56"': f'"{teacher / "model.pth"}", "resnet8"',
        '"resnet20", num_classes=100': '"resnet8", num_classes=10',
        "epochs=240, batch_size=64": "epochs=1, batch_size=479, verbose=0",
    }
    for published, small in smaller.items():
        assert code.count(published) == 1
        code = code.replace(published, small)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["distiller"].predict(names["test"].images).shape == (360, 10)
    assert {"ce", "kd", "kd_temperature", "val_top5"} <= names["history"].history.keys()
    assert (tmp_path / "student.pth").exists()
    assert [entry.name for entry in (tmp_path / "runs" / "ctkd").iterdir()] == ["1"]
    names["optimizer"] = optimizers.sgd(0.05)
    exec(compile(cache, "README.md", "exec"), names)
    names["distiller"].fit(names["train"].subset(64), batch_size=32, verbose=0)
    assert (tmp_path / "outputs" / "resnet56" / "contents.json").exists()
    names["train"] = names["train"].subset(64)
    exec(compile(sweep.replace("epochs=5", "epochs=1, verbose=0"), "README.md", "exec"), names)
    assert names["found"].last("val_accuracy").shape == (6,)
    assert (tmp_path / "grid.csv").exists()


def test_links_on_the_pages_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "experiments" / "README.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        assert links
        assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.thorough
def test_ctrl_c_saves_and_says_how_to_resume(tmp_path):
    command = [
        sys.executable, "experiments/train_teacher.py", "--data", "digits", "--model", "resnet8", "--epochs", "200",
        "--output", str(tmp_path / "run"),
    ]  # fmt: skip
    # As from a terminal: jobs that a shell puts into the background begin with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    while not (tmp_path / "run" / "metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    saved, resume = error.strip().splitlines()[-2:]
    assert saved.startswith("Ctrl-C: saved in ")
    assert resume == f"interrupted; to resume: python {shlex.join(command[1:])} --resume"
    assert not (tmp_path / "run" / "result.json").exists()
