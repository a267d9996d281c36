"""The published checkpoints: their logits and, on all 10,000 test images, their accuracy."""

import json

import numpy as np
import pytest
from reference import GOLDENS
from sweeps import sweep

import jaxkd
from jaxkd import convert, data
from jaxkd.formats.files import sha256

INDEX = {entry["file"]: entry for entry in json.loads((GOLDENS / "checkpoints/index.json").read_text())}
SMALLEST = "cifar100_resnet20.pth"


@pytest.fixture(scope="session")
def cifar(request):
    """The test images of a published file's data set."""

    def load(file: str):
        name = file.partition("_")[0]
        return data.load(name, request.getfixturevalue(f"{name}_dir"), split="test")

    return load


@pytest.fixture(scope="session")
def published(shared):
    """A published file's model."""

    def load(file: str):
        path = shared / "checkpoints" / file
        if not path.is_file():
            pytest.skip(f"needs {path}")
        assert sha256(path) == INDEX[file]["sha256"]
        return convert.from_torch(path, INDEX[file]["architecture"].partition(",")[0])

    return load


@sweep("file", INDEX, core=[SMALLEST])
def test_conversion_and_first_logits(file, published, cifar):
    model, entry = published(file), INDEX[file]
    assert model.num_classes == (100 if file.startswith("cifar100") else 10)
    assert (list(model.normalization.mean), list(model.normalization.std)) == (entry["mean"], entry["std"])
    assert dict(model.options) == ({"shortcut": "pad"} if "option-A" in entry["architecture"] else {})
    logits = model(model.normalization(cifar(file).images[:64])).logits
    np.testing.assert_allclose(logits, np.load(GOLDENS / f"checkpoints/{file}.npz")["logits_first_64"], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("file", INDEX)
def test_accuracy_on_the_whole_test_set(file, published, cifar):
    logs = jaxkd.Trainer(published(file)).evaluate(cifar(file))
    assert abs(logs["accuracy"] * 10_000 - INDEX[file]["top1_correct"]) <= 3
    assert abs(logs["top5"] * 10_000 - INDEX[file]["top5_correct"]) <= 3


@sweep("file", INDEX, core=[SMALLEST])
def test_pytorch_reads_back_what_was_converted(file, published, shared, tmp_path):
    torch = pytest.importorskip("torch")
    convert.to_torch(published(file), tmp_path / "x.pth")
    ours = torch.load(tmp_path / "x.pth", weights_only=True)
    theirs = torch.load(shared / "checkpoints" / file, weights_only=True, map_location="cpu")
    theirs = {key.removeprefix("module."): value for key, value in theirs.get("state_dict", theirs).items()}
    theirs = {key.replace("linear.", "fc."): value for key, value in theirs.items()}
    kept = [key for key in ours if key in theirs]
    assert kept == list(theirs)
    assert all(key.endswith("num_batches_tracked") for key in ours if key not in theirs)
    for key in kept:
        assert key.endswith("num_batches_tracked") or torch.equal(ours[key], theirs[key])
