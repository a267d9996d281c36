"""The callback for Weights & Biases, with a stand-in for its package."""

import sys
import types

import pytest

from jaxkd import callbacks
from jaxkd.callbacks import WandB


class Run:
    def __init__(self, **given):
        self.given, self.logged, self.finished = given, [], None

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self, exit_code=0):
        self.finished = exit_code


@pytest.fixture
def begun(monkeypatch):
    """The runs that `wandb.init` began."""
    runs = []

    def init(reinit=None, **given):
        if reinit != "create_new" and runs and runs[-1].finished is None:
            return runs[-1]  # as wandb by itself does
        runs.append(Run(**given))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return runs


def train(logger, epochs=2):
    logger.on_train_begin()
    for epoch in range(epochs):
        logger.on_epoch_end(epoch, {"loss": 2.0, "val_accuracy": 0.5})
    logger.on_train_end()


def test_every_epoch_is_sent_with_training_and_validation_apart(begun):
    train(callbacks.CallbackList([WandB("papers", {"method": "kd"}, name="kd-0", mode="offline")]))
    (run,) = begun
    assert run.given == {"project": "papers", "config": {"method": "kd"}, "name": "kd-0", "mode": "offline"}
    assert run.logged == [(step, {"train/loss": 2.0, "validation/accuracy": 0.5}) for step in (1, 2)]
    assert run.finished == 0


def test_runs_that_are_open_side_by_side_stay_apart(begun):
    loggers = [WandB("papers", name=name) for name in ("one", "other")]
    for logger in loggers:
        logger.on_train_begin()
    for value, logger in enumerate(loggers):
        logger.on_epoch_end(0, {"loss": value})
    assert [(run.given["name"], run.logged) for run in begun] == [
        ("one", [(1, {"train/loss": 0.0})]), ("other", [(1, {"train/loss": 1.0})]),
    ]  # fmt: skip


def test_a_run_of_ones_own_is_left_open(begun):
    own = Run()
    train(WandB(run=own))
    assert ([step for step, _ in own.logged], own.finished, begun) == ([1, 2], None, [])
    with pytest.raises(ValueError, match="given a run and project"):
        WandB("papers", run=own)


def test_a_run_that_an_error_ended_is_marked_as_failed(begun):
    logger = WandB("papers")
    logger.on_train_begin()
    train(logger)
    assert [run.finished for run in begun] == [1, 0]


def test_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r'pip install "jaxkd\[wandb\]"'):
        WandB("papers").on_train_begin()
