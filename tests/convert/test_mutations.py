"""Damaged files end in intact weights or in one error, soon, within a gibibyte, and nothing of them runs.

`tests/helpers/mutations.py` says what is done to them, `read_mutants.py` beside it within which bounds they are read;
by hand, `python tests/helpers/read_mutants.py some.pth 0 1000`.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from seeded import seeded
from torch_bytes import write_legacy_weights

from jaxkd import convert

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform != "linux", reason="limits and measures memory as Linux does"),
]

WORKER = pathlib.Path(__file__).parents[1] / "helpers" / "read_mutants.py"


def outcome(file: pathlib.Path, first: int, count: int) -> dict:
    command = [sys.executable, WORKER, file, str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def small_file(kind: str, folder: pathlib.Path) -> pathlib.Path:
    model = seeded("resnet8", shortcut="pad")
    if kind == "legacy":
        weights = {key: np.ascontiguousarray(value) for key, value in convert.to_state_dict(model).items()}
        floats = {key: value for key, value in weights.items() if value.dtype == np.float32}  # as old files hold
        return write_legacy_weights(folder / "small.th", floats)
    path = folder / ("small.pth" if kind == "zip" else "small.safetensors")
    convert.to_torch(model, path)
    return path


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_some_hundred_mutations(kind, tmp_path):
    report = outcome(small_file(kind, tmp_path), first=0, count=100)
    assert report["problems"] == []
    assert report["read"] + report["refused"] == 100
    assert report["read"] > 5
    assert report["refused"] > 50
    assert report["slowest"][0] < 2
    assert report["largest"][0] < 2**30


PORTIONS = [
    ("cifar100_resnet20.pth", 0, 2500),
    ("cifar100_resnet56.pth", 10_000, 1000),
    ("cifar10_resnet20-12fca82f.th", 20_000, 2500),
    ("cifar10_resnet56-4bfd9763.th", 30_000, 1000),
    ("cifar100_resnet20.safetensors", 40_000, 2000),
    ("cifar10_resnet56-4bfd9763.safetensors", 50_000, 1000),
]
"""Published files, the seeds of their mutations, and how many: ten thousand in all."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "first", "count"), PORTIONS, ids=[name for name, *_ in PORTIONS])
def test_ten_thousand_mutations_of_published_files(name, first, count, shared, tmp_path):
    folder = shared / "checkpoints"
    if name.endswith(".safetensors"):
        published = next(path for path in folder.iterdir() if path.stem == pathlib.Path(name).stem)
        convert.to_torch(convert.from_torch(published), tmp_path / name)
        folder = tmp_path
    report = outcome(folder / name, first, count)
    print(json.dumps(report))
    assert report["problems"] == []
    assert report["read"] + report["refused"] == count
    assert report["slowest"][0] < 2
    assert report["largest"][0] < 2**30


def test_the_portions_are_ten_thousand():
    assert sum(count for _, _, count in PORTIONS) == 10_000
