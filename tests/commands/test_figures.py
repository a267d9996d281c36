"""The figures' command, run as a user runs it, on small networks and written records."""

import csv
import json
import pathlib
import re
import sys

import numpy as np
import pytest
from image_tree import image_tree
from sweeps import sweep
from tiny import digits

from jaxkd import History, analysis, convert, models, plots, records
from jaxkd.commands import figures
from jaxkd.commands.figuring import smoke, temperature_sweep
from jaxkd.records import RunDirectory

ROOT = pathlib.Path(__file__).parents[2]
OF_STUDENTS = ("logits", "correlation", "agreement", "wrong")
OF_NETWORKS = (*OF_STUDENTS, "fig7", "fig13", "tsne", "reliability", "gain")
ALL = (*OF_NETWORKS, "fig10", "temperature", "sweep", "authors")
IMAGES = 48


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A teacher and two students that learned nothing, as converted networks."""
    folder = tmp_path_factory.mktemp("networks")
    for seed, name in enumerate(("teacher", "alone", "kd")):
        convert.save(models.create("resnet8", num_classes=10, seed=seed), folder / name)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Records of KD at two temperatures with two seeds each, and of CTKD with two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        for temperature in (2.0, 8.0):
            accuracies = [0.5, 0.6 + 0.01 * temperature + 0.02 * seed]
            method = {"name": "kd", "settings": {"temperature": temperature}}
            write(folder / f"kd-{temperature}-{seed}", method, seed, {"val_accuracy": accuracies})
        learned = {"kd_temperature": [15.0 - seed, 8.0 + 2 * seed], "val_accuracy": [0.5, 0.7]}
        write(folder / f"ctkd-{seed}", {"name": "ctkd", "settings": {"t_start": 1.0}}, seed, learned)
    return folder


def write(path, method, seed, quantities, teacher="resnet56"):
    """A run directory as training leaves it, but for the network."""
    directory = RunDirectory(path)
    settings = {"method": method, "seed": seed, "student": "resnet20", "teacher": {"name": teacher}, "data": "digits"}
    directory.start(settings, arguments={})
    logger = directory.callbacks()[0]
    logger.on_train_begin()
    for epoch, values in enumerate(zip(*quantities.values(), strict=True)):
        logger.on_epoch_end(epoch, dict(zip(quantities, values, strict=True)))


def named(name, saved):
    """The arguments with which a figure shows the saved networks."""
    teacher, alone, kd = (str(saved / which) for which in ("teacher", "alone", "kd"))
    students = [f"alone={alone}", f"KD={kd}"]
    of_teacher = {key: ["--teacher", f"teacher={teacher}", *students] for key in OF_STUDENTS}
    chosen = {"gain": ["--alone", f"alone={alone}", f"KD={kd}"], **of_teacher}
    return [*chosen.get(name, [f"teacher={teacher}", *students]), "--data", "digits", "--images", str(IMAGES)]


def recorded(name, saved, runs):
    """The arguments with which any figure shows something."""
    others = {
        "fig10": [str(ROOT / "experiments/results/ats_grid")],
        "temperature": [str(runs)],
        "sweep": [str(runs)],
        "authors": [str(ROOT / "experiments/results/cpu/four-epochs")],
    }
    return others.get(name) or named(name, saved)


def strict(path):
    """JSON that every reader takes: no NaN."""

    def refuse(constant):
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


def run(name, arguments, output):
    """The record that a figure writes."""
    assert figures.main([name, *arguments, "--output", str(output)]) == 0
    return strict(output / f"{name}.json")


def logits(saved, name):
    return analysis.predict(convert.load(saved / name), digits()[1].subset(IMAGES))


@sweep("name", ALL, core=["logits", "fig10"])
def test_every_figure_is_a_picture_and_data_that_draws_it_again(name, saved, runs, tmp_path, monkeypatch):
    drawn, save = [], plots.save

    def keeping(made, path):
        drawn.append(made)
        save(made, path)

    for module in [module for key, module in sys.modules.items() if key.startswith("jaxkd.plots")]:
        if hasattr(module, "save"):
            monkeypatch.setattr(module, "save", keeping)
    record = run(name, recorded(name, saved, runs), tmp_path)
    assert record["figure"] == name
    assert {"versions", "device", "command"} <= record.keys()
    before = (tmp_path / f"{name}.png").read_bytes()
    assert before.startswith(b"\x89PNG")
    data = tmp_path / f"{name}.json"
    assert figures.main([name, "--redraw", str(data), "--output", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / f"{name}.png").read_bytes() == before
    assert [entry.name for entry in (tmp_path / "again").iterdir()] == [f"{name}.png"]
    assert_legible(drawn[0])


def assert_legible(figure):
    """All axes are named, and nothing is cut off."""
    assert figure.axes
    outer = figure.bbox
    for axes in figure.axes:
        assert axes.get_ylabel() or axes.get_xlabel()
        inner = axes.get_tightbbox()
        assert outer.x0 <= inner.x0 <= inner.x1 <= outer.x1
        assert outer.y0 <= inner.y0 <= inner.y1 <= outer.y1


def test_teachers_statistics_are_the_analysis_own_and_the_trend_is_said(saved, tmp_path, capsys):
    larger = tmp_path / "larger"
    convert.save(models.create("resnet14", num_classes=10, seed=5), larger)
    arguments = [f"large={larger}", f"small={saved / 'teacher'}", "--data", "digits", "--images", str(IMAGES)]
    record = run("fig7", [*arguments, "--temperatures", "1", "4", "--asymmetry", "2", "1"], tmp_path)
    assert [facts["label"] for facts in record["networks"]] == ["small", "large"]  # whatever order they were named in
    assert [(curve["label"], curve["scaling"]) for curve in record["curves"]] == [
        ("small", "plain"),
        ("large", "plain"),
        ("large", "asymmetric"),
    ]
    shown = digits()[1].subset(IMAGES)
    own = analysis.predict(convert.load(larger), shown)
    expected = analysis.derived_statistics(own, shown.labels, 8.0, 4.0)
    asymmetric = record["curves"][2]
    assert asymmetric["average"][1] == pytest.approx(expected.average.mean(), rel=1e-4)
    assert asymmetric["deviation"][1] == pytest.approx(expected.deviation.mean(), rel=1e-4)
    small, large = (np.array(curve["deviation"]) for curve in record["curves"][:2])
    said = f"σ(q) of large, the largest, is smaller than that of small, the smallest, at {(large < small).sum()} of 2"
    assert said in capsys.readouterr().out


def test_the_accuracies_of_networks_are_their_own(saved, tmp_path, capsys):
    record = run("reliability", [*named("reliability", saved), "--bins", "5"], tmp_path)
    printed = capsys.readouterr().out
    labels = digits()[1].labels[:IMAGES]
    for name, facts, diagram in zip(("teacher", "alone", "kd"), record["networks"], record["diagrams"], strict=True):
        own = logits(saved, name)
        assert facts["accuracy"] == pytest.approx((own.argmax(1) == labels).mean(), abs=1e-6)
        assert (facts["network"], len(facts["sha256"])) == ("resnet8", 64)
        ece = analysis.reliability(own, labels, 5).ece
        assert diagram["ece"] == pytest.approx(ece, rel=1e-4)
        assert f"ECE {ece:.2%} with 5 bins" in printed


def test_students_are_compared_with_their_teacher(saved, tmp_path):
    teacher, alone, kd = (logits(saved, name) for name in ("teacher", "alone", "kd"))
    labels = digits()[1].labels[:IMAGES]
    found = run("agreement", named("agreement", saved), tmp_path)["students"][1]
    assert found["same_answer"] == pytest.approx(analysis.agreement(teacher, kd, labels).same_answer, abs=1e-6)
    found = run("wrong", named("wrong", saved), tmp_path)["students"][1]
    expected = analysis.wrong_classes(teacher, kd, labels)
    assert found["overlap"] == pytest.approx(expected.overlap, rel=1e-4)
    assert found["rank_correlation"][50] == pytest.approx(np.median(expected.rank_correlation), abs=1e-3)
    found = run("gain", named("gain", saved), tmp_path)["students"][0]["gain"]
    np.testing.assert_allclose(np.array(found, float), analysis.class_gain(kd, alone, labels), rtol=1e-4)
    found = run("logits", [*named("logits", saved), "--points", "5"], tmp_path)["students"][1]
    apart = np.abs(analysis.logit_statistics(kd).mean - analysis.logit_statistics(teacher).mean).mean()
    assert found["apart"]["mean"] == pytest.approx(apart, rel=1e-4)
    assert len(found["drawn"]["mean"]) == 5


def test_relations_of_classes_by_either_matrix(saved, tmp_path):
    teacher, kd = logits(saved, "teacher"), logits(saved, "kd")
    found = run("correlation", named("correlation", saved), tmp_path)
    _, mean = analysis.difference(analysis.logit_correlation(teacher), analysis.logit_correlation(kd))
    assert found["students"][1]["mean"] == pytest.approx(mean, rel=1e-4)
    found = run("correlation", [*named("correlation", saved), "--matrix", "profiles"], tmp_path)
    labels = digits()[1].labels[:IMAGES]
    profiles = (analysis.class_profiles(values, labels) for values in (teacher, kd))
    assert found["students"][1]["mean"] == pytest.approx(analysis.difference(*profiles)[1], rel=1e-4)


def test_the_plane_shows_the_classes_asked_for(saved, tmp_path):
    record = run("tsne", [*named("tsne", saved), "--classes", "3", "--perplexity", "4"], tmp_path)
    labels = digits()[1].labels[:IMAGES]
    assert record["labels"] == labels[labels < 3].tolist()
    assert record["class_names"] == ["0", "1", "2"]
    assert np.shape(record["networks"][0]["points"]) == ((labels < 3).sum(), 2)


def test_the_grid_says_what_two_temperatures_gain_over_one(tmp_path, capsys):
    folder = ROOT / "experiments/results/ats_grid"
    record = run("fig10", [str(folder)], tmp_path)
    result = json.loads((folder / "result.json").read_text())
    np.testing.assert_allclose(np.array(record["grids"][0]["accuracy"]), result["val_accuracy"], rtol=1e-5)
    accuracy = np.array(result["val_accuracy"])
    printed = capsys.readouterr().out
    assert (
        f"best {accuracy.max():.2%} at τ₁ = {result['best']['correct']:g}, τ₂ = {result['best']['wrong']:g}" in printed
    )
    assert f"with τ₁ = τ₂ best {np.diag(accuracy).max():.2%}" in printed


def test_learned_temperatures_are_a_curve_per_configuration(runs, tmp_path, capsys):
    record = run("temperature", [str(runs)], tmp_path)
    (curve,) = record["curves"]
    assert (curve["label"], record["epochs"]) == ("CTKD, resnet56 → resnet20", [2])
    assert curve["temperatures"] == [[15.0, 8.0], [14.0, 10.0]]
    assert curve["epochs"] == [[1, 2], [1, 2]]
    assert "14.00 to 15.00 after the first epoch, 8.00 to 10.00 after epoch 2" in capsys.readouterr().out


def test_fixed_temperatures_beside_the_learned_one(runs, tmp_path, capsys):
    record = run("sweep", [str(runs)], tmp_path)
    (fixed,) = record["fixed"]
    assert fixed == {"method": "KD", "temperatures": [2.0, 8.0], "accuracy": [[0.62, 0.64], [0.68, 0.7]]}
    assert record["learned"][0]["accuracy"] == [0.7, 0.7]
    assert "63.00 at 2, 69.00 at 8 %; runs of each: 2" in capsys.readouterr().out


def test_a_table_of_a_sweep_has_fixed_temperatures_too(tmp_path, capsys):
    table = tmp_path / "temperatures.csv"
    table.write_text("temperature,seed,epoch,val_accuracy\n2,0,1,0.5\n2,1,1,0.6\n4,0,1,0.7\n")
    record = run("sweep", [str(table)], tmp_path)
    assert "runs of each: 1 to 2" in capsys.readouterr().out
    accuracies = [[0.5, 0.6], [0.7]]
    assert record["fixed"] == [{"method": "temperatures.csv", "temperatures": [2.0, 4.0], "accuracy": accuracies}]
    assert record["learned"] == []


def compared(folder, method, accuracies, seeds=(0,), **others):
    """Writes unfinished runs of a method on CIFAR-100 with these test accuracies."""
    for seed in seeds:
        values = {"val_accuracy": [value + 0.02 * seed for value in accuracies], **others}
        write(folder / f"{method['name']}-{seed}", method, seed, values)
    return folder


def test_runs_over_their_authors_logs(tmp_path, capsys):
    kd = {"name": "kd+std", "settings": {"temperature": 2.0}}
    folder = compared(tmp_path / "runs", kd, [0.1, 0.2], (0, 1), loss=[8.0, 6.0], accuracy=[0.1, 0.2])
    record = run("authors", [str(folder)], tmp_path)
    (row,) = record["comparisons"]
    assert (row["label"], row["seeds"], row["unlike"]) == ("standardised KD, resnet56 → resnet20", [0, 1], [])
    assert [seed["history"]["val_accuracy"] for seed in row["ours"]] == [[0.1, 0.2], [0.12, 0.22]]
    assert row["theirs"]["file"] == "KD-kd_resnet56_resnet20_2_9.csv"
    assert row["theirs"]["history"]["val_accuracy"] == [0.172, 0.2791, 0.3492]  # one epoch more than ours
    assert row["common"]["val_accuracy"] == {"epochs": [1, 2], "ours": [0.11, 0.21], "theirs": [0.172, 0.2791]}
    assert row["common"]["loss"]["theirs"] == [6.84, 4.99]
    assert "kd_temperature" not in row["common"]
    # 110 → 20 and vgg13 → vgg8 had other temperatures and weights: their losses are no measure for this one.
    assert {name: band["pairs"] for name, band in row["band"].items()} == {"loss": 4, "accuracy": 6, "val_accuracy": 6}
    for low, high in zip(row["band"]["loss"]["low"], row["band"]["loss"]["high"], strict=True):
        assert low < high
    assert row["window"] == {"epochs": [21, 30], "ours": None, "theirs": pytest.approx(0.53, abs=0.1)}
    printed = capsys.readouterr().out
    assert "ours less theirs of KD-kd_resnet56_resnet20_2_9.csv" in printed
    assert re.search(r"^ +1 +\+1\.16 +\+0\.74 +-6\.20$", printed, re.MULTILINE)
    assert "mean test accuracy of epochs 21 to 30: ours did not get there" in printed
    with (tmp_path / "authors.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["epoch"], first["seeds"], first["log"]) == ("1", "2", "KD-kd_resnet56_resnet20_2_9.csv")
    assert [float(first[f"test accuracy (%) {part}"]) for part in ("ours", "theirs", "difference")] == [11, 17.2, -6.2]
    assert float(second["training loss difference"]) == pytest.approx(6.0 - 4.99)
    assert second["temperature ours"] == ""


def test_the_mean_over_late_epochs_is_compared_where_both_reached_them(tmp_path, capsys):
    folder = compared(
        tmp_path / "runs", {"name": "ctkd+std"}, np.linspace(0.1, 0.4, 31).tolist(), kd_temperature=[2.5] * 31
    )
    record = run("authors", [str(folder), "--epochs", "3"], tmp_path)
    (row,) = record["comparisons"]
    assert [len(found["epoch"]) for found in (*row["ours"], row["theirs"])] == [3, 3]  # drawn; the table has them all
    assert row["common"]["kd_temperature"]["epochs"] == list(range(1, 32))
    assert row["common"]["kd_temperature"]["theirs"][:2] == [28.3871, 18.2759]
    assert "accuracy" not in row["common"]  # which they did not log for CTKD
    ours = np.linspace(0.1, 0.4, 31)[20:30].mean()
    logged = records.read_log(ROOT / "experiments/results/authors/CTKD-ctkd_resnet56_resnet20_2_9.csv")
    theirs = np.mean(logged.history.history["val_accuracy"][20:30])
    assert row["window"] == {"epochs": [21, 30], "ours": pytest.approx(ours), "theirs": pytest.approx(theirs, rel=1e-5)}
    said = f"epochs 21 to 30: {100 * ours:.2f}, theirs {100 * theirs:.2f} % ({100 * (ours - theirs):+.2f})"
    assert said in capsys.readouterr().out


def test_a_run_of_other_settings_than_its_recipe_says_so(tmp_path, capsys):
    record = run("authors", [str(ROOT / "experiments/results/cpu/four-epochs")], tmp_path)
    rows = {row["method"]: row for row in record["comparisons"]}
    assert rows["ctkd+std"]["unlike"] == ["t start 1", "t end 20"]
    assert rows["kd+std"]["unlike"] == []
    assert "dkd" not in rows
    printed = capsys.readouterr().out
    assert "ours was not trained as the recipe is now: t start 1, t end 20" in printed
    assert "DKD, resnet56 → resnet20: no log of theirs" in printed
    assert "resnet20 alone: no log of theirs" in printed


def test_another_pair_of_theirs_and_other_logs(tmp_path, capsys):
    folder = compared(tmp_path / "runs", {"name": "kd+std"}, [0.1])
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "KD-kd_resnet110_resnet32_2_9.csv").write_text("epoch,test_acc\n1,5\n")
    record = run("authors", [str(folder), "--logs", str(logs), "--pair", "resnet110-resnet32"], tmp_path)
    (row,) = record["comparisons"]
    assert (row["theirs"]["pair"], row["band"], row["data"]) == ("resnet110-resnet32", {}, "digits")
    printed = capsys.readouterr().out
    assert "theirs resnet110 → resnet32 on cifar100" in printed
    assert "ours saw digits and theirs cifar100: the form of a comparison, and none" in printed


def test_a_title_says_which_data_and_how_long(tmp_path):
    from jaxkd.commands.figuring import learned_temperature

    learned = {"kd_temperature": [15.0, 14.0, 13.0], "val_accuracy": [0.5, 0.6, 0.7]}
    write(tmp_path / "a", {"name": "ctkd"}, 0, learned)
    write(tmp_path / "b", {"name": "ctkd"}, 1, {name: values[:1] for name, values in learned.items()})  # not finished
    record = run("temperature", [str(tmp_path / "a"), str(tmp_path / "b")], tmp_path)
    assert (record["data"], record["epochs"]) == (["digits"], [1, 3])
    assert learned_temperature.in_words(record) == "digits, 1 to 3 epochs"


@pytest.mark.parametrize(("suffix", "beginning"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_pictures_for_papers(runs, tmp_path, suffix, beginning):
    run("temperature", [str(runs), "--format", suffix], tmp_path)
    assert (tmp_path / f"temperature.{suffix}").read_bytes().startswith(beginning)


def test_small_networks_are_asked_for_once_in_words_that_the_commands_take(tmp_path, monkeypatch, capsys):
    asked = []

    def instead_of(command):
        def main(arguments):
            options = command.command_line().parse_args(arguments)
            assert (options.data, options.epochs, options.quiet) == ("digits", smoke.EPOCHS, True)
            asked.append(options.output.name)
            options.output.mkdir(parents=True)
            (options.output / "result.json").write_text("{}")
            return 0

        return main

    for command in (smoke.train, smoke.distill, smoke.sweep):
        monkeypatch.setattr(command, "main", instead_of(command))
    parser = figures.command_line()
    for name, figure in figures.FIGURES.items():
        options = parser.parse_args([name, *figure.smoke(tmp_path)])
        paths = getattr(options, "networks", None) or getattr(options, "runs", None) or options.grids
        for path in paths:
            assert (pathlib.Path(str(path).split("=")[-1]) / "result.json").exists()
    assert len(asked) == len(set(asked))
    assert {"resnet14", "resnet8", "wrn_10_1", "grid", "ce", "kd", "kd-temperature-8", "ctkd+std"} <= set(asked)
    assert "training kd+std on digits" in capsys.readouterr().out


@pytest.mark.slow
def test_every_figure_shows_small_networks(tmp_path, capsys):
    for name in ALL:
        assert run(name, ["--smoke"], tmp_path)["figure"] == name
    assert len(list(tmp_path.glob("*.png"))) == len(ALL)
    assert "training kd on digits" in capsys.readouterr().out
    run("agreement", ["--smoke"], tmp_path)
    assert "training" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ALL)
def test_help_says_what_a_figure_shows(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        figures.main([name, "--help"])
    figure = figures.FIGURES[name]
    first = figure.about.splitlines()[1]
    assert first in capsys.readouterr().out


def test_the_commands_own_help_names_all_figures(capsys):
    with pytest.raises(SystemExit, match="0"):
        figures.main(["--help"])
    printed = capsys.readouterr().out
    assert "jaxkd figures fig7" in printed
    for name in ALL:
        assert re.search(rf"^    {name}\b", printed, re.MULTILINE)
    assert set(ALL) == set(figures.FIGURES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fig7 {alone} --data digits", "TEACHER: 2 needed, 1 given"),
        ("logits {kd} --data digits", "--teacher: 1 needed, 0 given"),
        ("wrong --teacher {kd} --data digits", "STUDENT: 1 needed, 0 given"),
        ("gain {kd} --data digits", "--alone: 1 needed, 0 given"),
        ("tsne --data digits", "look at small ones by --smoke"),
        ("reliability {kd} {alone} --data digits", "two networks are called 'resnet8': name them apart"),
        ("reliability nowhere.pth", "nowhere.pth: there is no such file or folder"),
        ("reliability {kd} --data digits --images 9999", "subset(9999)"),
        ("reliability {kd} --data digits --bins 0", "--bins 0"),
        ("logits --teacher {kd} {alone} --data digits --points 0", "--points 0"),
        ("tsne {kd} --data digits --classes 1", "--classes 1"),
        ("fig7 a={kd} b={alone} --data digits --temperatures 0", "temperature 0: it must be above 0"),
        ("fig7 a={kd} b={alone} --data digits --asymmetry 1 -1", "temperature -1: it must be above 0"),
        ("fig10", "no GRID"),
        ("fig10 {runs}", "holds no sweep"),
        ("temperature", "no RUN with a test accuracy"),
        ("temperature {runs}/kd-2.0-0", "none of these runs learned a temperature"),
        ("sweep {runs}/ctkd-0", "none of these runs are of one method at several fixed temperatures"),
        ("sweep {runs}/ctkd-0 {runs}/kd-2.0-0", "name some of --method kd, each with a --temperature of its own"),
        ("sweep nowhere", "nowhere does not exist"),
        ("authors", "no RUN with a test accuracy"),
        ("authors {runs}/kd-2.0-0", "has no log for KD, resnet56 → resnet20: it has ctkd+std resnet110-resnet20"),
        ("authors {runs}/ctkd-0 --logs nowhere", "nowhere holds no logs of the authors"),
        ("authors {runs}/ctkd-0 --epochs 0", "--epochs 0: at least one is needed"),
    ],
)
def test_what_cannot_be_shown_is_said_before_any_work(saved, runs, tmp_path, capsys, arguments, message):
    places = {"kd": saved / "kd", "alone": saved / "alone", "runs": runs}
    with pytest.raises(SystemExit, match="2"):
        figures.main([*arguments.format(**places).split(), "--output", str(tmp_path / "out")])
    output = capsys.readouterr()
    assert message in " ".join(output.err.split())
    assert "images" not in output.out
    assert not (tmp_path / "out").exists()


def test_networks_must_know_the_classes_of_the_images(saved, tmp_path, capsys):
    from jaxkd.commands.figuring import networks

    other = tmp_path / "seven"
    convert.save(models.create("resnet8", num_classes=7), other)
    found = networks.load([str(other)], 1, "NETWORK")
    options = figures.command_line().parse_args(["reliability", "--data", "digits"])
    with pytest.raises(ValueError, match="has 7 classes, but digits has 10"):
        networks.images(options, found)


@pytest.mark.parametrize(
    ("accuracies", "teacher", "message"),
    [
        ([0.5, 0.6], "resnet110", "of 2 pairs (resnet56 → resnet20; resnet110 → resnet20)"),
        ([0.5], "resnet56", "of 2 lengths (to epoch 2; to epoch 1)"),
    ],
)
def test_a_sweep_is_of_one_pair_and_one_length(runs, tmp_path, capsys, accuracies, teacher, message):
    other = {"name": "kd", "settings": {"temperature": 2.0}}
    write(tmp_path / "other", other, 0, {"val_accuracy": accuracies}, teacher)
    with pytest.raises(SystemExit, match="2"):
        figures.main(["sweep", str(runs), str(tmp_path / "other")])
    assert message in " ".join(capsys.readouterr().err.split())


def test_runs_at_one_temperature_differ_in_their_seeds_alone(tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("temperature,kd_weight,epoch,val_accuracy\n2,0.5,1,0.2\n2,0.9,1,0.8\n4,0.5,1,0.3\n4,0.9,1,0.7\n")
    with pytest.raises(SystemExit, match="2"):
        figures.main(["sweep", str(table)])
    said = " ".join(capsys.readouterr().err.split())
    assert "the runs of t.csv at temperature 2 differ in kd_weight (0.5; 0.9): name those of one" in said


def test_the_data_of_one_figure_is_not_drawn_as_another(runs, tmp_path, capsys):
    run("temperature", [str(runs)], tmp_path)
    with pytest.raises(SystemExit, match="2"):
        figures.main(["sweep", "--redraw", str(tmp_path / "temperature.json")])
    assert "holds the data of 'temperature', not of 'sweep'" in " ".join(capsys.readouterr().err.split())


def test_a_run_that_diverged_ends_its_curve(tmp_path, capsys):
    table = tmp_path / "t.csv"
    head = "t_end,seed,epoch,val_accuracy,kd_temperature\n"
    table.write_text(f"{head}20,0,1,0.5,15.2\n20,0,2,0.6,14.1\n20,1,1,0.5,15.0\n20,1,2,0.1,nan\n40,0,1,0.1,nan\n")
    record = run("temperature", [str(table)], tmp_path)
    assert [curve["epochs"] for curve in record["curves"]] == [[[1, 2], [1]]]
    assert "temperature 15.00 to 15.20 after the first epoch, 14.10 to 15.00 after epoch 1 to 2" in (
        " ".join(capsys.readouterr().out.split())
    )


def test_curves_of_several_learned_temperatures_keep_their_names():
    assert temperature_sweep._short("CTKD, t end 20, resnet56 → resnet20") == "CTKD, t end 20"
    assert temperature_sweep._short("CTKD, resnet56 → resnet20") == "CTKD"


def test_a_grid_of_temperatures_may_have_its_settings_in_either_order(tmp_path):
    table = tmp_path / "grid.csv"
    table.write_text("wrong,correct,epoch,val_accuracy\n1,1,1,0.1\n2,1,1,0.2\n1,4,1,0.3\n2,4,1,0.4\n")
    (found,) = run("fig10", [str(table)], tmp_path)["grids"]
    assert (found["correct"], found["wrong"], found["accuracy"]) == ([1, 4], [1, 2], [[0.1, 0.2], [0.3, 0.4]])


def test_a_sweep_of_something_else_is_no_grid(tmp_path, capsys):
    table = tmp_path / "grid.csv"
    table.write_text("alpha,beta,epoch,val_accuracy\n1,1,1,0.5\n2,1,1,0.5\n1,2,1,0.5\n2,2,1,0.5\n")
    with pytest.raises(SystemExit, match="2"):
        figures.main(["fig10", str(table)])
    assert "a sweep of alpha and beta, not a grid of ATS's two temperatures" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_sweep_that_was_not_evaluated_is_no_grid(tmp_path, capsys):
    table = tmp_path / "grid.csv"
    table.write_text("correct,wrong,epoch,loss\n1,1,1,0.5\n2,1,1,0.5\n1,2,1,0.5\n2,2,1,0.5\n")
    with pytest.raises(SystemExit, match="2"):
        figures.main(["fig10", str(table)])
    assert "grid.csv has no test accuracy of every run: sweep with validation_data" in capsys.readouterr().err


def test_a_grid_may_lack_cells_and_seeds(tmp_path, capsys):
    table = tmp_path / "grid.csv"
    cells = [(1, 2, 0.3), (1, 2, 0.5), (2, 1, 0.6), (2, 2, 0.7)]
    rows = [f"{correct},{wrong},{seed},1,{value}" for seed, (correct, wrong, value) in enumerate(cells)]
    table.write_text("\n".join(["correct,wrong,seed,epoch,val_accuracy", *rows, ""]))
    run("fig10", [str(table)], tmp_path)
    said = capsys.readouterr().out
    assert "with τ₁ = τ₂ best 70.00% at 2; seeds per cell: 1 to 2" in said


def test_a_folder_may_have_an_equals_sign_in_its_name(tmp_path):
    from jaxkd.commands.figuring import networks

    convert.save(models.create("resnet8", num_classes=10), tmp_path / "T=4")
    whole, labelled = networks.load([str(tmp_path / "T=4"), f"four={tmp_path / 'T=4'}"], 2, "NETWORK")
    assert (whole.label, labelled.label) == ("resnet8", "four")


def test_a_file_of_weights_says_which_network_it_holds(tmp_path):
    from jaxkd.commands.figuring import networks

    convert.to_torch(models.create("resnet8", num_classes=10), tmp_path / "weights.pth")
    (found,) = networks.load([f"resnet8={tmp_path / 'weights.pth'}"], 1, "NETWORK")
    assert (found.label, found.model.name) == ("resnet8", "resnet8")
    (found,) = networks.load([str(tmp_path / "weights.pth")], 1, "NETWORK")
    assert found.label == "resnet8"


def test_runs_are_called_by_their_methods_and_networks_stay_apart(tmp_path):
    from jaxkd.commands.figuring import networks

    methods = {"ce": {"name": "ce"}, "kd": {"name": "kd"}, "teacher": None}
    for seed, (name, method) in enumerate(methods.items()):
        write(tmp_path / name, method, 0, {"val_accuracy": [0.5]})
        which = "model" if method is None else "student"
        convert.save(models.create("resnet8", num_classes=10, seed=seed), tmp_path / name / which)
    found = networks.load([str(tmp_path / name) for name in methods], 3, "NETWORK")
    assert [network.label for network in found] == ["resnet20 alone", "KD", "resnet20"]  # as the records say
    assert found[2].path == tmp_path / "teacher" / "model"
    for seed, network in enumerate(found):
        own = convert.to_state_dict(models.create("resnet8", num_classes=10, seed=seed))["conv1.weight"]
        np.testing.assert_array_equal(convert.to_state_dict(network.model)["conv1.weight"], own)


def network_of(data, **arguments):
    """A network, as far as its run says what it learned from."""
    from jaxkd.commands.figuring import networks

    record = records.Record(ROOT, "run", {"data": data}, History(), arguments=arguments)
    return networks.Network(record.data, models.create("resnet8", num_classes=2), ROOT, record)


def shown(arguments, *of):
    from jaxkd.commands.figuring import networks

    options = figures.command_line().parse_args(["reliability", *arguments])
    return networks.about(options, found := networks.images(options, of)), found


def test_runs_are_shown_the_images_that_they_learned_from(tmp_path):
    tree = image_tree(tmp_path / "own", classes=2, train=8, val=1).root / "train"
    run = network_of({"name": "folder", "image_size": 48, "validation_split": 0.25}, data_dir=str(tree))
    about, found = shown(["--images", "3"], run)
    assert about == {"data": "folder", "split": "test", "images": 3}
    assert found.image_shape == (48, 48, 3)
    assert shown(["--image-size", "32"], run, run)[1].image_shape == (32, 32, 3)


def test_a_recorded_folder_counts_only_where_it_is_still_there(tmp_path, monkeypatch):
    from jaxkd.commands import network

    asked = []
    monkeypatch.setattr(network.data, "load", lambda name, **given: asked.append(given["data_dir"]))
    options = figures.command_line().parse_args(["reliability"])
    for folder in (str(tmp_path), str(tmp_path / "gone")):
        for name in ("cifar100", "folder"):
            network.images_of(options, network_of({"name": name}, data_dir=folder).record, "test")
    assert asked == [str(tmp_path), str(tmp_path), None, str(tmp_path / "gone")]  # one's own images are nowhere else


def test_published_images_are_the_same_wherever_they_lie():
    here, there = (network_of({"name": "digits"}, data_dir=place) for place in ("here", "there"))
    here.model.num_classes = there.model.num_classes = 10
    assert shown([], here, there)[0]["data"] == "digits"


@pytest.mark.parametrize(
    ("other", "arguments", "message"),
    [
        ({"name": "svhn"}, {}, "trained on folder and svhn: say by --data which images"),
        ({"name": "folder", "image_size": 96}, {}, "trained with --image-size 96 and none: say by --image-size"),
        ({"name": "folder", "validation_split": 0.2}, {}, "with --validation-split 0.2 and none: say by --validation"),
        ({"name": "folder"}, {"data_dir": "here"}, "trained with --data-dir here and none: say by --data-dir"),
    ],
)
def test_runs_that_saw_different_images_are_not_shown_those_of_one(other, arguments, message):
    with pytest.raises(ValueError, match=message):
        shown([], network_of({"name": "folder"}), network_of(other, **arguments))
