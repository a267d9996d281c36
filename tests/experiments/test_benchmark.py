"""The benchmark: its accounting, its options, and a run of its smallest row."""

import doctest
import json
import os
import pathlib
import sys
import time

import jax
import numpy as np
import pytest
from benchmark_scripts import on_the_path, peer, script, settings_for, work  # noqa: F401

from jaxkd import data, models

PARTS = ("work", "rows", "record", "measures", "contenders", "network_cost")


@pytest.mark.parametrize("name", [f"benchmarks.{part}" for part in PARTS])
def test_examples_run(name):
    assert doctest.testmod(script(name)).failed == 0


# What is counted


def test_a_step_is_a_forward_pass_of_the_teacher_and_three_of_the_student():
    cost = script("benchmarks.network_cost").cost
    step = script("benchmarks.work").passes_of(work("step", teacher="resnet14"))
    macs = {name: models.describe(name).macs for name in ("resnet8", "resnet14")}
    assert cost(step, 8).flops == 2 * (macs["resnet14"] + 3 * macs["resnet8"])
    without = script("benchmarks.work").passes_of(work("step", teacher="resnet14"), teacher=False)
    assert cost(without, 8).flops == 6 * macs["resnet8"]
    assert script("benchmarks.work").passes_of(work("step")) == {"resnet8": 4}
    assert script("benchmarks.work").passes_of(work("evaluation")) == {"resnet8": 1}


def test_weights_are_read_once_a_batch():
    cost = script("benchmarks.network_cost").cost
    one, many = (cost({"resnet8": 1}, size).values for size in (1, 10**9))
    norms = 2 * (16 * 3 + 32 * 3 + 64 * 3)
    assert one - many == pytest.approx(models.describe("resnet8").parameters - norms - 100, abs=1)


def test_fractions_of_a_ceiling_follow_the_precision():
    cost = script("benchmarks.network_cost")
    ceilings = {"matmul": {"float32": 1e12, "bfloat16": 4e12}, "copy": 8e9}
    spent = cost.Cost(flops=1e9, values=1e6)
    assert cost.fractions(spent, "float32", 100, ceilings) == {"matmul": 0.1, "copy": 0.05}
    assert cost.fractions(spent, "bfloat16", 100, ceilings) == {"matmul": 0.025, "copy": 0.025}


def test_each_round_begins_with_another_contender():
    order = []
    contender = script("benchmarks.work").Contender
    ready = {key: contender(lambda key=key: order.append(key) or 1.0, "float32", {}) for key in "xyz"}
    assert script("benchmarks.measures").taking_turns(ready, 2) == {key: [1.0, 1.0] for key in "xyz"}
    assert "".join(order) == "xyzyzx"


def test_starts_are_compared():
    ratios = script("benchmarks.processes").start_ratios
    found = {
        "jaxkd, cold": {"median_seconds": 8.0, "median_first_run": 6.0},
        "jaxkd, warm": {"median_seconds": 2.0, "median_first_run": 1.0},
        "jaxkd, resnet20 alone, cold": {"median_seconds": 1.0, "median_first_run": 4.0},
        "jaxkd, resnet110 alone, cold": {"median_seconds": 1.0, "median_first_run": 5.0},
    }
    assert list(ratios(found, ["resnet20", "resnet110"]).values()) == [0.25, 1.25]
    assert ratios({}, ["resnet20", "resnet110"]) == {}


# Options


def test_sizes_suit_the_device():
    cpu, accelerator, quick = settings_for(), settings_for(accelerated=True), settings_for("--quick")
    assert cpu.rows == ("a-step", "a-epoch", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k")
    assert quick.rows == ("a-step", "a-epoch", "d", "e")
    assert min(cpu.repeats, accelerator.repeats) >= 7
    assert cpu.starts >= 5
    assert accelerator.epoch_images == 50_000 > cpu.epoch_images > quick.epoch_images
    assert "jaxkd-bf16-alone" in accelerator.keys
    assert {"jaxkd-bf16", "jaxkd-bf16-cache", "torch-tuned-bf16"} <= set(cpu.keys)
    assert quick.pair("a")[:3] == ("resnet56", "resnet20", (64,))
    assert cpu.pair("a-step")[:3] == ("resnet56", "resnet20", (64, 128))
    assert cpu.pair("c")[:3] == ("WRN28-8", "VGG8", (128,))
    assert cpu.pair("i") == ("resnet34", "resnet18", (16,), 224, 1000, 0)
    assert cpu.pair("k") == ("resnet56", "deit_tiny_patch16_224", (32, 128), 32, 100, 224)
    assert not quick.compiles
    assert cpu.compiles


def test_what_is_asked_for_wins():
    chosen = settings_for(
        *("--quick", "--rows", "f,b", "--contenders", "torch", "jaxkd", "--repeats", "9", "--steps", "7"),
        *("--teacher", "resnet14", "--batch-size", "16", "32"),
    )
    assert (chosen.rows, chosen.keys, chosen.repeats) == (("b", "f"), ("jaxkd", "torch"), 9)
    assert chosen.pair("b")[:3] == ("resnet14", "wrn_16_2", (16, 32))
    made = script("benchmarks.rows").works("b", chosen, script("benchmarks.rows").images_from(None))
    assert [(one.batch_size, one.images.shape) for one in made] == [(16, (112, 32, 32, 3)), (32, (224, 32, 32, 3))]


def test_other_images_come_with_their_pairs(tmp_path):
    rows = script("benchmarks.rows")
    (imagenet,) = rows.works("i", settings_for("--steps", "1", "--batch-size", "2"), None)
    assert (imagenet.images.shape, imagenet.num_classes) == ((2, 224, 224, 3), 1000)
    (transformer,) = rows.works("k", settings_for("--steps", "1", "--batch-size", "2"), rows.images_from(None))
    assert transformer.images.shape == (2, 32, 32, 3)
    assert transformer.image_shapes == {"resnet56": (32, 32, 3), "deit_tiny_patch16_224": (224, 224, 3)}
    (grid,) = rows.works("j", settings_for("--quick"), None)
    assert (grid.images.shape, grid.num_classes, grid.students) == ((200, 8, 8, 3), 10, 4)
    assert grid.examples == 800
    grid.save(tmp_path / "work.npz")
    loaded = script("benchmarks.work").Work.load(tmp_path / "work.npz")
    assert vars(loaded).keys() == vars(grid).keys()
    assert (loaded.kind, loaded.batch_size, loaded.labels.tolist()) == ("grid", 40, grid.labels.tolist())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "a,x"], "no row is called x"),
        (["--contenders", "tensorflow"], "no contender is called tensorflow"),
        (["--repeats", "0"], "--repeats 0"),
        (["--batch-size", "64", "0"], "--batch-size 0"),
        (["--workers", "-1"], "--workers -1"),
        (["--students", "31"], "--students 31: the grid has 30"),
        (["--rows", "b", "--student", "resnet21", "--steps", "1"], "unknown model 'resnet21'"),
        (["--rows", "d", "--data-dir", "/nowhere"], "'cifar100' was not found"),
    ],
)
def test_bad_options_are_refused(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script("benchmarks.processes"), "device", script("benchmarks.jaxkd_side").device)
    with pytest.raises(SystemExit, match="2"):
        script("benchmark").main([*arguments, "--output", str(tmp_path / "out")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_cifar_does_not_have_more_images_than_it_has(monkeypatch):
    small = data.from_arrays(*script("benchmarks.work").synthetic(4), num_classes=100)
    monkeypatch.setattr(data, "load", lambda *_, **__: small)
    images = script("benchmarks.rows").images_from(pathlib.Path("somewhere"))
    assert images("train", 3)[0].shape == (3, 32, 32, 3)
    with pytest.raises(ValueError, match="5 images were asked for, and CIFAR-100 has 4"):
        images("train", 5)


def test_help_explains(capsys):
    with pytest.raises(SystemExit, match="0"):
        script("benchmark").main(["--help"])
    told = capsys.readouterr().out
    assert "python experiments/benchmark.py --quick" in told
    assert all(key in told for key in script("benchmarks.contenders").TITLES)


# Processes of their own


@pytest.mark.slow
def test_a_process_waits_works_and_tells(tmp_path):
    processes = script("benchmarks.processes")
    work("step", count=16).save(tmp_path / "work.npz")
    with processes.Worker() as worker:
        worker.build("jaxkd-cache", tmp_path / "work.npz", script("benchmarks.contenders").Peers())
        assert worker.run() > 0
        time.sleep(0.5)
        assert worker.run() > 0
        told = worker.tell()
        with pytest.raises(processes.ProcessError, match="KeyError: 'jaxkd-none'"):
            worker.build("jaxkd-none", tmp_path / "work.npz", script("benchmarks.contenders").Peers())
    assert (told["precision"], told["passes"]) == ("float32", {"resnet8": 3.0})
    assert told["cores"] == told["threads"] == script("benchmarks.work").cores()
    assert 1e7 < told["peak"]["host"] < 1e12
    assert told["waited"]["seconds"] > 0.5 > 2 * told["waited"]["cpu_seconds"]
    assert told["facts"]["teacher_cache_hits"] == 1.0
    assert told["facts"]["convolutions"]


@pytest.mark.thorough
def test_what_libraries_print_is_no_answer(tmp_path):
    noisy = ['import os; print("loud"); os.write(1, b"louder\\n"); os.read(0, 1)', '__version__ = "3.0"']
    (tmp_path / "keras.py").write_text("\n".join([*noisy, "class backend:", "    backend = lambda: 'jax'"]))
    work("step", count=8).save(tmp_path / "work.npz")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with script("benchmarks.processes").Worker({**os.environ, "PYTHONPATH": path}) as worker:
        with pytest.raises(script("benchmarks.work").UnavailableError, match=r"keras 3.0 has no keras\.distillation"):
            worker.build("keras", tmp_path / "work.npz", script("benchmarks.contenders").Peers())
        assert worker.ask("device") == script("benchmarks.jaxkd_side").device()


def test_a_failing_process_says_why():
    processes = script("benchmarks.processes")
    assert processes.said([sys.executable, "-c", "print(1); print(2)"]) == "2"
    with pytest.raises(processes.ProcessError, match="no such thing"):
        processes.said([sys.executable, "-c", "raise SystemExit('no such thing')"])
    with processes.Worker({**os.environ, "PYTHONHOME": "/nowhere"}) as worker, pytest.raises(processes.ProcessError):
        worker.ask("device")


# Everything at once


@pytest.mark.slow
def test_the_smallest_row(tmp_path, monkeypatch, capsys):
    peer("benchmarks.torch_side")
    cost = script("benchmarks.network_cost")
    for name in ("SMALL", "LARGE"):
        monkeypatch.setattr(cost, name, cost.Size(64, 4096))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other on a busy machine take minutes
    arguments = ["--rows", "a-step,f", "--teacher", "resnet8", "--student", "resnet8", "--batch-size", "8"]
    arguments += ["--steps", "2", "--repeats", "2", "--contenders", "jaxkd-cache", "torch", "torch-tuned"]
    assert script("benchmark").main([*arguments, "--no-torch-compile", "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert record["device"]["platform"] == jax.default_backend()
    assert {"jax", "torch", "python", "jaxkd"} <= record["versions"].keys()
    assert record["settings"]["repeats"] == 2
    assert set(record["machine"]["features"]) == {"avx512f", "avx512_bf16", "amx"}
    measure, memory = record["measures"]
    assert (measure["row"], measure["batch_size"], measure["images"], measure["skipped"]) == ("a-step", 8, 16, {})
    assert list(measure["contenders"]) == ["jaxkd-cache", "torch", "torch-tuned"]
    for entry in measure["contenders"].values():
        assert len(entry["seconds"]) == 2
        assert entry["images_per_second"] == pytest.approx(16 / np.median(entry["seconds"]))
        assert set(entry["of_ceiling"]) == {"matmul", "copy"}
    own = measure["contenders"]["jaxkd-cache"]
    assert own["facts"]["teacher_cache_hits"] == 1.0
    assert own["flops_an_image"] == 6 * models.describe("resnet8").macs
    ratio = own["images_per_second"] / measure["contenders"]["torch"]["images_per_second"]
    assert measure["ratios"]["jaxkd-cache"]["torch"] == pytest.approx(ratio, abs=1e-3)
    ratio = own["images_per_second"] / measure["contenders"]["torch-tuned"]["images_per_second"]
    assert own["ratio_to_tuned"] == pytest.approx(ratio, abs=1e-3)
    assert {key: entry["host"] for key, entry in memory["peaks"].items()} == {
        key: entry["peak"]["host"] for key, entry in measure["contenders"].items()
    }
    assert "× PyTorch, tuned" in capsys.readouterr().out
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_rows_without_speed_are_told_too():
    table = script("benchmarks.record").table
    start = {"row": "e", "title": "starting up", "starts": {"import jaxkd": {"median_seconds": 1.5}}}
    assert "1.50 s" in table({**start, "ratios": {"warm ÷ cold": 0.25}, "skipped": {"import torch": "missing"}})
    peaks = {"jaxkd": {"title": "jaxkd", "host": 7e8, "device": 3e8}}
    told = table({"row": "f", "title": "peak memory", "peaks": peaks, "skipped": {}})
    assert "700 MB on the host, 300 MB on the device" in told
