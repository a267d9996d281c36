"""The walk of the page on one's own data, by the page's own commands, as a new user goes it."""

import pathlib
import re
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
from image_tree import PHOTOGRAPHS, image_tree

from jaxkd import convert, models, records
from jaxkd.formats import torch_reader

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
LINES = re.compile(
    r"resnet18 starts from resnet18.pth: the classifier of 1000 classes was replaced by a fresh one of 5 \(seed 0\)"
    r"|fc alone is trained, 2,565 of 11,179,077 parameters; the rest is frozen, and BatchNorm keeps its \w+ \w+"
    r"|warning: photographs/\S+ \([^)]*\) cannot be read: \d of at most 100 in 'folder'"
    r"|epoch \d+/\d+ · loss .*val_accuracy [\d.]+ .*left"
    r"|(last|best) epoch +\d+: test top-1 [\d.]+%, top-5 100.00%( +\(the one this recipe reports\))?"
    r"|everything is in runs/(teacher|student|frozen)"
    r"|model resnet18: 11,179,077 parameters; labels alone, recipe repdistiller"
    r"|student mobilenet_v2: 2,230,277 parameters; KD, recipe repdistiller"
    r"|teacher resnet18: 11,179,077 parameters; top-1 [\d.]+%, top-5 100.00% of 60 test images"
)


def commands():
    """The page's commands about photographs, as lists of arguments."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if "photographs" in line]


@pytest.mark.slow
def test_from_photographs_to_a_student_for_pytorch(tmp_path):
    tree = image_tree(tmp_path / "photographs", classes=5, train=48, val=12, broken=4, sizes=PHOTOGRAPHS)
    convert.to_torch(models.create("resnet18", num_classes=1000, seed=7), tmp_path / "resnet18.pth")
    teaching, distilling, freezing = commands()
    start = time.monotonic()
    for arguments in (teaching, distilling):
        done = run(arguments, tmp_path)
        assert all(path.name in done for path in tree.broken)
    assert time.monotonic() - start < 600
    teacher, student = (records.read(tmp_path / "runs" / name) for name in ("teacher", "student"))
    assert teacher.last["val_accuracy"] > 0.4
    assert student.last["val_accuracy"] > 0.4
    torch = pytest.importorskip("torch")
    weights = torch.load(tmp_path / "runs" / "student" / "student.pth", weights_only=True)
    ours = convert.to_state_dict(models.create("mobilenet_v2", num_classes=5))
    assert {key: tuple(value.shape) for key, value in weights.items()} == {
        key: value.shape for key, value in ours.items()
    }
    run(freezing, tmp_path)
    before, after = (torch_reader.read(tmp_path / path) for path in ("resnet18.pth", "runs/frozen/model.pth"))
    for key in before.keys() - {"fc.weight", "fc.bias"}:
        np.testing.assert_array_equal(after[key], before[key], err_msg=key)


def run(arguments, folder):
    """Runs a command and gives back what it printed, every line of which is one that is meant to be read."""
    done = subprocess.run(
        [sys.executable, "-m", "jaxkd", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    strange = [line for line in printed.replace("\r", "\n").splitlines() if line.strip() and not LINES.fullmatch(line)]
    assert strange == []
    return printed


def test_the_page_walks_from_photographs_to_a_student():
    assert [arguments[0] for arguments in commands()] == ["train", "distill", "train"]
