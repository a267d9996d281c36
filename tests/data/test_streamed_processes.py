"""However a run ends, its decoding processes end too, and nothing but the run's own error is printed."""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from streamed_sources import Telling, plan, small

PIDS = range(2**22)  # one class for each process number that Linux gives
SCRIPT = """
import os, signal, sys, time
import numpy as np
sys.path.insert(0, {tests!r})
from streamed_sources import Telling, plan, small

signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background are begun with it ignored
dataset = small(Telling(400), class_names=range(2**22), image_size=96, workers=1)  # enough for shared memory
batches = dataset.batches(plan(np.arange(400)), train=True)
worker = int(next(batches).labels[0])
print(worker, flush=True)
{rest}
"""


@contextlib.contextmanager
def running(rest):
    """A script that reads one batch in another process, and the number of that process."""
    code = SCRIPT.format(tests=str(pathlib.Path(__file__).parents[1] / "helpers"), rest=rest)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as script:
        try:
            yield script, int(script.stdout.readline())
        finally:
            script.kill()


def gone(process, seconds=30):
    """Whether a process ends in time; one that waits for its parent to notice has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="looks at processes as Linux has"),
]


def test_an_iteration_that_is_broken_off_leaves_no_process():
    dataset = small(Telling(400), class_names=PIDS, workers=2)
    batches = dataset.batches(plan(np.arange(400)), train=True)
    processes = {int(next(batches).labels[0]) for _ in range(2)}
    assert len(processes) == 2
    assert os.getpid() not in processes
    batches.close()
    assert all(gone(process, seconds=0.1) for process in processes)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_an_exception_ends_the_processes_although_the_iterator_is_still_there():
    with running("os.kill(worker, signal.SIGTERM); [next(batches) for _ in range(20)]; raise ValueError('stop')") as (
        script,
        worker,
    ):
        _, errors = script.communicate(timeout=60)
    assert errors.strip().endswith("ValueError: stop")  # which twenty more batches preceded
    assert errors.count("Traceback") == 1
    assert "leaked" not in errors
    assert gone(worker, seconds=0.1)


def test_ctrl_c_ends_them_quietly():
    with running("time.sleep(60)") as (script, worker):
        os.killpg(script.pid, signal.SIGINT)
        _, errors = script.communicate(timeout=60)
    assert errors.strip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1
    assert gone(worker, seconds=0.1)


def test_they_do_not_outlive_a_run_that_was_killed():
    with running("time.sleep(60)") as (script, worker):
        script.kill()
        assert gone(worker)
