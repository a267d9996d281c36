"""What a run goes through and survives: broken off within an epoch, damaged checkpoints, a full disk, SIGTERM, NaN."""

import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import python_path
from sweeps import sweep
from tiny import TinyNet, assert_same_bits, digits, leaves, reproducible

import jaxkd
from jaxkd import callbacks, losses, optimizers
from jaxkd.training import checkpoint
from jaxkd.training.epochs import Chunk

EPOCHS = 3


class BrokenError(Exception):
    """What a run dies of in these tests."""


def compiled(rate=0.1, width=8, seed=3, teacher=None, chunk=2):
    distiller = jaxkd.Distiller(student=TinyNet(width=width), teacher=teacher or TinyNet(seed=1))
    terms = {"ce": losses.CrossEntropy(), "kd": losses.KD(losses.CurriculumTemperature())}
    distiller.compile(optimizers.sgd(rate, momentum=0.9), loss=terms, seed=seed, steps_per_execution=chunk)
    return distiller


def fit(distiller, *hooks, batch_size=16, **options):
    train, test = digits()
    return distiller.fit(  # 16, 16, 16, 16 and 8: chunks of two, two and one
        train.subset(72), test.subset(64), epochs=EPOCHS, batch_size=batch_size, callbacks=hooks, verbose=0, **options
    )


class BreaksAt(callbacks.Callback):
    """Dies when so many steps of an epoch have been heard of."""

    def __init__(self, epoch, step):
        self.at = (epoch, step)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, step, logs=None):
        if (self.epoch, step) == self.at:
            raise BrokenError


def broken_off(folder, epoch=1, step=4, **checkpoint):
    with pytest.raises(BrokenError):
        fit(compiled(), callbacks.Checkpoint(folder, **({"every_steps": 1} | checkpoint)), BreaksAt(epoch, step))


@pytest.fixture(scope="module")
def straight():
    distiller = compiled()
    fit(distiller)
    return distiller


@sweep(("epoch", "step"), [(0, 2), (1, 4), (2, 5)], core=[(1, 4)])
def test_a_run_broken_off_within_an_epoch_ends_the_same(straight, tmp_path, epoch, step):
    broken_off(tmp_path, epoch, step)
    assert checkpoint.latest(tmp_path).parent.name == "partial"
    resumed = compiled()
    history = fit(resumed, callbacks.Checkpoint(tmp_path), resume="auto")
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    assert reproducible(history) == reproducible(straight.history)
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(EPOCHS)]


def test_resume_begins_where_there_is_nothing_yet_and_ends_where_all_is_done(straight, tmp_path):
    distiller = compiled()
    fit(distiller, callbacks.Checkpoint(tmp_path), resume="auto")
    assert_same_bits(leaves(distiller.state), leaves(straight.state))
    again = compiled()
    history = fit(again, callbacks.Checkpoint(tmp_path), resume="auto")
    assert_same_bits(leaves(again.state), leaves(straight.state))
    assert history.epoch == list(range(EPOCHS))


def test_resume_is_told_what_to_go_on_from(tmp_path):
    with pytest.raises(ValueError, match='resume="auto" reads the directory of a Checkpoint, and there are 0'):
        fit(compiled(), resume="auto")
    with pytest.raises(ValueError, match="resume='always'"):
        fit(compiled(), callbacks.Checkpoint(tmp_path), resume="always")


def test_an_epoch_goes_on_with_the_batches_it_began_with(tmp_path):
    broken_off(tmp_path, step=2)
    with pytest.raises(ValueError, match=r"batch_size=32 .* broken off after 64 in 4 steps"):
        fit(compiled(), callbacks.Checkpoint(tmp_path), resume="auto", batch_size=32)


def test_a_directory_of_another_run_is_not_written_to(tmp_path):
    broken_off(tmp_path)
    with pytest.raises(ValueError, match=r'is from further on than this run: go on from there with resume="auto", or'):
        fit(compiled(), callbacks.Checkpoint(tmp_path))
    shutil.rmtree(tmp_path / "1")
    with pytest.raises(ValueError, match="partial/10 is from further on"):
        fit(compiled(), callbacks.Checkpoint(tmp_path))


def test_the_same_state_is_written_once(tmp_path):
    distiller = compiled()
    distiller.save(tmp_path)
    before = (tmp_path / "0").stat().st_mtime_ns
    distiller.save(tmp_path)
    assert (tmp_path / "0").stat().st_mtime_ns == before
    distiller.state.params["model"]["fc"]["bias"] += 1.0
    distiller.save(tmp_path)
    other = compiled()
    other.restore(tmp_path)
    assert_same_bits(leaves(other.state), leaves(distiller.state))


def test_what_was_interrupted_can_be_saved_by_hand(straight, tmp_path):
    distiller = compiled()
    with pytest.raises(BrokenError):
        fit(distiller, BreaksAt(1, 2))
    distiller.save(tmp_path)
    assert checkpoint.latest(tmp_path).parent.name == "partial"
    resumed = compiled()
    resumed.restore(tmp_path)
    fit(resumed)
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    distiller.restore(tmp_path)
    fit(distiller)
    distiller.save(tmp_path / "whole")
    assert checkpoint.latest(tmp_path / "whole").name == str(EPOCHS)


@sweep("moment", ["at once", "on_train_begin", "on_epoch_begin"], core=["at once", "on_epoch_begin"])
def test_what_was_restored_within_an_epoch_is_saved_as_it_was(straight, tmp_path, moment):
    broken_off(tmp_path, step=2)
    resumed = compiled()
    resumed.restore(tmp_path)
    if moment == "at once":
        resumed.save(tmp_path)
    else:
        saves = callbacks.LambdaCallback(**{moment: lambda *_: resumed.save(tmp_path)})
        with pytest.raises(BrokenError):
            fit(resumed, saves, BreaksAt(1, 5))
    assert checkpoint.latest(tmp_path).parent.name == "partial"
    again = compiled()
    history = fit(again, callbacks.Checkpoint(tmp_path), resume="auto")
    assert_same_bits(leaves(again.state), leaves(straight.state))
    assert reproducible(history) == reproducible(straight.history)


class Interrupts:
    """An array that Ctrl-C comes to while the host first waits for it."""

    def __init__(self, value):
        self.value, self.waited = value, False

    def __array__(self, dtype=None, copy=None):
        if not self.waited:
            self.waited = True
            signal.raise_signal(signal.SIGINT)
        return np.asarray(self.value)


@pytest.mark.parametrize("moment", ["while steps are taken", "while the host waits for them"])
def test_ctrl_c_loses_no_step(moment, straight, tmp_path, monkeypatch):
    run, chunks = Chunk.run, []

    def interrupted(chunk, state):
        state, logs = run(chunk, state)
        chunks.append(chunk)
        if len(chunks) == 5:  # of the second epoch, the second
            if moment == "while steps are taken":
                signal.raise_signal(signal.SIGINT)
            else:
                logs |= {"loss": Interrupts(logs["loss"])}
        return state, logs

    distiller = compiled()
    student = distiller.student
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(Chunk, "run", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(distiller)
    finally:
        signal.signal(signal.SIGINT, before)
    learned = leaves(distiller.state.params["model"])
    assert_same_bits(leaves(nnx.to_pure_dict(nnx.state(student, nnx.Param))), learned)
    distiller.save(tmp_path)
    resumed = compiled()
    resumed.restore(tmp_path)
    fit(resumed)
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    assert reproducible(resumed.history) == reproducible(straight.history)
    distiller.compile(optimizers.sgd(0.1), loss=losses.KD())  # from where it is
    assert_same_bits(leaves(distiller.state.params["model"]), learned)


def test_saving_by_time(tmp_path):
    broken_off(tmp_path / "often", every_steps=None, every_minutes=1e-9)
    assert checkpoint.latest(tmp_path / "often").parent.name == "partial"
    broken_off(tmp_path / "seldom", every_steps=None, every_minutes=1e9)
    assert checkpoint.latest(tmp_path / "seldom").name == "1"


def test_what_is_left_of_a_completed_epoch_is_taken_up_only_where_later_ones_are_damaged(straight, tmp_path):
    broken_off(tmp_path)
    shutil.copytree(tmp_path / "partial", tmp_path / "aside")
    fit(compiled(), callbacks.Checkpoint(tmp_path, keep=3), resume="auto")
    shutil.move(tmp_path / "aside", tmp_path / "partial")  # killed between writing the epoch and clearing up
    assert checkpoint.latest(tmp_path).name == str(EPOCHS)
    for whole in ("2", "3"):
        empty(tmp_path / whole)
    resumed = compiled()
    with pytest.warns(UserWarning, match="is damaged"):
        history = fit(resumed, callbacks.Checkpoint(tmp_path), resume="auto")
    assert history.epoch == list(range(EPOCHS))
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.damaged", "3", "3.damaged"]


# Damaged checkpoint.


def damages():
    """Ways to spoil a file, by name."""
    return {
        "cut": lambda whole: whole[: len(whole) // 2],
        "emptied": lambda whole: b"",
        "flipped": lambda whole: (
            whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 0x10]) + whole[len(whole) // 2 + 1 :]
        ),
    }


@pytest.mark.thorough
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path):
    broken_off(tmp_path)
    newest = pathlib.Path(checkpoint.latest(tmp_path))
    good = {folder: compiled() for folder in (tmp_path, tmp_path / "only 1")}
    shutil.copytree(tmp_path / "1", tmp_path / "only 1" / "1")
    for folder, distiller in good.items():
        distiller.restore(folder)
    ends = {name: leaves(distiller.state) for name, distiller in zip(("newest", "before"), good.values(), strict=True)}
    assert any((one != other).any() for one, other in zip(*ends.values(), strict=True))

    passed_over = 0
    for path in sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size):
        whole = path.read_bytes()
        for damage in damages().values():
            path.write_bytes(damage(whole))
            distiller = compiled()
            with warnings.catch_warnings(record=True) as caught:
                warnings.filterwarnings("always", category=UserWarning)
                distiller.restore(tmp_path)
            damaged = [str(warning.message) for warning in caught if "is damaged" in str(warning.message)]
            assert_same_bits(leaves(distiller.state), ends["before" if damaged else "newest"])
            assert all(str(newest) in message and "going back" in message for message in damaged)
            passed_over += len(damaged)
        path.write_bytes(whole)
    assert passed_over > 10


def empty(folder):
    """Leave a checkpoint's files with nothing in them."""
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


@pytest.mark.parametrize("by", ["resume", "restore"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(straight, tmp_path, by):
    fit(compiled(), callbacks.Checkpoint(tmp_path, keep=2))
    empty(tmp_path / str(EPOCHS))
    resumed = compiled()
    if by == "restore":
        with pytest.warns(UserWarning, match="going back to the checkpoint before"):
            resumed.restore(tmp_path)
    with pytest.warns(UserWarning, match="is damaged") as warned:
        history = fit(resumed, callbacks.Checkpoint(tmp_path, keep=2), resume="auto" if by == "resume" else None)
    assert f"it is now {tmp_path / '3.damaged'}, which nothing reads" in str(warned[-1].message)
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    assert reproducible(history) == reproducible(straight.history)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "3.damaged"]
    again = compiled()
    again.restore(tmp_path)
    assert_same_bits(leaves(again.state), leaves(straight.state))


def test_a_damaged_checkpoint_within_an_epoch_does_not_displace_those_after_it(straight, tmp_path):
    broken_off(tmp_path)
    empty(checkpoint.latest(tmp_path))
    saved = callbacks.Checkpoint(tmp_path, every_steps=1)
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(BrokenError):
        fit(compiled(), saved, BreaksAt(1, 2), resume="auto")
    assert sorted(path.name for path in (tmp_path / "partial").iterdir()) == ["10.damaged", "9"]
    resumed = compiled()
    fit(resumed, saved, resume="auto")
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(EPOCHS)]


def test_where_no_checkpoint_is_good_the_error_says_so(tmp_path):
    fit(compiled(), callbacks.Checkpoint(tmp_path))
    empty(tmp_path / str(EPOCHS))
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(OSError, match=r"no checkpoint .* can be read"):
        compiled().restore(tmp_path)


def test_another_network_is_no_damage(tmp_path):
    broken_off(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            ValueError, match=r"does not fit: compile with .* params\.model\.bn\.bias is \['float32', \[8\]\]"
        ):
            compiled(width=4).restore(tmp_path)


# Losses that are no numbers.


def test_the_last_good_state_stays_when_a_loss_becomes_nan(tmp_path):
    class Spoil(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                state = self.trainer.state
                state.params["model"]["fc"]["bias"] = state.params["model"]["fc"]["bias"] + jnp.nan

    with pytest.raises(
        FloatingPointError, match=r"loss term .*'kd' became nan.* at step 10 \(epoch 3\).*last checkpoint"
    ):
        fit(compiled(), Spoil(), callbacks.Checkpoint(tmp_path, every_steps=1))
    assert checkpoint.latest(tmp_path).name == "2"
    resumed = compiled()
    resumed.restore(tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in leaves(resumed.state))


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    distiller = compiled()
    distiller.save(tmp_path)
    distiller.state.params["model"]["fc"]["bias"] = jnp.full(10, jnp.inf)
    with pytest.raises(FloatingPointError, match=r"fc.*bias.* no longer finite .* nothing is saved"):
        distiller.save(tmp_path)
    compiled().restore(tmp_path)


# Places that cannot be written to.


def fill_the_disk(folder):
    """For a process of its own: files cannot grow beyond some bytes, from the second epoch on."""
    signal.signal(
        signal.SIGXFSZ, signal.SIG_IGN
    )  # then the system answers with an error, as it does when a disk is full

    def fill(epoch, logs):
        if epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))

    fit(compiled(), callbacks.LambdaCallback(on_epoch_begin=fill), callbacks.Checkpoint(folder))


def start(call):
    environment = os.environ | {"PYTHONPATH": python_path(__file__), "JAX_PLATFORMS": "cpu"}
    # Jobs that a shell puts into the background begin with Ctrl-C ignored.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heed}; import test_recovery; test_recovery.{call}"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.thorough
def test_a_full_disk_ends_the_run_and_leaves_the_last_good_checkpoint(straight, tmp_path):
    process = start(f"fill_the_disk({str(tmp_path)!r})")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    last = error.strip().splitlines()[-1]
    assert last.startswith("OSError: ")
    assert "the checkpoint could not be written (" in last
    assert f"the last complete one is {tmp_path / '1'}" in last
    assert checkpoint.latest(tmp_path).name == "1"
    resumed = compiled()
    fit(resumed, callbacks.Checkpoint(tmp_path), resume="auto")
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(EPOCHS)], "what was begun is cleared away"


def test_the_message_of_a_full_disk_says_what_to_do(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    distiller = compiled()
    distiller.save(tmp_path)
    distiller.state.params["model"]["fc"]["bias"] += 1.0
    monkeypatch.setattr(checkpoint.ocp.training.Checkpointer, "save", full)
    with pytest.raises(OSError, match=r"No space left.*the last complete one is .*/0: free some space") as caught:
        distiller.save(tmp_path)
    assert caught.value.errno == 28


# SIGTERM and Ctrl-C.


def slowly():
    return callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: (print("step", flush=True), time.sleep(0.2)))


def train_slowly(folder):
    """For a process of its own."""
    fit(compiled(), slowly(), callbacks.Checkpoint(folder), resume="auto")


def swept(folder, *hooks, **options):
    """Two runs of one program, each with checkpoints of its own."""
    (train, test), teacher = digits(), TinyNet(seed=1)

    def kept(seed):
        return [*(hook for hook in hooks if not seed), callbacks.Checkpoint(os.path.join(folder, str(seed)))]

    return jaxkd.sweep(
        lambda seed: compiled(seed=seed, teacher=teacher),
        jaxkd.grid(seed=(0, 1)),
        train.subset(72),
        test.subset(64),
        epochs=EPOCHS,
        batch_size=16,
        callbacks=kept,
        verbose=0,
        **options,
    )


def sweep_slowly(folder):
    """For a process of its own."""
    swept(folder, slowly())


SIGNALS = sweep(
    ("number", "name", "code"),
    [(signal.SIGTERM, "SIGTERM", 75), (signal.SIGHUP, "SIGHUP", 75), (signal.SIGINT, "Ctrl-C", -signal.SIGINT)],
    core=[(signal.SIGTERM, "SIGTERM", 75)],
    thorough=(),
)


def stopped(program, number):
    """What a program prints on the standard error, and its code, that got a signal in its second epoch."""
    process = start(program)
    for _ in range(4):
        assert process.stdout.readline() == "step\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    return error, process.returncode


@SIGNALS
def test_a_run_that_is_told_to_stop_saves_and_ends_with_a_code_of_its_own(number, name, code, straight, tmp_path):
    error, found = stopped(f"train_slowly({str(tmp_path)!r})", number)
    assert found == code
    assert f"{name}: saved in {tmp_path}" in error
    assert checkpoint.latest(tmp_path).parent.name == "partial"
    resumed = compiled()
    history = fit(resumed, callbacks.Checkpoint(tmp_path), resume="auto")
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    assert reproducible(history) == reproducible(straight.history)


@pytest.mark.slow
def test_a_sweep_that_is_told_to_stop_saves_every_run(tmp_path):
    error, code = stopped(f"sweep_slowly({str(tmp_path / 'stopped')!r})", signal.SIGTERM)
    assert code == 75
    resumed = swept(tmp_path / "stopped", resume="auto")
    whole = swept(tmp_path / "whole")
    for seed, run, other in zip((0, 1), resumed.runs, whole.runs, strict=True):
        assert f"SIGTERM: saved in {tmp_path / 'stopped' / str(seed)}" in error
        assert_same_bits(leaves(run.state), leaves(other.state))
        assert reproducible(run.history) == reproducible(other.history)


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def twice(step, logs):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            fit(compiled(), callbacks.LambdaCallback(on_train_batch_end=twice), callbacks.Checkpoint(tmp_path))
    finally:
        signal.signal(signal.SIGINT, before)
    assert checkpoint.latest(tmp_path) is None


def test_ctrl_c_in_the_last_epoch_is_not_forgotten(straight, tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def late(epoch, logs):
        if epoch == straight.history.epoch[-1]:
            signal.raise_signal(signal.SIGINT)

    distiller = compiled()
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(distiller, callbacks.LambdaCallback(on_epoch_end=late), callbacks.Checkpoint(tmp_path))
    finally:
        signal.signal(signal.SIGINT, before)
    assert reproducible(distiller.history) == reproducible(straight.history)
    learned = nnx.to_pure_dict(nnx.state(distiller.student, nnx.Param))
    assert_same_bits(leaves(learned), leaves(straight.state.params["model"]))


def test_sigterm_keeps_its_meaning_where_nobody_saves(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    seen = []
    look = callbacks.LambdaCallback(on_epoch_begin=lambda *_: seen.append(signal.getsignal(signal.SIGTERM)))
    fit(compiled(), look)
    assert set(seen) == {before}
    fit(compiled(), look, callbacks.Checkpoint(tmp_path))
    assert seen[-1] != before
    assert signal.getsignal(signal.SIGTERM) == before


# Epochs that are done stay done


def test_an_epoch_whose_evaluation_was_broken_off_is_in_the_history(tmp_path):
    run = compiled()

    def end(logs):
        raise BrokenError

    with pytest.raises(BrokenError):
        fit(run, callbacks.LambdaCallback(on_test_begin=end))
    run.save(tmp_path)
    resumed = compiled()
    resumed.restore(tmp_path)
    history = fit(resumed)
    assert history.epoch == [0, 1, 2]
    assert [value is None for value in history.history["val_accuracy"]] == [True, False, False]


def test_a_save_before_the_epoch_is_written_down_is_replaced_by_the_whole(tmp_path):
    run = compiled()
    fit(run, callbacks.LambdaCallback(on_test_end=lambda logs: run.save(tmp_path)), callbacks.Checkpoint(tmp_path))
    resumed = compiled()
    resumed.restore(tmp_path)
    assert resumed.history.to_dict() == run.history.to_dict()


def test_the_newest_checkpoint_is_what_was_saved_last(tmp_path):
    run, scores = compiled(), iter([0.9, 0.2, 0.1])
    best = callbacks.EarlyStopping("score", patience=2, mode="max", restore_best=True)
    scored = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(score=next(scores)))
    fit(run, scored, best, callbacks.Checkpoint(tmp_path, keep=2, every=2))
    resumed = compiled()
    resumed.restore(tmp_path)
    assert int(resumed.state.epoch) == int(run.state.epoch) == 1
    run.save(tmp_path, keep=2)  # what is there already stays
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]


def test_a_run_that_was_broken_off_twice_in_an_epoch_goes_on_where_it_was(tmp_path):
    run = compiled(chunk=1)
    with pytest.raises(BrokenError):
        fit(run, BreaksAt(0, 1))  # two steps are taken, as the chunk that follows is under way
    run.save(tmp_path)
    resumed = compiled(chunk=1)
    resumed.restore(tmp_path)
    with pytest.raises(BrokenError):
        fit(resumed, BreaksAt(0, 3))
    fit(resumed)
    assert int(resumed.state.step) == 5 * EPOCHS


def test_a_state_that_is_set_back_after_a_second_break_goes_on_from_there(tmp_path):
    run = compiled(chunk=1)
    with pytest.raises(BrokenError):
        fit(run, BreaksAt(0, 1))
    run.save(tmp_path)
    resumed = compiled(chunk=1)
    resumed.restore(tmp_path)
    copy = jax.tree.map(jnp.copy, resumed.state)
    with pytest.raises(BrokenError):
        fit(resumed, BreaksAt(0, 3))
    resumed.state = copy
    fit(resumed)
    straight = compiled(chunk=1)
    fit(straight)
    assert_same_bits(leaves(resumed.state), leaves(straight.state))


def test_ctrl_c_saves_though_nobody_reads_on(tmp_path):
    """As `tee` dies of the same Ctrl-C."""
    with start(f"train_slowly({str(tmp_path)!r})") as process:
        for _ in range(4):
            assert process.stdout.readline() == "step\n"
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert checkpoint.latest(tmp_path).parent.name == "partial"
