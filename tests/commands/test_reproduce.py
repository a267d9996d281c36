"""The command that runs a published table: which runs, what is skipped, and the table beside the published numbers."""

import csv
import dataclasses
import pathlib

import pytest
import recorded

from jaxkd import convert, models, recipes
from jaxkd.commands import reproduce, result_table

ROOT = pathlib.Path(__file__).parents[2]
METHODS = ("ctkd", "ats")


def test_a_pair_is_every_method_published_for_it_and_the_student_alone():
    found = result_table.rows_of(["resnet56-resnet20"], None, ["ats"])
    published = {name for name in recipes.list() if name.endswith("/resnet56-resnet20")} | {"ce/resnet20"}
    assert {row.recipe.name for row in found if row.recipe} == published
    assert [(row.method, row.pair, row.recipe) for row in found if row.recipe is None] == [
        ("ats", "resnet56-resnet20", None)
    ]
    assert len(found) == len(published) + 1


def test_methods_beside_others_take_their_own_number_or_the_schedule_of_the_pair():
    found = result_table.rows_of(["ctkd/resnet56-resnet20"], None, ["kd", "ctkd", "ats"])
    assert [(row.method, row.recipe and row.recipe.name) for row in found] == [
        ("ctkd", "ctkd/resnet56-resnet20"), ("kd", "kd/resnet56-resnet20"), ("ats", None),
    ]  # fmt: skip
    large = result_table.rows_of(["kd+std/resnet34-resnet18"], None, ["ats"])[-1]
    assert large.arguments[4:] == ["--recipe", "imagenet-mdistiller", "--data", "imagenet2012"]


def test_a_method_is_every_pair_and_a_training_is_every_row():
    rows_of = result_table.rows_of
    assert {row.pair for row in rows_of(["ctkd"], None, [])} >= {"resnet56-resnet20", "vgg13-vgg8", "resnet34-resnet18"}
    assert {row.recipe.training.name for row in rows_of(["mlkd"], None, [])} == {"mlkd"}
    assert [row.method for row in rows_of(["standardization"], ["kd+std"], [])] == ["kd+std"] * 7
    assert [row.method for row in rows_of(["kd/vgg13-vgg8"], None, [])] == ["kd"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet56-resnet2"], "'resnet56-resnet2' is not a recipe, method, pair or training with published numbers"),
        (["resnet56-resnet20", "--also", "atz"], "no method is called 'atz'"),
        (["resnet56-resnet20", "--methods", "ofd"], "--methods ofd: none of them is published for that"),
        (["kd/vgg13-vgg8", "--at-once", "0"], "--at-once 0: at least one is needed"),
        (["kd/vgg13-vgg8", "--", "--seed=3"], "--seed behind the dashes: every run has its own; give --seeds or"),
        (["kd/vgg13-vgg8", "--teachers", "nowhere"], "--teachers nowhere has no vgg13 (looked for vgg13/model, vgg13,"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(arguments, message, capsys):
    with pytest.raises(SystemExit):
        reproduce.main(arguments)
    assert message in capsys.readouterr().err


def test_teachers_are_found_by_their_names(tmp_path):
    find = result_table.teacher_file
    (tmp_path / "vgg8_vanilla").mkdir()
    (tmp_path / "vgg8_vanilla" / "ckpt_epoch_240.pth").touch()
    (tmp_path / "cifar100_resnet56.pth").touch()
    (tmp_path / "resnet8").mkdir()
    convert.save(models.create("resnet8", num_classes=10), tmp_path / "resnet8" / "model")
    assert find(tmp_path, "vgg8").name == "ckpt_epoch_240.pth"
    assert find(tmp_path, "resnet56").name == "cifar100_resnet56.pth"
    assert find(tmp_path, "resnet8") == tmp_path / "resnet8" / "model"
    (tmp_path / "resnet14").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no resnet14 .*jaxkd train --model resnet14"):
        find(tmp_path, "resnet14")


PAIR = "resnet56-resnet20"
KD = ("--recipe", f"kd/{PAIR}")
ATS = ("--method", "ats", "--student", "resnet20", "--recipe", "repdistiller", "--data", "cifar100")


def finished(folder, accuracies, arguments, seed=0, facts=()):
    """Writes a run that jaxkd distill would have made of some arguments."""
    config = dataclasses.replace(reproduce.config_of(arguments), seed=seed)
    recorded.run(folder, accuracies, facts=facts, **config.settings())


@pytest.fixture
def done(tmp_path):
    """An output folder in which two seeds of a published row, and one of another, are done, of two epochs each."""
    teacher = tmp_path / "cifar100_resnet56.pth"
    teacher.touch()
    facts = {"recipe": {**recorded.RECIPE, "as_published": True}}
    of_two = ("--teacher", str(teacher), "--epochs", "2")
    for seed, accuracy in enumerate((0.7, 0.72)):
        finished(tmp_path / "kd" / PAIR / f"seed{seed}", (0.75, accuracy), [*KD, *of_two], seed, facts)
    finished(tmp_path / "ats" / PAIR / "seed0", (0.5, 0.71), [*ATS, *of_two])
    return tmp_path


def test_what_is_done_is_skipped_and_the_table_stands_beside_what_is_published(done, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(reproduce.distill, "several", lambda *given: started.append(given))
    arguments = ["resnet56-resnet20", "--methods", "kd", "ctkd", "--also", "ats", "--seeds", "0", "1"]
    more = ["--teachers", str(done), "--output", str(done), "--data-dir", "images", "--", "--epochs", "2"]
    assert reproduce.main([*arguments, "--at-once", "2", *more]) == 0
    teacher = ["--teacher", str(done / "cifar100_resnet56.pth"), "--data-dir", "images", "--epochs", "2"]
    always = ["--resume", "--quiet"]
    ctkd, ats = ({seed: done / method / "resnet56-resnet20" / f"seed{seed}" for seed in (0, 1)} for method in METHODS)
    both = ["--recipe", "ctkd/resnet56-resnet20", *teacher, *always], ctkd, 2
    as_the_others = ["--recipe", "repdistiller", "--data", "cifar100"]
    second = ["--method", "ats", "--student", "resnet20", *as_the_others, *teacher, *always], {1: ats[1]}, 2
    assert started == [both, second]
    started.clear()
    assert reproduce.main([*arguments, *more]) == 0
    assert started == [(both[0], {0: ctkd[0]}, 1), (both[0], {1: ctkd[1]}, 1), (*second[:2], 1)]
    with (done / "table.csv").open() as file:
        kd, ctkd, ats = csv.DictReader(file)
    assert (kd["published"], kd["last"], kd["last deviation"], kd["best"]) == ("70.66", "71.0", "1.41", "75.0")
    assert (kd["difference"], kd["seeds"], kd["epochs"], kd["as published"]) == ("0.34", "2", "2", "yes")
    assert (ctkd["published"], ctkd["last"], ctkd["seeds"]) == ("71.19", "", "0")
    assert (ats["published"], ats["last"], ats["as published"]) == ("", "71.0", "no")
    page = (done / "table.md").read_text()
    assert "| KD | resnet56-resnet20 | 70.66 (last) | 71.00 ± 1.41 | 75.00 ± 0.00 | +0.34 | 2 | 2 |" in page
    told = capsys.readouterr().out
    assert page in told
    alone = result_table.PublishedVsOurs(result_table.Row("ats", "resnet56", "resnet20"), ())
    assert "published" not in result_table.markdown([alone], "nothing yet")
    assert f"{done / 'kd/resnet56-resnet20/seed1'} is done" in told
    assert f"{done / 'ctkd/resnet56-resnet20/seed1'} …" in told
    assert (done / "table.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("error", [FloatingPointError("loss term 'kd' is not finite"), SystemExit(2)])
def test_a_run_that_fails_leaves_the_others_going(done, monkeypatch, capsys, error):
    started = []

    def fails(arguments, folders, at_once):
        started.extend(folders)
        raise error

    monkeypatch.setattr(reproduce.distill, "several", fails)
    arguments = ["resnet56-resnet20", "--methods", "kd", "--also", "ats", "--seeds", "1", "2"]
    assert reproduce.main([*arguments, "--teachers", str(done), "--output", str(done), "--", "--epochs", "2"]) == 1
    assert started == [2, 1, 2]
    told = capsys.readouterr()
    assert told.err.count("FloatingPointError: loss term") == (0 if isinstance(error, SystemExit) else 3)
    assert f"{done / 'kd/resnet56-resnet20/seed2'}, {done / 'ats/resnet56-resnet20/seed1'}" in told.err
    assert "| KD |" in told.out


@pytest.mark.parametrize("limits", [["--limit-examples", "64"], ["--config", "CONFIG"]])
def test_a_first_try_is_no_result(tmp_path, monkeypatch, capsys, limits):
    started = []
    monkeypatch.setattr(reproduce.distill, "several", lambda *given: started.append(given))
    (tmp_path / "cifar100_resnet56.pth").touch()
    (tmp_path / "limits.yaml").write_text("limit_examples: 64\n")
    limits = [str(tmp_path / "limits.yaml") if one == "CONFIG" else one for one in limits]
    of_some = [*KD, "--teacher", str(tmp_path / "cifar100_resnet56.pth"), "--limit-examples", "64"]
    finished(tmp_path / "out" / "kd" / PAIR / "seed0", (0.5,), of_some)
    arguments = ["kd/resnet56-resnet20", "--teachers", str(tmp_path), "--output", str(tmp_path / "out")]
    assert reproduce.main([*arguments, "--", *limits]) == 0
    assert "seed0 is done" in capsys.readouterr().out
    assert not started
    assert reproduce.main(arguments) == 0
    assert "nothing is done yet" in capsys.readouterr().out
    assert len(started) == 1


OTHERS = {
    "mixed images": ["--epochs", "2", "--mixup", "0.8"],
    "another length": ["--epochs", "3"],
    "another weight": ["--epochs", "2", "--weight", "kd=0.5"],
}


@pytest.mark.parametrize("changed", [*OTHERS, "another teacher"])
def test_a_run_with_other_settings_is_not_done(done, monkeypatch, capsys, changed):
    started = []
    monkeypatch.setattr(reproduce.distill, "several", lambda *given: started.append(given))
    if changed == "another teacher":
        (done / "cifar100_resnet56.pth").write_text("another")
    arguments = [f"kd/{PAIR}", "--teachers", str(done), "--output", str(done), "--seeds", "0", "0"]
    assert reproduce.main([*arguments, "--", *OTHERS.get(changed, ["--epochs", "2"])]) == 0
    assert [folders for _, folders, _ in started] == [{0: done / "kd" / PAIR / "seed0"}]
    assert "nothing is done yet" in capsys.readouterr().out


@pytest.mark.slow
def test_the_smoke_run(tmp_path, capsys):
    arguments = ["resnet56-resnet20", "--smoke", "--methods", "ce", "kd", "mlkd", "--output", str(tmp_path / "out")]
    assert reproduce.main(arguments) == 0
    with (tmp_path / "out" / "table.csv").open() as file:
        assert all(float(row["last"]) > 50 for row in csv.DictReader(file))
    capsys.readouterr()
    assert reproduce.main(arguments) == 0
    assert capsys.readouterr().out.count(" is done\n") == 3
