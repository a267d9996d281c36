"""A run that was saved, or killed, ends bit for bit where one that never stopped ends."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from flax import nnx
from reference import python_path
from tiny import TinyNet, assert_same_bits, digits, leaves, reproducible, weights

import jaxkd
from jaxkd import Normalization, callbacks, losses, optimizers

SGD = optimizers.sgd(optimizers.step_decay(0.1, drops=(1, 3)), momentum=0.9, weight_decay=5e-4)
EPOCHS = 4


def compiled(width=8, optimizer=SGD, rule=losses.CurriculumTemperature, seed=3):
    distiller = jaxkd.Distiller(student=TinyNet(width=width), teacher=TinyNet(seed=1))
    terms = {"ce": losses.CrossEntropy(), "kd": losses.KD(rule())}
    distiller.compile(optimizer, loss=terms, loss_weights={"ce": 0.1, "kd": 0.9}, seed=seed)
    return distiller


def fit(distiller, epochs=EPOCHS, hooks=(), examples=72):
    train, test = digits()
    return distiller.fit(
        train.subset(examples), test.subset(64), epochs=epochs, batch_size=32, callbacks=hooks, verbose=0
    )


@pytest.fixture(scope="module")
def straight():
    distiller = compiled()
    fit(distiller)
    return distiller


def test_saved_half_way_and_restored(straight, tmp_path):
    first = compiled()
    fit(first, epochs=2)
    first.save(tmp_path)
    resumed = compiled()
    resumed.restore(tmp_path)
    assert_same_bits(leaves(resumed.state), leaves(first.state))
    assert_same_bits(weights(resumed.student), weights(first.student))
    assert resumed.student.normalization == first.student.normalization
    assert resumed.history.to_dict() == first.history.to_dict()

    history = fit(resumed)
    assert history.epoch == list(range(EPOCHS))
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    assert_same_bits(weights(resumed.student), weights(straight.student))
    assert reproducible(history) == reproducible(straight.history)
    assert float(resumed.state.params["losses"]["kd"]["temperature"]["raw"]) != 1.0


def test_the_checkpoint_callback_writes_what_restore_reads(straight, tmp_path):
    fit(compiled(), epochs=3, hooks=[callbacks.Checkpoint(tmp_path, keep=2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    resumed = compiled()
    resumed.restore(tmp_path)
    assert int(resumed.state.epoch) == 3
    fit(resumed)
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    assert fit(resumed, epochs=0).epoch == list(range(EPOCHS))


def test_a_finished_run_trains_no_further(straight, tmp_path):
    straight.save(tmp_path)
    resumed = compiled()
    resumed.restore(tmp_path)
    fit(resumed)
    assert_same_bits(leaves(resumed.state), leaves(straight.state))


def test_the_networks_statistics_travel_with_it(tmp_path):
    first, resumed = compiled(), compiled()
    first.student.normalization = Normalization((0.25,), (0.5,))
    first.save(tmp_path)
    resumed.restore(tmp_path)
    assert resumed.student.normalization == Normalization((0.25,), (0.5,))


def test_what_cannot_be_restored_is_refused_and_nothing_changes(straight, tmp_path):
    distiller = compiled()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        distiller.restore(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        distiller.restore(tmp_path)
    straight.save(tmp_path)
    for other in (compiled(width=4), compiled(optimizer=optimizers.adam(0.1)), compiled(rule=losses.ATS)):
        before = leaves(other.state)
        with pytest.raises(ValueError, match="does not fit"):
            other.restore(tmp_path)
        assert_same_bits(leaves(other.state), before)
        assert other.history.epoch == []


def test_another_temperature_than_the_checkpoints_is_told(tmp_path):
    def fixed(value):
        return compiled(rule=lambda: value)

    fixed(4.0).save(tmp_path)
    fixed(4.0).restore(tmp_path)
    other = fixed(2.0)
    with pytest.warns(UserWarning, match=r"kd.temperature is 4.0 in the checkpoint, and 2.0 in the losses.*4.0 stays"):
        other.restore(tmp_path)
    assert float(other.state.variables["losses"]["kd"]["temperature"]["value"]) == 4.0


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (None, "has seed=3, and compile was given seed=4: seed=3 stays"),
        (jax.random.split(jax.random.key(3))[0], "has a random key of its own, and compile was given seed=4: a random"),
    ],
)
def test_another_seed_than_the_checkpoints_is_told(tmp_path, key, said):
    first, other = compiled(), compiled(seed=4)
    if key is not None:
        first.state = dataclasses.replace(first.state, key=key)
    first.save(tmp_path)
    with pytest.warns(UserWarning, match=f"the run in {tmp_path} {said}.*Give a run with seed=4 another directory"):
        other.restore(tmp_path)
    assert_same_bits(leaves(other.state.key), leaves(first.state.key))


def test_a_teacher_with_other_weights_is_told(tmp_path):
    compiled().save(tmp_path)
    terms = {"ce": losses.CrossEntropy(), "kd": losses.KD(losses.CurriculumTemperature())}
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=TinyNet(seed=2))
    distiller.compile(SGD, loss=terms, seed=3)
    with pytest.warns(UserWarning, match="the teacher has other weights than that of the run in"):
        distiller.restore(tmp_path)
    nnx.update(distiller.teacher, nnx.state(TinyNet(seed=1)))
    distiller.compile(SGD, loss=terms, seed=3)
    distiller.restore(tmp_path)


# A process that is killed.


def run_to_the_end(folder, out, pause):
    """Trains with a checkpoint after each epoch, going on from the last one there is; its weights end in a file."""
    distiller = compiled()
    if any(path.name.isdigit() for path in pathlib.Path(folder).glob("*")):
        distiller.restore(folder)
    slowly = callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: time.sleep(pause))
    history = fit(distiller, epochs=8, hooks=[slowly, callbacks.Checkpoint(folder)])
    np.savez(out, *leaves(distiller.state), history=json.dumps(reproducible(history)))


def start(folder, out, pause):
    script = f"import test_resume; test_resume.run_to_the_end({str(folder)!r}, {str(out)!r}, {pause})"
    environment = os.environ | {"PYTHONPATH": python_path(__file__), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([sys.executable, "-c", script], env=environment)


@pytest.mark.slow
def test_a_run_that_is_killed_and_started_again_ends_the_same(tmp_path):
    uninterrupted = start(tmp_path / "whole", tmp_path / "whole.npz", pause=0.0)
    folder, out = tmp_path / "killed", tmp_path / "killed.npz"
    victim = start(folder, out, pause=0.1)
    deadline = time.monotonic() + 120
    while not (folder / "1").exists() and victim.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    delay = np.random.default_rng().uniform(0, 0.8)
    time.sleep(delay)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait(60) == -signal.SIGKILL, "it must die on the way"
    assert not out.exists()
    done = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    assert 1 <= done < 8
    assert start(folder, out, pause=0.0).wait(120) == 0
    assert uninterrupted.wait(120) == 0
    whole, resumed = (dict(np.load(path)) for path in (tmp_path / "whole.npz", out))
    print(f"killed {delay:.2f} s after the first checkpoint, with {done} epochs done")
    assert_same_bits(whole, resumed)
