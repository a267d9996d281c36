"""The scripts of the benchmark, for its tests."""

import importlib

import pytest
from experiment_scripts import EXPERIMENTS


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    """The scripts' folder on the path, as when one of them is started, and what they set for their own process."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def script(name):
    return importlib.import_module(name)


def peer(name):
    pytest.importorskip("torch").set_num_threads(1)  # two that wait for each other on a busy machine take minutes
    return script(name)


def settings_for(*arguments, accelerated=False):
    options = script("benchmark").command_line().parse_args(arguments)
    script("benchmarks.rows").check(options)
    return script("benchmarks.rows").settings(options, accelerated)


def work(kind, count=20, batch_size=8, **networks):
    chosen = {"teacher": "resnet8", "student": "resnet8"} | networks
    images, labels = script("benchmarks.work").synthetic(count)
    return script("benchmarks.work").Work(kind, **chosen, batch_size=batch_size, images=images, labels=labels)
