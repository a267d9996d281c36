"""Several processes are one run: its weights, its records, and its end when one of them dies."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import python_path
from tiny import TinyNet, digits, leaves

import jaxkd
from jaxkd import callbacks, data, distributed, losses, optimizers
from jaxkd.data.pipeline import workers
from jaxkd.data.transforms.resized_crop import RandomResizedCrop, ResizedCentreCrop
from jaxkd.distributed import _check_own_name, _from_variables
from jaxkd.training import checkpoint, preemption
from jaxkd.training.state import fingerprint

EPOCHS = 3


def examples(streamed):
    """Training and test digits, in memory or read one by one; training epochs end in a batch that does not divide."""
    train, test = digits()
    train, test = train.subset(71), test.subset(63)  # 16, 16, 16, 16 and 7
    if not streamed:
        return train, test
    whole = ResizedCentreCrop(8, 8)
    return tuple(
        data.StreamedDataset(
            list(zip(part.images, part.labels, strict=True)), part.class_names, part.normalization,
            RandomResizedCrop(8), whole, workers=0,
        )
        for part in (train, test)
    )  # fmt: skip


def train(folder, pause=0.0, streamed=False):
    """Trains with a checkpoint after each epoch, going on from what there is; the end is in a file per process."""
    folder = pathlib.Path(folder)
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=TinyNet(seed=1))
    terms = {"ce": losses.CrossEntropy(), "kd": losses.KD(losses.CurriculumTemperature())}
    distiller.compile(optimizers.sgd(0.1, momentum=0.9), loss=terms, seed=3, steps_per_execution=1)
    slowly = callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: time.sleep(pause))
    records = [callbacks.CSVLogger(folder / "log.csv"), callbacks.Checkpoint(folder / "checkpoints")]
    images, test = examples(streamed)
    distiller.fit(images, test, epochs=EPOCHS, batch_size=16, callbacks=[slowly, *records], resume="auto")
    distiller.save(folder / "checkpoints")  # once more: all processes have to see that it is there already
    ends = {"logits": distiller.predict(digits()[1].images[:5]), "evaluated": list(distiller.evaluate(test).values())}
    state = {str(number): leaf for number, leaf in enumerate(leaves(distiller.state))}
    np.savez(folder / f"end{jax.process_index()}.npz", **ends, **state)


def start_two(folder, pause=0.0, streamed=False, call=None):
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = call or f"train({str(folder)!r}, {pause}, {streamed})"
    script = f"import jaxkd; jaxkd.distributed.initialize(); import test_hosts; test_hosts.{call}"
    common = os.environ | {
        "PYTHONPATH": python_path(__file__),
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [
        subprocess.Popen([sys.executable, "-c", script], env=common | {"JAX_PROCESS_ID": str(number)}, **pipes)
        for number in range(2)
    ]


def finish(processes, seconds=120):
    return [process.communicate(timeout=seconds)[0] for process in processes]


def wait_for(path, processes):
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


def ends(folder):
    return [dict(np.load(folder / f"end{number}.npz")) for number in range(2)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts") / "two"
    processes = start_two(folder)
    outputs = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    return folder, outputs


@pytest.mark.thorough
def test_two_processes_end_where_one_does(straight, tmp_path):
    train(tmp_path)
    one = np.load(tmp_path / "end0.npz")
    for end in ends(straight[0]):
        assert end.keys() == set(one.files)
        for name, values in end.items():
            np.testing.assert_allclose(values, one[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_two_processes_that_each_read_their_share_end_where_one_does(tmp_path):
    train(tmp_path, streamed=True)
    processes = start_two(tmp_path / "two", streamed=True)
    outputs = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    one = np.load(tmp_path / "end0.npz")
    for end in ends(tmp_path / "two"):
        for name, values in end.items():
            np.testing.assert_allclose(values, one[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.thorough
def test_both_processes_have_the_same_bits(straight):
    first, second = ends(straight[0])
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.thorough
def test_the_first_process_alone_shows_and_writes(straight):
    folder, (first, second) = straight
    assert "epoch 3/3" in first
    assert "epoch" not in second
    assert len((folder / "log.csv").read_text().splitlines()) == 1 + EPOCHS


@pytest.mark.thorough
def test_their_checkpoint_fits_one_process(straight, tmp_path):
    (tmp_path / "checkpoints").symlink_to(straight[0] / "checkpoints")
    train(tmp_path)
    one, two = np.load(tmp_path / "end0.npz"), ends(straight[0])[0]
    for name in set(two) - {"logits", "evaluated"}:
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_the_other_ends_and_a_restart_resumes(victim, straight, tmp_path):
    folder = tmp_path / "killed"
    processes = start_two(folder, pause=0.3)
    wait_for(folder / "checkpoints" / "1", processes)
    processes[victim].send_signal(signal.SIGKILL)
    outputs = finish(processes, seconds=60)
    assert processes[1 - victim].returncode not in (0, None), outputs
    assert not list(folder.glob("end*"))
    restarted = start_two(folder)
    outputs = finish(restarted)
    assert [process.returncode for process in restarted] == [0, 0], outputs
    assert "resuming after epoch" in outputs[0]
    for ours, theirs in zip(ends(folder), ends(straight[0]), strict=True):
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.slow
def test_sigterm_to_one_ends_both_at_the_same_step(straight, tmp_path):
    folder = tmp_path / "terminated"
    processes = start_two(folder, pause=0.3)
    wait_for(folder / "checkpoints" / "1", processes)
    processes[1].send_signal(signal.SIGTERM)
    outputs = finish(processes, seconds=60)
    assert [process.returncode for process in processes] == [75, 75], outputs
    assert checkpoint.latest(folder / "checkpoints").parent.name == "partial"
    restarted = start_two(folder)
    outputs = finish(restarted)
    assert [process.returncode for process in restarted] == [0, 0], outputs
    for ours, theirs in zip(ends(folder), ends(straight[0]), strict=True):
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS is not set"),
        ({"RANK": "0", "MASTER_ADDR": "a"}, "WORLD_SIZE is not set"),
        ({"MASTER_ADDR": "a", "WORLD_SIZE": "2", "RANK": "2"}, "RANK='2': give a count, and a number below it"),
    ],
)
def test_variables_that_contradict_each_other(variables, message):
    with pytest.raises(ValueError, match=message):
        _from_variables(variables)


def test_a_machine_that_does_not_find_itself_is_told(monkeypatch):
    def unknown(name, port):
        raise socket.gaierror

    monkeypatch.setattr(socket, "gethostname", lambda: "bare")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for platforms, outcome in (
        ("cpu", pytest.raises(RuntimeError, match=r"add the line '127[.]0[.]0[.]1 bare' to /etc/hosts")),
        ("cuda", pytest.warns(UserWarning, match=r"'bare', does not resolve")),
    ):
        config = types.SimpleNamespace(jax_platforms=platforms)
        monkeypatch.setattr(distributed, "jax", types.SimpleNamespace(config=config))
        with outcome:
            _check_own_name()


def test_what_torchrun_sets():
    found = _from_variables({"MASTER_ADDR": "node0", "MASTER_PORT": "1234", "WORLD_SIZE": "4", "RANK": "3"})
    assert found == {"coordinator_address": "node0:1234", "num_processes": 4, "process_id": 3}
    assert _from_variables({"SLURM_JOB_ID": "7", "MASTER_ADDR": "node0"}) == {}


@pytest.mark.parametrize(
    ("local", "visible", "own"),
    [("1", "", {}), ("2", "", {"local_device_ids": [1]}), ("2", "4,5", {"local_device_ids": [1]}), ("2", "5", {})],
)
def test_of_several_processes_on_a_machine_each_takes_a_gpu(local, visible, own):
    given = {"MASTER_ADDR": "node0", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": local}
    found = _from_variables(given | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {}))
    assert {name: value for name, value in found.items() if name.startswith("local")} == own


def test_the_requests_of_several_processes_rise_from_one_fit_to_the_next(monkeypatch):
    asked = []
    monkeypatch.setattr(preemption.jax, "process_count", lambda: 2)
    monkeypatch.setattr(preemption.multihost_utils, "reached_preemption_sync_point", asked.append)
    for _ in range(2):
        with preemption.Termination(wanted=True) as termination:
            termination.requested()
            termination.requested()
    assert asked == list(range(asked[0], asked[0] + 4))


@pytest.mark.thorough
def test_alone_it_says_how_to_start_several():
    script = "import jaxkd; jaxkd.distributed.initialize()"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert "no group of processes was found: start them under SLURM" in done.stderr.splitlines()[-1]


def begin_with(seeds):
    """Compiles, in one of several processes, with a seed of its own."""
    student = TinyNet(seed=seeds[jax.process_index()])
    distiller = jaxkd.Distiller(student=student, teacher=TinyNet(seed=1))
    distiller.compile(optimizers.sgd(0.1), losses.KD(4.0))


def test_arrays_of_any_type_have_a_digest():
    types = (jnp.float32, jnp.bfloat16, jnp.int32, jnp.bool_)
    assert len({fingerprint([jnp.ones((2, 3), dtype)]) for dtype in types}) == len(types)
    assert fingerprint([jax.random.key(0)]) != fingerprint([jax.random.key(1)])


def test_processes_that_begin_with_different_weights_are_told(tmp_path):
    for printed in finish(start_two(tmp_path, call="begin_with((0, 1))")):
        assert "ValueError: the processes of this run have different weights: give all the same files" in printed


def test_processes_that_see_different_checkpoints_are_told(tmp_path, monkeypatch):
    (tmp_path / "3").mkdir()
    assert checkpoint.is_begun(tmp_path)
    assert not checkpoint.is_begun(tmp_path / "elsewhere")
    monkeypatch.setattr(checkpoint.jax, "process_count", lambda: 2)
    gathered = checkpoint.multihost_utils
    monkeypatch.setattr(gathered, "process_allgather", lambda own: np.stack([own, own]))
    assert checkpoint.is_begun(tmp_path)
    monkeypatch.setattr(gathered, "process_allgather", lambda own: np.stack([own, own + 1]))
    with pytest.raises(OSError, match=r"see different checkpoints in .*, this one 3: give a folder that all of them"):
        checkpoint.is_begun(tmp_path)


def test_processes_ask_each_other_for_the_time_seldom(tmp_path, monkeypatch):
    asked = []
    saved = callbacks.Checkpoint(tmp_path, every_minutes=1e9)
    monkeypatch.setattr("jaxkd.callbacks.checkpoint.jax.process_count", lambda: 2)
    monkeypatch.setattr(
        "jaxkd.callbacks.checkpoint.multihost_utils.broadcast_one_to_all", lambda late: asked.append(late) or late
    )
    saved.set_trainer(types.SimpleNamespace(last_steps={"loss": np.zeros(1)}))
    saved.on_train_begin()
    for step in range(120):
        saved.on_train_batch_end(step)
    assert len(asked) == 2


def test_each_of_several_processes_on_a_machine_decodes_in_its_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(workers, "_cores", lambda: 32)
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 32)
    monkeypatch.setattr(workers, "_main_can_be_imported", lambda: True)
    assert workers.processes(None) == 32
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert workers.processes(None) == 4
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 64)  # its affinity is its own already
    assert workers.processes(None) == 32
