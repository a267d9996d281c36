"""Four devices end where one does, and batches that cannot be split over them."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxkd.engine.sharding import Placement


def train_on_one_device_and_on_four():
    """Prints, for each method, how far the runs' weights and losses are apart; for a process with four devices."""
    from tiny import TinyNet, digits, leaves

    import jaxkd
    from jaxkd import losses, optimizers

    assert len(jax.devices()) == 4
    sgd, train = optimizers.sgd(0.05, momentum=0.9, weight_decay=5e-4), digits()[0].subset(198)  # 64, 64, 64 and 6
    report = {}
    for name, temperature in (("kd", 4.0), ("ctkd", losses.CurriculumTemperature())):
        ends = []
        for devices in (jax.devices()[:1], None):
            distiller = jaxkd.Distiller(student=TinyNet(seed=0), teacher=TinyNet(seed=1))
            terms = {"ce": losses.CrossEntropy(), "kd": losses.KD(temperature)}
            distiller.compile(sgd, loss=terms, devices=devices)
            distiller.fit(train, train, batch_size=64, verbose=0)
            ends.append(distiller)
        pairs = zip(*(leaves((end.state.params, end.state.variables)) for end in ends), strict=True)
        apart = [np.abs(one - four).max() / np.abs(one).max() for one, four in pairs]
        histories = [end.history.history for end in ends]
        logged = [abs(histories[0][key][0] / histories[1][key][0] - 1) for key in ("loss", "kd", "val_loss")]
        places = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(ends[1].state)}
        report[name] = {"weights": float(max(apart)), "logs": max(logged), "devices": sorted(places)}
    report["sweep"] = sweep_on_one_device_and_on_four(train)
    try:
        distiller.fit(train, batch_size=30, verbose=0)
    except ValueError as error:
        report["error"] = str(error)
    print(json.dumps(report))


def sweep_on_one_device_and_on_four(train):
    """How far the weights of six runs are apart, and on how many devices they lie."""
    from tiny import TinyNet, leaves

    import jaxkd
    from jaxkd import losses, optimizers

    teacher = TinyNet(seed=1)
    ends = []
    for devices in (jax.devices()[:1], None):

        def make(temperature, devices=devices):
            distiller = jaxkd.Distiller(student=TinyNet(seed=0), teacher=teacher)
            distiller.compile(optimizers.sgd(0.05), loss=losses.KD(temperature), devices=devices)
            return distiller

        cells = jaxkd.grid(temperature=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
        ends.append(jaxkd.sweep(make, cells, train, train, epochs=1, batch_size=64, verbose=0))
    apart = [
        np.abs(one - four).max() / np.abs(one).max()
        for pair in zip(*(end.runs for end in ends), strict=True)
        for one, four in zip(*(leaves(run.state.params) for run in pair), strict=True)
    ]
    accuracies = [end.last("val_accuracy").tolist() for end in ends]
    return {"weights": float(max(apart)), "accuracies": accuracies}


@pytest.fixture(scope="module")
def report():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(pathlib.Path(__file__).parent),
    }
    script = "import test_sharding; test_sharding.train_on_one_device_and_on_four()"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("method", ["kd", "ctkd"])
def test_four_devices_end_where_one_does(report, method):
    assert report[method]["weights"] < 1e-5
    assert report[method]["logs"] < 5e-5  # a small divergence is a difference of larger numbers
    assert report[method]["devices"] == [4]


def test_a_sweep_on_four_devices_ends_where_one_on_one_does(report):
    assert report["sweep"]["weights"] < 1e-5
    assert report["sweep"]["accuracies"][0] == report["sweep"]["accuracies"][1]


def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(report):
    assert "batch_size=30 does not divide over 4 devices" in report["error"]
    assert report["error"].endswith(("is 28", "is 32"))


@pytest.mark.parametrize(("given", "nearest"), [(1, 3), (2, 3), (4, 3), (5, 6), (64, 63), (65, 66)])
def test_the_nearest_batch_size(given, nearest):
    with pytest.raises(ValueError, match=f"batch_size={given} does not divide over 3 devices.* {nearest}$"):
        Placement(jax.devices()[:1] * 3).check_batch_size(given)


def test_one_device_takes_any_batch_size_but_none():
    placement = Placement(jax.devices()[:1])
    placement.check_batch_size(7)
    with pytest.raises(ValueError, match="batch_size=0"):
        placement.check_batch_size(0)
