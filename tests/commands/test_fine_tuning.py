"""Networks that start from weights of other classes, and methods from a file, run as a user runs them."""

import json

import numpy as np
import pytest
from broken_off import broken_off

from jaxkd import convert, models, records, report
from jaxkd.commands import distill, train
from jaxkd.formats import torch_reader
from jaxkd.types import IMAGENET_NORMALIZATION

SMALL = ["--data", "digits", "--batch-size", "479", "--epochs", "2", "--quiet"]
METHOD = """
import jax.numpy as jnp
from jaxkd import losses

class Centred(losses.Loss):
    def __call__(self, student, teacher, batch, progress, key):
        return jnp.square(student.logits - teacher.logits).mean()

def build(gain=1.0):
    return {"ce": losses.CrossEntropy(), "centred": Centred()}, {"centred": gain}
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Weights of a network of a hundred classes, in the layout of PyTorch."""
    path = tmp_path_factory.mktemp("published") / "resnet8.pth"
    convert.to_torch(models.create("resnet8", num_classes=100, seed=5), path)
    return path


@pytest.fixture(scope="module")
def tuned(published):
    """A run directory with a teacher that was fine-tuned for two epochs, and the command line that made it."""
    path = published.parent / "tuned"
    arguments = ["--init", str(published), "--head-learning-rate", "0.1", "--output", str(path), *SMALL]
    assert train.main(arguments) == 0
    return path, arguments


def read(path, name="config.json"):
    return json.loads((path / name).read_text())


def test_weights_of_other_classes_get_a_fresh_classifier_and_the_record_says_so(tuned, published):
    path, _ = tuned
    settings, arguments = (read(path)[part] for part in ("settings", "arguments"))
    assert settings["init"]["head_learning_rate"] == 0.1
    assert settings["init"]["freeze"] is False
    assert len(settings["init"]["sha256"]) == 64
    assert (settings["model"], arguments["init"]) == ("resnet8", str(published))
    matched = "the classifier of 100 classes was replaced by a fresh one of 10 (seed 0)"
    assert read(path, "result.json")["model"]["matched"] == matched
    source = convert.load(path / "model").source
    assert (source.file, source.matched) == ("resnet8.pth", matched)
    assert torch_reader.read(path / "model.pth")["fc.weight"].shape == (10, 64)


def test_fine_tuning_says_what_it_starts_from(published, tmp_path, capsys):
    arguments = ["--init", str(published), "--freeze", "--output", str(tmp_path / "a"), *SMALL]
    assert train.main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"resnet8 starts from {published}: the classifier of 100 classes was replaced by a fresh one" in printed
    assert "fc alone is trained, 650 of 78,042 parameters; the rest is frozen, and BatchNorm keeps its" in printed
    before, after = torch_reader.read(published), torch_reader.read(tmp_path / "a" / "model.pth")
    for key, value in before.items():
        if key not in ("fc.weight", "fc.bias"):
            np.testing.assert_array_equal(after[key], value, err_msg=key)
    fresh = convert.to_state_dict(models.create("resnet8", num_classes=10, seed=0))
    assert (after["fc.weight"] != fresh["fc.weight"]).any()


@pytest.mark.slow
def test_a_fine_tuned_run_that_was_killed_ends_with_the_same_bits(tuned, tmp_path):
    whole, arguments = tuned
    arguments = [*arguments, "--output", str(tmp_path / "run")]
    broken_off(train.main, arguments)
    assert train.main([*arguments, "--resume"]) == 0
    ours, theirs = (torch_reader.read(path / "model.pth") for path in (tmp_path / "run", whole))
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value, err_msg=key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--freeze", "--model", "resnet8"],
            "--freeze is for a network that was trained before: name its",
        ),
        (["--head-learning-rate", "1", "--model", "resnet8"], "--head-learning-rate is for a network that was trained"),
        (["--init", "WEIGHTS", "--model", "resnet20"], "does not fit resnet20"),
        (["--init", "no.pth"], "no.pth: there is no such file or folder"),
        (["--init", "no.pth", "--model", "resnet8"], "no.pth"),
        (["--init", "WEIGHTS", "--head-learning-rate", "-1"], "head_learning_rate=-1.0: give a number above 0"),
        (["--init", "WEIGHTS", "--output", "RUN", "--resume"], "init.head_learning_rate was 0.1 and is None"),
    ],
)
def test_what_does_not_go_together_is_refused(published, tuned, arguments, message, capsys):
    places = {"WEIGHTS": str(published), "RUN": str(tuned[0])}
    with pytest.raises(SystemExit, match="2"):
        train.main([*(places.get(one, one) for one in arguments), *SMALL])
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_weights_of_a_run_start_another_and_keep_their_normalisation(tuned, tmp_path):
    network = convert.load(tuned[0] / "model")
    network.normalization = IMAGENET_NORMALIZATION
    convert.save(network, tmp_path / "saved")
    arguments = ["--init", str(tmp_path / "saved"), "--output", str(tmp_path / "run"), *SMALL]
    assert train.main(arguments) == 0
    result = read(tmp_path / "run", "result.json")["model"]
    assert result["normalization"] == [list(values) for values in IMAGENET_NORMALIZATION]
    assert convert.load(tmp_path / "run" / "model").normalization == IMAGENET_NORMALIZATION


@pytest.mark.thorough
def test_a_student_starts_from_weights_and_learns_by_a_method_from_a_file(tuned, published, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(METHOD)
    method = f"{tmp_path / 'mine.py'}:build"
    arguments = [
        *("--teacher", str(tuned[0]), "--student-init", str(published), "--method", method),
        *("--setting", "gain=0.5", "--weight", "ce=2", "--output", str(tmp_path / "runs" / "own"), *SMALL),
    ]
    assert distill.main(arguments) == 0
    assert "resnet8 starts from" in capsys.readouterr().out
    run = records.read(tmp_path / "runs" / "own")
    assert (run.method, run.network) == ("mine.build", "resnet8")
    assert run.settings["method"]["weights"] == {"ce": 2.0, "centred": 1.0}
    assert run.settings["method"]["settings"] == {"gain": 0.5}
    assert np.isfinite(run.history.last("centred"))
    assert run.student().num_classes == 10
    page = report.write([tmp_path / "runs"], tmp_path / "report.html")
    assert "mine.build" in page.read_text()
    (tmp_path / "mine.py").write_text(METHOD + "\n# changed\n")
    with pytest.raises(SystemExit, match="2"):
        distill.main([*arguments, "--resume"])
    assert "method.sha256 was" in capsys.readouterr().err


@pytest.mark.slow
def test_seeds_of_a_method_from_a_file_are_one_program(tuned, published, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(METHOD)
    method = f"{tmp_path / 'mine.py'}:build"
    arguments = ["--teacher", str(tuned[0]), "--student-init", str(published), "--method", method]
    own = [option for option in SMALL if option != "--quiet"]
    assert distill.several([*arguments, *own], {0: tmp_path / "0", 1: tmp_path / "1"}, None) == 0
    assert "2 of 2 runs in one program" in capsys.readouterr().out
    zero, one = (torch_reader.read(tmp_path / seed / "student.pth") for seed in ("0", "1"))
    assert (zero["fc.weight"] != one["fc.weight"]).any()
