"""History and callbacks, driven by a stand-in for the trainer that calls the hooks in the trainer's order."""

import csv
import dataclasses
import io
import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxkd import callbacks, optimizers
from jaxkd.history import History, direction
from jaxkd.trainer import Trainer
from jaxkd.types import Outputs


class Rehearsal:
    """Goes through the hooks as a trainer does: `scores` are the `val_accuracy` (None: no validation) of each epoch."""

    def __init__(self, scores, chunks=1):
        self.scores = scores
        self.chunks = chunks
        self.state = {"epoch": jnp.int32(0), "key": jax.random.key(0)}
        self.history = History()
        self.stop_training = False
        self.last_steps = {}
        self.last_steps_start = 0
        self.saved = []

    def save(self, directory, *, keep):
        self.saved.append((directory, int(self.state["epoch"]), keep))

    def fit(self, *hooks):
        hooks = callbacks.CallbackList(hooks)
        hooks.set_trainer(self)
        hooks.set_params({"epochs": len(self.scores), "steps": 4, "batch_size": 8, "images": 32})
        self.stop_training = False
        hooks.on_train_begin()
        logs = {}
        for epoch in range(int(self.state["epoch"]), len(self.scores)):
            if self.stop_training:
                break
            hooks.on_epoch_begin(epoch)
            logs = {"loss": 2.0 / (epoch + 1), "ce": 1.0 / (epoch + 1)}
            for chunk in range(self.chunks):
                hooks.on_train_batch_end(4 * (chunk + 1) // self.chunks, logs | {"images_per_second": 320.0})
            jax.tree.map(lambda leaf: leaf.delete(), old := self.state)  # donated, as in training
            del old
            self.state = {"epoch": jnp.int32(epoch + 1), "key": jax.random.key(epoch + 1)}
            if self.scores[epoch] is not None:
                logs["val_accuracy"] = self.scores[epoch]
            self.history.append(epoch, logs)
            hooks.on_epoch_end(epoch, logs)
        hooks.on_train_end(logs)
        return self.history


# History


def test_history_keeps_lists_aligned():
    history = Rehearsal([None, 0.5, None, 0.7]).fit()
    assert history.epoch == [0, 1, 2, 3]
    assert history.history["val_accuracy"] == [None, 0.5, None, 0.7]
    assert {len(values) for values in history.history.values()} == {4}
    assert history.last("val_accuracy") == 0.7
    assert history.best("val_accuracy") == (4, 0.7)
    assert history.best("loss") == (4, 0.5)
    assert history.best("loss", mode="max") == (1, 2.0)


def test_history_tells_nan_from_not_measured():
    history = History()
    for epoch, loss in enumerate([2.0, 1.0, 1.0, math.nan]):
        history.append(epoch, {"loss": loss})
    assert math.isnan(history.last("loss"))
    assert history.best("loss") == (2, 1.0)
    history.append(4, {"accuracy": math.nan})
    with pytest.raises(ValueError, match="every value of 'accuracy' is NaN"):
        history.best("accuracy")


def test_history_replaces_epochs_that_are_trained_again():
    history = Rehearsal([0.1, 0.2, 0.3]).fit()
    history.append(1, {"loss": 9.0, "kd": 1.0})
    assert history.epoch == [0, 1]
    assert history.history == {
        "loss": [2.0, 9.0],
        "ce": [1.0, None],
        "val_accuracy": [0.1, None],
        "kd": [None, 1.0],
    }


def test_history_survives_json():
    history = Rehearsal([None, 0.5]).fit()
    copy = History.from_dict(json.loads(json.dumps(history.to_dict())))
    assert copy.to_dict() == history.to_dict()
    copy.append(2, {"loss": 0.1})
    assert history.epoch == [0, 1]


def test_history_refuses_what_it_does_not_have():
    history = Rehearsal([0.5]).fit()
    with pytest.raises(KeyError, match="'val_acc' was never measured; give one of loss, ce, val_accuracy"):
        history.last("val_acc")
    with pytest.raises(ValueError, match="'loss' has 1 values for 2 epochs"):
        History.from_dict({"epoch": [0, 1], "history": {"loss": [1.0]}})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", "max"),
        ("val_top5", "max"),
        ("acc", "max"),
        ("val_loss", "min"),
        ("cross_entropy", "min"),
        ("ce", "min"),
    ],
)
def test_direction_knows_accuracies_and_losses(name, expected):
    assert direction(name) == expected
    assert direction(name, mode="max") == "max"


@pytest.mark.parametrize(("name", "mode"), [("temperature", "auto"), ("stop", "auto"), ("loss", "lowest")])
def test_direction_does_not_guess(name, mode):
    with pytest.raises(ValueError, match="mode"):
        direction(name, mode)


# Dispatch


def test_hooks_are_called_in_keras_order_and_share_their_logs():
    calls = []

    class Recorder(callbacks.Callback):
        def on_train_begin(self, logs=None):
            calls.append(("train_begin", type(self.trainer), self.params["steps"]))

        def on_epoch_end(self, epoch, logs=None):
            logs["gap"] = 1.0

    def record(name):
        return lambda *given: calls.append((name, *given[:-1], "gap" in given[-1]))

    names = ("on_epoch_begin", "on_train_batch_end", "on_epoch_end", "on_train_end")
    Rehearsal([0.5], chunks=2).fit(Recorder(), callbacks.LambdaCallback(**{name: record(name) for name in names}))
    assert calls == [
        ("train_begin", Rehearsal, 4),
        ("on_epoch_begin", 0, False),
        ("on_train_batch_end", 2, False),
        ("on_train_batch_end", 4, False),
        ("on_epoch_end", 0, True),
        ("on_train_end", True),
    ]


def test_every_hook_is_dispatched():
    calls = []
    hooks = [name for name in vars(callbacks.Callback) if name.startswith("on_")]
    made = {name: lambda *_, name=name: calls.append(name) for name in hooks}
    everyone = callbacks.CallbackList([callbacks.LambdaCallback(**made)])
    for name in hooks:
        getattr(everyone, name)(*([0] if "epoch" in name or "batch" in name else []))
    assert len(hooks) == 8
    assert calls == hooks


@pytest.mark.parametrize("wrong", [callbacks.TerminateOnNaN, "CSVLogger", print])
def test_only_instances_of_callback_are_accepted(wrong):
    with pytest.raises(TypeError, match="instance of"):
        callbacks.CallbackList([wrong])


def test_a_method_that_is_no_hook_is_told():
    class Misspelt(callbacks.Callback):
        def on_epoch_ends(self, epoch, logs=None): ...

    with pytest.raises(TypeError, match=r"Misspelt.on_epoch_ends would never be called: did you mean on_epoch_end\?"):
        callbacks.CallbackList([Misspelt()])


def test_lambda_callback_refuses_unknown_hooks():
    with pytest.raises(TypeError, match="'on_epoch_ends'; there are on_train_begin"):
        callbacks.LambdaCallback(on_epoch_ends=print)


def test_importing_callbacks_is_light():
    code = (
        "import sys, jaxkd.callbacks; "
        "print([m for m in ('tensorboard', 'tensorflow', 'torch', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("callback", "shown"),
    [
        (callbacks.Checkpoint("runs/kd", every=2), "Checkpoint(directory='runs/kd', every=2)"),
        (callbacks.CSVLogger("log.csv"), "CSVLogger(path='log.csv')"),
        (callbacks.EarlyStopping("val_accuracy", patience=5), "EarlyStopping(monitor='val_accuracy', patience=5)"),
        (callbacks.TerminateOnNaN(), "TerminateOnNaN()"),
        (callbacks.ProgressBar(), "ProgressBar()"),
        (callbacks.TensorBoard("runs"), "TensorBoard(directory='runs')"),
        (callbacks.WandB("kd", config={"lr": 0.1}), "WandB(project='kd')"),
        (callbacks.LambdaCallback(on_epoch_end=print), "LambdaCallback(on_epoch_end)"),
        (callbacks.CallbackList([callbacks.TerminateOnNaN()]), "CallbackList([TerminateOnNaN()])"),
    ],
)
def test_callbacks_are_shown_as_they_were_made(callback, shown):
    assert repr(callback) == shown


# ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def ticking(seconds):
    now = [-seconds]

    def clock():
        now[0] += seconds
        return now[0]

    return clock


def test_progress_is_one_line_per_epoch_in_a_file():
    stream = io.StringIO()
    Rehearsal([0.25, None], chunks=2).fit(callbacks.ProgressBar(stream, clock=ticking(10.0)))
    first, second = stream.getvalue().splitlines()
    # Two steps take 10 s; the first report still counts from the start, the second from the first.
    assert first == "epoch 1/2 · loss 2 · ce 1 · val_accuracy 0.25 · 320 images/s · 0:00:20 left"
    assert second == "epoch 2/2 · loss 1 · ce 0.5 · 320 images/s · 0:00:00 left"


def test_time_left_forgets_compilation_and_ignores_epochs_of_an_earlier_run():
    times = iter([0.0, 1000.0, 1002.0])
    stream = io.StringIO()
    bar = callbacks.ProgressBar(stream, clock=lambda: next(times))
    bar.set_params({"epochs": 1003, "steps": 10, "batch_size": 8, "images": 80})
    bar.on_train_begin()
    for epoch in (1, 2):
        bar.on_epoch_begin(epoch)
        bar.on_train_batch_end(10, {"loss": 1.0, "images_per_second": 1.0})
        bar.on_epoch_end(epoch, {"loss": 1.0})
    assert stream.getvalue().splitlines()[1].endswith("0:33:20 left")  # 1000 epochs of 2 s


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_progress_rewrites_one_line_on_a_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    Rehearsal([0.5], chunks=2).fit(callbacks.ProgressBar(stream, clock=ticking(10.0)))
    text = stream.getvalue()
    assert text.count("\n") == 2  # the names of the table's columns, and the epoch
    assert next(part for part in text.split("\r") if "0/4" in part).rstrip().endswith("| 0/4 · compiling")
    assert text.count("compiling") == 1
    halfway = next(part for part in text.split("\r") if "2/4" in part)
    # Speed and time left stay in sight at any width; loss terms have what they leave.
    assert halfway.startswith("epoch 1/1 |")
    assert "| 2/4 · 320 images/s · 0:00:10 left" in halfway
    assert ("left · loss 2 · ce 1" in halfway) == (columns > 60)
    assert halfway.partition("|")[2].partition("|")[0].count("#") == {60: 4, 80: 8, 120: 10}[columns]
    assert max(len(part) for part in text.split("\r")[:-1]) <= columns - 1
    names, values = text.rsplit("\r", 1)[1].splitlines()
    assert names.split() == ["epoch", "loss", "val_accuracy", "ce", "images/s", "left"]
    assert values.split() == ["1/1", "2.0000", "0.5000", "1.0000", "320", "0:00:00"]


def test_progress_of_a_long_run_fits_sixty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    bar = callbacks.ProgressBar(stream, clock=ticking(3600.0))
    bar.set_params({"epochs": 240, "steps": 391, "batch_size": 128, "images": 50000})
    bar.on_train_begin()
    bar.on_epoch_begin(119)
    bar.on_train_batch_end(128, {"loss": 3.25, "{kd}": 2.5, "images_per_second": 12345.6})
    line = stream.getvalue().split("\r")[-1].rstrip()
    assert line.startswith("epoch 120/240")
    assert line.endswith("128/391 · 12346 images/s · 368:37:02 left")
    assert len(line) <= 59


def test_progress_without_a_known_number_of_steps():
    stream = Terminal()
    bar = callbacks.ProgressBar(stream)
    bar.set_params({"epochs": 2, "steps": None, "batch_size": None, "images": None})
    bar.on_train_begin()
    bar.on_epoch_begin(0)
    bar.on_train_batch_end(7, {"loss": 1.0})
    assert "epoch 1/2 · step 7 · loss 1" in stream.getvalue()
    assert "left" not in stream.getvalue()


def test_progress_goes_to_standard_error(capsys):
    Rehearsal([0.5]).fit(callbacks.ProgressBar())
    assert "epoch 1/1" in capsys.readouterr().err


# CSVLogger


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_line_per_epoch_and_makes_its_directory(tmp_path):
    path = tmp_path / "deep" / "log.csv"
    history = Rehearsal([None, 0.5]).fit(callbacks.CSVLogger(path))
    rows = table(path)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["val_accuracy"] for row in rows] == ["", "0.5"]
    assert [float(row["loss"]) for row in rows] == history.history["loss"]
    assert [entry.name for entry in path.parent.iterdir()] == ["log.csv"]


def test_csv_gives_float32_back_exactly(tmp_path):
    values = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    logger = callbacks.CSVLogger(tmp_path / "log.csv")
    logger.on_train_begin()
    for epoch, value in enumerate(values):
        logger.on_epoch_end(epoch, {"loss": value})
    np.testing.assert_array_equal(np.array([row["loss"] for row in table(logger.path)]).astype(np.float32), values)


def test_csv_of_a_resumed_run_has_each_epoch_once(tmp_path):
    path = tmp_path / "log.csv"
    Rehearsal([0.1, 0.2, 0.3]).fit(callbacks.CSVLogger(path))
    resumed = Rehearsal([None, None, 0.8, 0.9])
    resumed.state["epoch"] = jnp.int32(2)
    resumed.fit(callbacks.CSVLogger(path), callbacks.LambdaCallback())
    assert [(row["epoch"], row["val_accuracy"]) for row in table(path)] == [
        ("1", "0.1"),
        ("2", "0.2"),
        ("3", "0.8"),
        ("4", "0.9"),
    ]


def test_csv_in_the_home_is_resumed_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for epoch in (0, 1):
        logger = callbacks.CSVLogger("~/logs/a.csv")
        logger.on_train_begin()
        logger.on_epoch_end(epoch, {"loss": 2.0})
    assert [row["epoch"] for row in table(tmp_path / "logs" / "a.csv")] == ["1", "2"]


def test_csv_is_whole_after_every_epoch(tmp_path):
    path = tmp_path / "log.csv"
    lengths = []
    count = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: lengths.append(len(table(path))))
    Rehearsal([0.1, 0.2, 0.3]).fit(callbacks.CSVLogger(path), count)
    assert lengths == [1, 2, 3]


def test_csv_refuses_to_go_on_in_another_kind_of_file(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("name,score\nkd,0.7\n")
    with pytest.raises(ValueError, match="not a log of epochs"):
        Rehearsal([0.1]).fit(callbacks.CSVLogger(path))
    assert path.read_text() == "name,score\nkd,0.7\n"
    Rehearsal([0.1]).fit(callbacks.CSVLogger(path, append=False))
    assert len(table(path)) == 1


# Checkpoint


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_checkpoints_are_saved_at_intervals_and_at_the_end(tmp_path, every, epochs):
    directory = tmp_path / "runs" / "kd"
    trainer = Rehearsal([0.1] * 5)
    trainer.fit(callbacks.Checkpoint(directory, keep=3, every=every))
    assert trainer.saved == [(str(directory), epoch, 3) for epoch in epochs]


def test_checkpoint_saves_nothing_when_nothing_was_trained(tmp_path):
    trainer = Rehearsal([])
    trainer.fit(callbacks.Checkpoint(tmp_path))
    assert trainer.saved == []


def test_checkpoint_complains_before_training_about_a_place_it_cannot_write_to(tmp_path):
    (tmp_path / "file").write_text("")
    trainer = Rehearsal([0.1])
    with pytest.raises(OSError, match="cannot write checkpoints to"):
        trainer.fit(callbacks.Checkpoint(tmp_path / "file" / "runs"))
    assert trainer.history.epoch == []
    assert os.listdir(tmp_path) == ["file"]


def test_checkpoint_leaves_network_locations_to_the_trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = Rehearsal([0.1])
    trainer.fit(callbacks.Checkpoint("gs://bucket/run"))
    assert trainer.saved == [("gs://bucket/run", 1, 1)]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("option", ["keep", "every"])
def test_checkpoint_refuses_to_keep_nothing(option):
    with pytest.raises(ValueError, match=f"{option}=0"):
        callbacks.Checkpoint("runs", **{option: 0})


# EarlyStopping


@pytest.mark.parametrize(
    ("scores", "options", "epochs"),
    [
        ([0.1, 0.2, 0.2, 0.9], {}, 3),
        ([0.1, 0.2, 0.2, 0.9], {"patience": 1}, 3),
        ([0.1, 0.2, 0.2, 0.1, 0.9], {"patience": 2}, 4),
        ([0.1, 0.2, 0.2, 0.3, 0.3, 0.3], {"patience": 2}, 6),
        ([0.1, 0.2, 0.25, 0.9], {"min_delta": 0.09}, 3),
        ([0.1, None, 0.2, None, 0.1, 0.3], {}, 5),
        ([math.nan, math.nan, 0.1, 0.2], {"patience": 3}, 4),
        ([0.1, math.nan, 0.3], {}, 2),
        ([0.3, 0.2, 0.1, 0.2], {"mode": "min"}, 4),
    ],
)
def test_early_stopping_counts_epochs_without_improvement(scores, options, epochs):
    history = Rehearsal(scores).fit(callbacks.EarlyStopping("val_accuracy", **options))
    assert len(history.epoch) == epochs


def test_early_stopping_can_put_the_best_state_back():
    trainer = Rehearsal([0.1, 0.7, 0.3, 0.2, 0.9])
    trainer.fit(callbacks.EarlyStopping("val_accuracy", patience=2, restore_best=True))
    assert trainer.history.epoch == [0, 1, 2, 3]
    assert int(trainer.state["epoch"]) == 2
    assert jax.random.key_data(trainer.state["key"]).tolist() == jax.random.key_data(jax.random.key(2)).tolist()


def test_early_stopping_leaves_the_last_state_unless_asked():
    trainer = Rehearsal([0.7, 0.3])
    trainer.fit(callbacks.EarlyStopping("val_accuracy"))
    assert int(trainer.state["epoch"]) == 2


def test_a_resumed_run_stops_where_one_go_would_have():
    scores = [0.5, 0.4, 0.3, 0.2, 0.1]
    in_one_go = Rehearsal(scores).fit(callbacks.EarlyStopping("val_accuracy", patience=3))
    first = Rehearsal(scores[:2])
    first.fit(callbacks.EarlyStopping("val_accuracy", patience=3))
    resumed = Rehearsal(scores)
    resumed.state, resumed.history = first.state, first.history
    resumed.fit(callbacks.EarlyStopping("val_accuracy", patience=3))
    assert resumed.history.to_dict() == in_one_go.to_dict()


def test_a_second_fit_is_judged_by_itself(examples):
    trainer = Trainer(Linear())
    trainer.compile(optimizers.sgd(0.0))
    stop = callbacks.EarlyStopping("loss", patience=2)
    for done in (3, 6):
        assert len(trainer.fit(examples, epochs=9, batch_size=32, callbacks=stop, verbose=0).epoch) == done
    with pytest.warns(UserWarning, match="had not improved for 5 epochs"):
        trainer.fit(examples, epochs=20, initial_epoch=6, batch_size=32, callbacks=stop, verbose=0)


def test_early_stopping_says_when_the_best_state_is_gone():
    trainer = Rehearsal([0.9, 0.1, 0.1])
    trainer.history.append(0, {"val_accuracy": 0.9})
    trainer.state["epoch"] = jnp.int32(1)
    with pytest.warns(UserWarning, match="before this run was resumed"):
        trainer.fit(callbacks.EarlyStopping("val_accuracy", patience=5, restore_best=True))
    assert int(trainer.state["epoch"]) == 3


def test_a_run_that_had_stopped_stays_stopped_and_says_so():
    trainer = Rehearsal([0.9, 0.1, 0.95])
    trainer.fit(callbacks.EarlyStopping("val_accuracy"))
    with pytest.warns(UserWarning, match="had not improved for 1 epochs"):
        trainer.fit(callbacks.EarlyStopping("val_accuracy"))
    assert trainer.history.epoch == [0, 1]


@pytest.mark.parametrize("monitor", ["val_loss", "accuracy"])
def test_early_stopping_refuses_to_watch_what_is_not_measured(monitor):
    with pytest.raises(
        ValueError, match=f"monitor='{monitor}'.: the logs have no such value; give one of loss, ce, val_accuracy"
    ):
        Rehearsal([0.1]).fit(callbacks.EarlyStopping(monitor))


def test_early_stopping_warns_if_validation_never_ran():
    with pytest.warns(UserWarning, match="never saw 'val_accuracy'"):
        Rehearsal([None, None]).fit(callbacks.EarlyStopping("val_accuracy"))


def test_early_stopping_refuses_negative_numbers():
    with pytest.raises(ValueError, match="patience is -1"):
        callbacks.EarlyStopping(patience=-1)
    with pytest.raises(ValueError, match="min_delta is nan"):
        callbacks.EarlyStopping(min_delta=math.nan)


# TerminateOnNaN


def test_the_earlier_name_still_works():
    assert callbacks.StopOnNaN is callbacks.TerminateOnNaN


def nan_watch(**steps):
    trainer = Rehearsal([0.1])
    trainer.last_steps = {name: np.array(values, np.float32) for name, values in steps.items()}
    trainer.last_steps_start = 120
    stop = callbacks.TerminateOnNaN()
    stop.set_trainer(trainer)
    stop.on_epoch_begin(1)
    return stop


def test_nan_is_traced_to_its_first_step_and_term():
    nan = math.nan
    stop = nan_watch(loss=[1, 1, 1, nan, nan], ce=[1, 1, 1, 1, nan], kd=[1, 1, 1, nan, nan])
    with pytest.raises(
        FloatingPointError, match=r"'kd' became nan at step 123 \(epoch 2\).*[Ll]ower the learning rate"
    ):
        stop.on_train_batch_end(5, {"loss": nan})


def test_infinite_losses_stop_training_too():
    with pytest.raises(FloatingPointError, match=r"'ce' became inf, 'kd' became -inf at step 121 "):
        nan_watch(loss=[1, math.nan], ce=[1, math.inf], kd=[1, -math.inf]).on_train_batch_end(2, {})


def test_a_total_that_overflows_alone_is_named():
    with pytest.raises(FloatingPointError, match="'loss' became inf at step 120 "):
        nan_watch(loss=[math.inf], ce=[3e38], kd=[3e38]).on_train_batch_end(1, {})


def test_finite_losses_pass():
    assert nan_watch(loss=[3e38, 0.0], ce=[-1.0, 0.0]).on_train_batch_end(2, {"loss": 1.5e38}) is None


# TensorBoard


def scalars(directory, tag):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(directory))
    reader.Reload()
    return [(event.step, pytest.approx(event.value)) for event in reader.Scalars(tag)]


def test_tensorboard_reads_the_curves_back(tmp_path):
    pytest.importorskip("tensorboard")
    Rehearsal([None, 0.5, 0.75]).fit(callbacks.TensorBoard(tmp_path))
    assert scalars(tmp_path / "train", "loss") == [(1, 2.0), (2, 1.0), (3, 2 / 3)]
    assert scalars(tmp_path / "validation", "accuracy") == [(2, 0.5), (3, 0.75)]


def test_tensorboard_forgets_epochs_that_are_trained_again(tmp_path):
    pytest.importorskip("tensorboard")
    Rehearsal([0.1, 0.2, 0.3]).fit(callbacks.TensorBoard(tmp_path))
    resumed = Rehearsal([None, 0.8, 0.9])
    resumed.state["epoch"] = jnp.int32(1)
    resumed.fit(callbacks.TensorBoard(tmp_path))
    assert scalars(tmp_path / "validation", "accuracy") == [(1, 0.1), (2, 0.8), (3, 0.9)]


def test_tensorboard_flushes_every_epoch_and_survives_a_kill(tmp_path):
    pytest.importorskip("tensorboard")
    logger = callbacks.TensorBoard(tmp_path)
    logger.on_train_begin()
    logger.on_epoch_end(0, {"loss": 1.0})
    assert scalars(tmp_path / "train", "loss") == [(1, 1.0)]
    logger.on_train_end()


def test_tensorboard_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        Rehearsal([0.1]).fit(callbacks.TensorBoard(tmp_path))


# With the real trainer


class Linear(nnx.Module):
    """The smallest network that keeps the contract."""

    num_classes = 3
    normalization = None

    def __init__(self):
        self.kernel = nnx.Param(jnp.zeros((12, 3)))

    def __call__(self, images, train=False):
        return Outputs(images.reshape(len(images), -1) @ self.kernel[...])


def real_trainer(loss=None):
    trainer = Trainer(Linear())
    trainer.compile(optimizer=optimizers.sgd(0.1), loss=loss, steps_per_execution=3)
    return trainer


@pytest.fixture
def examples():
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 2, 2, 3), np.float32), rng.integers(0, 3, 40).astype(np.int32)


def test_the_real_trainer_drives_the_callbacks(tmp_path, examples):
    stream, path, trainer = io.StringIO(), tmp_path / "log.csv", real_trainer()
    watch = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(score=[0.1, 0.5, 0.2, 0.9][epoch]))
    stop = callbacks.EarlyStopping("score", mode="max", restore_best=True)
    seen = []
    steps = callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: seen.append(step))
    history = trainer.fit(
        examples,
        epochs=4,
        batch_size=8,
        verbose=0,
        callbacks=[watch, steps, callbacks.ProgressBar(stream), callbacks.CSVLogger(path), stop],
    )
    assert seen == [3, 5] * 3
    assert history.epoch == [0, 1, 2]
    assert int(trainer.state.epoch) == 2
    assert len(stream.getvalue().splitlines()) == 3
    np.testing.assert_allclose([float(row["loss"]) for row in table(path)], history.history["loss"], rtol=1e-8)
    assert [float(row["learning_rate"]) for row in table(path)] == pytest.approx([0.1] * 3)


def test_the_real_trainer_stops_on_nan(examples):
    def poisoned(student, teacher, batch, progress, key):
        return jnp.where(progress.step == 9, jnp.nan, jnp.mean(student.logits**2))

    trainer = real_trainer({"fine": lambda student, *_: jnp.mean(student.logits**2), "poisoned": poisoned})
    with pytest.raises(FloatingPointError, match=r"'poisoned' became nan at step 9 \(epoch 2\)"):
        trainer.fit(examples, epochs=4, batch_size=8, verbose=0)
    assert trainer.history.epoch == [0]


def test_a_real_run_resumes_from_its_checkpoint_with_its_log(tmp_path, examples):
    def run(epochs, resume):
        trainer = real_trainer()
        if resume:
            trainer.restore(tmp_path / "run")
        hooks = [callbacks.Checkpoint(tmp_path / "run", keep=2), callbacks.CSVLogger(tmp_path / "run" / "log.csv")]
        return trainer.fit(examples, epochs=epochs, batch_size=8, verbose=0, callbacks=hooks)

    run(2, resume=False)
    history = run(4, resume=True)
    assert [row["epoch"] for row in table(tmp_path / "run" / "log.csv")] == ["1", "2", "3", "4"]
    assert history.epoch == [0, 1, 2, 3]
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == ["3", "4", "log.csv"]


class Lowered:
    """A trainer whose losses are given."""

    def __init__(self, values, **options):
        self.callback = callbacks.ReduceLROnPlateau("loss", mode="min", **options)
        optimizer = optimizers.sgd(optimizers.step_decay(0.4, drops=(6,)), momentum=0.0)
        opt_state = optimizer.init(jnp.zeros(()))
        self.state, self.history, self.stop_training = SimpleState(opt_state), History(), False
        self.callback.set_trainer(self)
        self.callback.on_train_begin()
        self.rates = []
        for epoch, value in enumerate(values):
            _, opt_state = optimizer.update(jnp.zeros(()), self.state.opt_state, jnp.zeros(()), epoch=epoch + 1)
            self.state = SimpleState(opt_state)
            self.rates.append(round(float(opt_state[-1].learning_rate), 6))
            self.callback.on_epoch_end(epoch, {"loss": value})


def test_a_rate_that_was_never_lowered_for_want_of_a_value_is_told():
    found = Lowered([])
    with pytest.warns(UserWarning, match="ReduceLROnPlateau never saw 'loss' as a number: it did nothing"):
        found.callback.on_train_end()


@dataclasses.dataclass(frozen=True)
class SimpleState:
    opt_state: object


@pytest.mark.parametrize(
    ("values", "options", "rates"),
    [
        ([1, 1, 1, 1, 1], {"factor": 0.5, "patience": 2}, [0.4, 0.4, 0.4, 0.2, 0.2]),
        ([1] * 8, {"factor": 0.5, "patience": 1, "min_lr": 0.1}, [0.4, 0.4, 0.2, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ([3, 2, 1, 1.5, 0.5], {"factor": 0.5, "patience": 2}, [0.4] * 5),
        ([1, 1, 1, 1, 1, 1], {"factor": 0.5, "patience": 1, "cooldown": 2}, [0.4, 0.4, 0.2, 0.2, 0.2, 0.1]),
        ([1, float("nan"), 1, 1], {"factor": 0.5, "patience": 2}, [0.4, 0.4, 0.4, 0.2]),
    ],
)  # fmt: skip
def test_the_rate_is_lowered_on_a_plateau(values, options, rates):
    assert Lowered(values, **options).rates == rates


def test_a_lowered_rate_is_torchs():
    torch = pytest.importorskip("torch")
    values = [5, 4, 4, 4, 3, 3.5, 3, 3, 3, 3, 3, 2]
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        reference, factor=0.5, patience=1, cooldown=1, threshold=1e-4, threshold_mode="abs"
    )
    theirs = []
    for value in values:
        theirs.append(round(reference.param_groups[0]["lr"], 6))
        schedule.step(value)
    ours = Lowered(values, factor=0.5, patience=2, cooldown=1).rates  # theirs waits for one more
    assert [rate * (0.1 if epoch > 6 else 1) for epoch, rate in enumerate(theirs, 1)] == pytest.approx(ours)


def test_a_lowered_rate_is_resumed(tmp_path, examples):
    def compiled():
        trainer = Trainer(Linear())
        trainer.compile(optimizers.sgd(optax.constant_schedule(0.01)))
        return trainer

    def fit(trainer, epochs, **options):
        lower = callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=100.0)
        return trainer.fit(examples, epochs=epochs, batch_size=32, callbacks=[lower], verbose=0, **options)

    whole = fit(compiled(), 6).history
    assert whole["learning_rate"] == pytest.approx([0.01, 0.01, 0.005, 0.0025, 0.00125, 0.000625])
    stopped = compiled()
    fit(stopped, 3)
    stopped.save(tmp_path)
    again = compiled()
    again.restore(tmp_path)
    found = fit(again, 6).history
    assert (found["loss"], found["learning_rate"]) == (whole["loss"], whole["learning_rate"])


def test_an_optimizer_without_such_a_rate_is_refused(examples):
    trainer = Trainer(Linear())
    trainer.compile(optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"the optimizer has no rate that it can change: take one"):
        trainer.fit(examples, callbacks=callbacks.ReduceLROnPlateau("loss"), verbose=0)
    for options in ({"factor": 1.0}, {"cooldown": -1}, {"patience": -1}, {"min_lr": -0.1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            callbacks.ReduceLROnPlateau(**options)


def test_what_is_changed_at_the_end_of_an_epoch_is_saved(tmp_path, examples):
    def callbacks_of(folder):
        lower = callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=100.0)
        return [callbacks.Checkpoint(folder), lower]

    def compiled():
        trainer = Trainer(Linear())
        trainer.compile(optimizers.sgd(0.01))
        return trainer

    whole = compiled()
    whole.fit(examples, epochs=4, batch_size=32, callbacks=callbacks_of(tmp_path / "whole"), verbose=0)
    fall = callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: 1 / (epoch - 2))
    with pytest.raises(ZeroDivisionError):
        compiled().fit(examples, epochs=4, batch_size=32, callbacks=[fall, *callbacks_of(tmp_path / "a")], verbose=0)
    again = compiled()
    again.fit(examples, epochs=4, batch_size=32, callbacks=callbacks_of(tmp_path / "a"), resume="auto", verbose=0)
    assert again.history.history["learning_rate"] == whole.history.history["learning_rate"]
    assert again.history.last("learning_rate") == pytest.approx(0.0025)


@pytest.mark.parametrize("name", ["on_train_start", "on_train_epoch_end", "on_validation_end", "on_train_batch_begin"])
def test_hooks_of_other_libraries_are_told(name):
    own = type("Own", (callbacks.Callback,), {name: lambda self: None})
    with pytest.raises(TypeError, match=f"Own.{name} would never be called: did you mean"):
        callbacks.CallbackList([own()])


def test_a_method_of_ones_own_may_be_called_on_something():
    class Own(callbacks.Callback):
        def on_new_best(self): ...

    callbacks.CallbackList([Own()])
