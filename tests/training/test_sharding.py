"""Two, four and eight devices end where one does, and batches that cannot be split over them."""

import dataclasses
import re
from unittest import mock

import jax
import pytest
from own_process import furthest, report_of
from tiny import TinyNet, digits, leaves

import jaxkd
from jaxkd import data, losses, optimizers
from jaxkd.training import epochs
from jaxkd.training.compiled_epoch import LookAhead
from jaxkd.training.epochs import resident_epoch
from jaxkd.training.inputs import as_source
from jaxkd.training.sharding import Placement

METHODS = {
    "kd": lambda labels: losses.KD(temperature=4.0),
    "ctkd": lambda labels: losses.KD(temperature=losses.CurriculumTemperature()),
    "crd": lambda labels: losses.CRD(labels, negatives=64, feature_dim=16),
    "sp": lambda labels: losses.SP(),
}
SGD = optimizers.sgd(0.05, momentum=0.9, weight_decay=5e-4)
FULL, LEFT = 128, 134
"""Examples of two batches of 64, and of a third one of 6, which four and eight devices do not divide."""


def images(examples):
    """Digits in views that are drawn."""
    return dataclasses.replace(digits()[0].subset(examples), augmentation=data.Augmentation(pad=2, flip=True))


def trained(methods, count, examples, **compiled):
    train = images(examples)
    terms = {"ce": losses.CrossEntropy()} | {name: METHODS[name](train.labels) for name in methods}
    distiller = jaxkd.Distiller(student=TinyNet(seed=0), teacher=TinyNet(seed=1))
    distiller.compile(SGD, loss=terms, devices=jax.devices()[:count], image_shape=train.images.shape[1:], **compiled)
    distiller.fit(train, batch_size=64, verbose=0)
    return distiller


def compare(methods, counts, examples, **compiled):
    """How far the ends of a run on several devices are from its end on one."""
    alone = trained(methods, 1, examples, **compiled)
    found = {}
    for count in counts:
        together = trained(methods, count, examples, **compiled)
        ours, theirs = (run.history.history for run in (together, alone))
        logs = [name for name in theirs if name != "images_per_second"]
        places = [leaf.sharding for leaf in jax.tree.leaves(together.state)]
        found[count] = {
            "state": furthest(leaves(together.state), leaves(alone.state)),
            "logs": furthest([ours[name] for name in logs], [theirs[name] for name in logs]),
            "steps": int(together.state.step) / -(-examples // 64),
            "devices": sorted({len(place.device_set) for place in places}),
            "equal": all(place.is_fully_replicated for place in places),
        }
    return found


def some_runs():
    report = {
        "all methods": compare(METHODS, (8,), FULL),
        "in parts": compare(["ctkd"], (4,), LEFT, gradient_accumulation_steps=2),
        "sweep": sweeps(),
        "looking ahead": looking_ahead(),
        "rows": {str(size): rows(8, size) for size in (128, 125, 3)},
    }
    distiller = jaxkd.Distiller(student=TinyNet(seed=0), teacher=TinyNet(seed=1))
    distiller.compile(SGD, loss=losses.KD(4.0))
    try:
        distiller.fit(images(FULL), batch_size=30, verbose=0)
    except ValueError as error:
        report["error"] = str(error)
    return report


def looking_ahead():
    """The same of a run whose teacher sees the batches of both steps at once, and what its devices exchange."""
    height, width, _ = images(FULL).image_shape

    def both(program, norm, teacher_norm, place):
        return LookAhead(program, norm, teacher_norm, FULL * height * width)

    distiller = jaxkd.Distiller(student=TinyNet(seed=0), teacher=TinyNet(seed=1))
    distiller.compile(SGD, loss=losses.KD(4.0), image_shape=images(FULL).image_shape)
    source = as_source(images(FULL))
    bound = distiller._bind(source)
    ahead = both(bound.program, bound.normalization, bound.teacher_normalization, bound.placement)
    epoch = resident_epoch(bound.step(), source, bound.placement, 64, None, look_ahead=ahead)
    chunk = next(epoch(distiller.state, 0))
    text = chunk.loop.lower(distiller.state, *chunk.inputs).compile().as_text()
    steps, rows = chunk.inputs[2].shape
    exchanges = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    with mock.patch.object(epochs, "look_ahead_of", both):
        runs = compare(["ctkd"], (8,), FULL)
    return {
        "at once": ahead.steps((steps, rows), source.image_shape, distiller.state.teacher),
        "exchanges": sorted(set(re.findall(rf" ({exchanges})(?:-start)?\(", text))),
        "runs": runs,
    }


def rows(count, batch_size):
    """How many images a device convolves, at most, in one step on a batch over several."""
    distiller = jaxkd.Distiller(student=TinyNet(seed=0), teacher=TinyNet(seed=1))
    train = images(FULL)
    distiller.compile(SGD, loss=losses.KD(4.0), devices=jax.devices()[:count], image_shape=train.image_shape)
    bound = distiller._bind(as_source(train))
    epoch = resident_epoch(bound.step(), as_source(train), bound.placement, batch_size, 1)
    chunk = next(epoch(distiller.state, 0))
    text = chunk.loop.lower(distiller.state, *chunk.inputs).compile().as_text()
    return max(int(found) for found in re.findall(r"= f32\[(\d+),\S+ convolution\(", text))


def all_runs():
    return {
        "mixed": compare(["ctkd"], (4,), LEFT, mixing=data.Mixing(0.8, 1.0), ema=jaxkd.EMA(0.9)),
        "augmented": compare(["kd"], (8,), LEFT, augment=[data.RandomErasing(0.5)]),
    } | {
        f"{name}, {parts} parts": compare([name], (2, 4, 8), LEFT, gradient_accumulation_steps=parts)
        for name in METHODS
        for parts in (1, 2)
    }


def sweeps():
    """How far the weights of six runs, over four devices and on one, are apart."""
    train, teacher, ends = images(FULL), TinyNet(seed=1), []
    for count in (1, 4):

        def make(temperature, count=count):
            distiller = jaxkd.Distiller(student=TinyNet(seed=0), teacher=teacher)
            distiller.compile(optimizers.sgd(0.05), loss=losses.KD(temperature), devices=jax.devices()[:count])
            return distiller

        cells = jaxkd.grid(temperature=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
        ends.append(jaxkd.sweep(make, cells, train, train, epochs=1, batch_size=64, verbose=0))
    apart = [
        furthest(leaves(four.state.params), leaves(one.state.params))
        for one, four in zip(*(end.runs for end in ends), strict=True)
    ]
    return {"weights": max(apart), "accuracies": [end.last("val_accuracy").tolist() for end in ends]}


def check(found):
    """Weights, what the losses learned and remember, and the key are those of one device, on all of them."""
    for count, run in found.items():
        assert run["state"] < 1e-5
        assert run["logs"] < 5e-5  # a small divergence is a difference of larger numbers
        assert run["steps"] == 1
        assert run["devices"] == [int(count)]
        assert run["equal"]


@pytest.fixture(scope="module")
def report():
    return report_of("test_sharding", "some_runs")


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["all methods", "in parts"])
def test_many_devices_end_where_one_does(report, case):
    check(report[case])


@pytest.mark.thorough
def test_a_teacher_looks_ahead_without_another_exchange(report):
    found = report["looking ahead"]
    assert found["at once"] == 2
    assert found["exchanges"] == ["all-reduce"]
    check(found["runs"])


@pytest.mark.thorough
def test_a_batch_that_does_not_divide_is_cut_over_the_devices_all_the_same(report):
    assert report["rows"] == {"128": 16, "125": 16, "3": 1}


@pytest.mark.slow
def test_every_method_on_two_four_and_eight_devices_ends_where_one_does():
    for found in report_of("test_sharding", "all_runs").values():
        check(found)


@pytest.mark.thorough
def test_a_sweep_on_four_devices_ends_where_one_on_one_does(report):
    assert report["sweep"]["weights"] < 1e-5
    assert report["sweep"]["accuracies"][0] == report["sweep"]["accuracies"][1]


@pytest.mark.thorough
def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(report):
    assert "batch_size=30 does not divide over 8 devices" in report["error"]
    assert report["error"].endswith("is 32")


def test_several_processes_neither_sweep_nor_keep_the_teachers_outputs(monkeypatch):
    def make():
        distiller = jaxkd.Distiller(student=TinyNet(seed=0), teacher=TinyNet(seed=1))
        distiller.compile(SGD, loss=losses.KD(4.0), cache_teacher=True)
        monkeypatch.setattr(distiller._placement, "processes", [0, 1])
        return distiller

    with pytest.raises(
        ValueError, match=r"devices of 2 processes, but a sweep is one process's: start each process by itself"
    ):
        jaxkd.sweep(make, [{}], images(FULL), batch_size=64, verbose=0)
    with pytest.raises(ValueError, match="cache_teacher: each of 2 processes would have to keep all"):
        make().fit(images(FULL), batch_size=64, verbose=0)


@pytest.mark.parametrize(("given", "nearest"), [(1, 3), (2, 3), (4, 3), (5, 6), (64, 63), (65, 66)])
def test_the_nearest_batch_size(given, nearest):
    with pytest.raises(ValueError, match=f"batch_size={given} does not divide over 3 devices.* {nearest}$"):
        Placement(jax.devices()[:1] * 3).check_batch_size(given)


def test_one_device_takes_any_batch_size_but_none():
    placement = Placement(jax.devices()[:1])
    placement.check_batch_size(7)
    with pytest.raises(ValueError, match="batch_size=0"):
        placement.check_batch_size(0)
