"""The scripts by which the commands also go, and the pages that speak of them."""

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
import recorded
from experiment_scripts import imported

from jaxkd import convert, models, recipes

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = {
    "train_teacher": "train",
    "distill": "distill",
    "ats_grid": "sweep",
    "reproduce": "reproduce",
    "quickstart": "quickstart",
    "figures": "figures",
}


@pytest.fixture(scope="module", autouse=True)
def scripts():
    with imported(*SCRIPTS, "recipe_table") as modules:
        yield modules


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A folder with the weights of a network as PyTorch has them."""
    path = tmp_path_factory.mktemp("teacher")
    convert.to_torch(models.create("resnet8", num_classes=10), path / "model.pth")
    return path


def test_the_page_has_the_published_numbers(scripts):
    """Run experiments/recipe_table.py where this fails."""
    page = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    table = scripts["recipe_table"]
    assert table.updated(page, table.our_accuracies(ROOT / "experiments" / "results")) == page
    cells = re.findall(r"\d\d\.\d\d(?: ± \d\.\d\d)?(?:, top-5 \d\d\.\d\d)? / (?:–|\d)", page)
    assert len(cells) == len(recipes.list())


def test_the_page_gets_our_numbers_from_the_runs_that_kept_to_a_recipe(scripts, tmp_path):
    table, name = scripts["recipe_table"], "dkd/resnet56-resnet20"
    runs = [(0.71, "float32", True), (0.73, "float32", True), (0.705, "bfloat16", True), (0.5, "float32", False)]
    for seed, (best, precision, kept) in enumerate(runs):
        recipe = {**recorded.RECIPE, "name": name, "reported": "best", "as_published": kept}
        recorded.run(tmp_path / str(seed), (best, 0.1), facts={"recipe": recipe}, precision=precision)
    recorded.run(tmp_path / "of no recipe", (0.9,))
    ours = table.our_accuracies(tmp_path)
    assert ours == {name: {"float32": pytest.approx([71.0, 73.0]), "bfloat16": pytest.approx([70.5])}}
    page = table.updated(f"a{table.BEGIN}old{table.END}b", ours)
    assert page.startswith(f"a{table.BEGIN}")
    assert page.endswith(f"{table.END}b")
    assert "old" not in page
    assert "| `dkd` | 71.97 / 72.00 ± 1.41 (2), 70.50 in bfloat16 | 74.11 / – |" in page


def test_the_weights_of_every_method_are_on_its_page():
    section = (
        (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").split("## Published weights")[1].split("\n## ")[0]
    )
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    assert set(re.findall(r"`([^`]+)`", " ".join(rows))) == {"--method", *recipes.methods()} - {"ce"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_and_errors_call_a_script_by_its_name(scripts, name, capsys):
    with pytest.raises(SystemExit, match="0"):
        scripts[name].main(["--help"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: {name}.py ")
    assert f"python experiments/{name}.py" in printed
    assert not re.search(rf"jaxkd ({'|'.join(SCRIPTS.values())}) ", printed)
    with pytest.raises(SystemExit, match="2"):
        scripts[name].main(["--no-such-option"])
    assert capsys.readouterr().err.startswith(f"{name}.py: error: ")
    assert scripts[name].command_line().prog == f"{name}.py"


def test_a_cure_calls_other_scripts_by_their_names(scripts, capsys):
    with pytest.raises(SystemExit, match="2"):
        scripts["train_teacher"].main(["--recipe", "kd/resnet56-resnet20"])
    assert "learns from a resnet56: that is what distill.py does" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        scripts["reproduce"].main(["kd/vgg13-vgg8", "--teachers", "nowhere"])
    assert "train it by train_teacher.py --model vgg13" in capsys.readouterr().err


def test_scripts_start_from_any_folder(tmp_path):
    command = [sys.executable, str(ROOT / "experiments" / "distill.py"), "--student", "resnet8"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "--method kd needs a --teacher" in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_grid_of_temperatures(scripts, teacher, tmp_path, capsys):
    folder = tmp_path / "grid"
    command = [
        *("--teacher", str(teacher / "model.pth"), "--student", "resnet8", "--recipe", "digits", "--epochs", "1"),
        *("--correct", "2", "4", "--wrong", "1", "2", "3", "--seeds", "2", "--output", str(folder), "--quiet"),
        *("--data", "digits", "--batch-size", "479"),
    ]
    assert scripts["ats_grid"].main(command) == 0
    printed = capsys.readouterr().out
    assert "12 students in" in printed
    assert printed.startswith("τ₁ \\ τ₂        1       2       3\n      2 ")
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
    assert "holds a run already: go on with it (--resume)" in capsys.readouterr().err


def test_commands_on_the_page_are_valid(scripts):
    text = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
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
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
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


def test_links_on_the_pages_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "experiments" / "README.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        assert links
        assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.slow
def test_a_run_that_diverges_says_so_in_one_line(tmp_path):
    command = ["experiments/train_teacher.py", "--data", "digits", "--model", "resnet8", "--learning-rate", "1e9"]
    done = subprocess.run(
        [sys.executable, *command, "--epochs", "1", "--output", str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.match(r"error: loss term 'crossentropy' became \w+ at step ", done.stderr.strip().splitlines()[-1])


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
