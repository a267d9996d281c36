"""Runs killed at random moments lose nothing that was saved, and end bit for bit where one left alone ends."""

import json
import pathlib

import killed_runs
import numpy as np
import pytest
from tiny import assert_same_bits


def killed_until_the_end(run, folder, kills, seed, mean_seconds, pause):
    """Kills a run so many times, begun anew whenever it got to its end, and compares every end with that of one that
    was left alone."""
    whole, _ = killed_runs.end(run, folder / "whole")
    rng, log, part, on_disk = np.random.default_rng(seed), [], 0, 0
    while len(log) < kills:
        seconds = float(rng.exponential(mean_seconds))
        resumed, saved, finished = killed_runs.kill(run, folder / str(part), seconds, pause)
        assert resumed >= on_disk, f"step {on_disk} was on disk, and the run went on from {resumed}"
        on_disk = max(saved, resumed)
        if finished:
            assert_same_bits(dict(np.load(folder / str(part) / "end.npz")), whole)
            part, on_disk = part + 1, 0
            continue
        log.append({"run": run, "resumed": resumed, "saved": saved, "seconds": round(seconds, 3)})
    resumed, output = killed_runs.end(run, folder / str(part))
    assert killed_runs.resumed_step(output.splitlines()) >= on_disk
    assert_same_bits(resumed, whole)
    return log


@pytest.mark.slow
@pytest.mark.parametrize("run", ["resident-ctkd", "streamed-crd"])
def test_a_run_that_is_killed_ends_the_same(run, tmp_path):
    killed_until_the_end(run, tmp_path, kills=1, seed=None, mean_seconds=0.3, pause=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("run", killed_runs.RUNS)
def test_a_hundred_kills_in_all(run, tmp_path):
    log = killed_until_the_end(run, tmp_path, kills=25, seed=killed_runs.RUNS.index(run), mean_seconds=0.4, pause=0.01)
    print(json.dumps(log))
    assert len({entry["saved"] for entry in log}) > 5, "they are to be killed at many different steps"
    pathlib.Path(tmp_path / "log.json").write_text(json.dumps(log))
