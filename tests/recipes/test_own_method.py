"""Methods from a file of one's own: what is read, what is refused, and how a record knows them."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from jaxkd import losses, recipes
from jaxkd.config import DataConfig, RunConfig, TeacherConfig

GOOD = """
import jax.numpy as jnp
from jaxkd import losses

WIDTH = 8

class Centred(losses.Loss):
    def __init__(self, gain: float = 1.0):
        self.gain = losses.HyperParameter(jnp.float32(gain))

    def __call__(self, student, teacher, batch, progress, key):
        return ((self.gain[...] * student.logits - teacher.logits) ** 2).mean()

def build(temperature=4.0, epochs=20, standardize=False):
    terms = {"ce": losses.CrossEntropy(), "kd": losses.KD(temperature, standardize)}
    return terms, {"ce": 0.1, "kd": losses.warmup(epochs)}

def remembers(labels, negatives=2):
    return {"ce": losses.CrossEntropy(), "crd": losses.CRD(labels, negatives=int(negatives))}

def needs(gamma):
    return losses.KD(gamma)

def number():
    return 0.5

def of_a_class():
    return {"kd": losses.KD}

def strays():
    return losses.KD(4.0), {"ce": 1.0}

def by_lambda():
    return losses.KD(4.0), {"kd": lambda epoch: epoch / 20}

def not_finite():
    return losses.KD(4.0), {"kd": float("nan")}

def fails():
    return losses.KD(-1.0)

ready = Centred()
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_loss.py").write_text(GOOD)
    return tmp_path / "my_loss.py"


def test_a_function_says_losses_weights_and_settings(file):
    method = recipes.get_method("my_loss.py:build")
    assert (method.name, method.settings) == ("my_loss.build", {"temperature": 4.0, "epochs": 20})
    assert method.weights == {"ce": 0.1, "kd": losses.warmup(20)}
    assert (method.needs_teacher, method.teaching_term, method.needs_labels) == (True, "kd", False)
    changed = recipes.get_method("my_loss.py:build", temperature=2.0, weights={"ce": 0.5})
    assert float(changed.losses()["kd"].temperature.value[...]) == 2.0
    assert changed.weights["ce"] == 0.5
    assert method.file.sha256 == method.describe()["sha256"]
    assert len(method.file.sha256) == 64


def test_a_class_is_a_method_by_itself(file):
    method = recipes.get_method("my_loss.py:Centred", gain=2.0)
    [(name, loss)] = method.losses().items()
    assert (name, float(loss.gain[...])) == ("centred", 2.0)
    assert method.weights == {"centred": 1.0}
    assert method.losses()["centred"] is not loss


def test_labels_are_those_of_the_training_set(file):
    method = recipes.get_method("my_loss.py:remembers")
    assert method.needs_labels
    assert method.settings == {"negatives": 2}
    with pytest.raises(ValueError, match="remembers every training image"):
        method.losses()


def test_equal_files_build_equal_classes_wherever_they_lie(file, tmp_path):
    one, other = (recipes.get_method(f"{place}:build") for place in ("my_loss.py", file))
    assert one.build.made is other.build.made  # so that runs share what was compiled
    before = one.build.made
    file.write_text(GOOD + "\n# another\n")
    after = recipes.get_method("my_loss.py:build")
    assert after.build.made is not before
    assert after.file.sha256 != one.file.sha256


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_los.py:build", r"there is no file my_los.py; it was looked for in /"),
        ("my_loss.py", r"names no function of that file: write my_loss.py:\w+; it has Centred, build"),
        ("my_loss.py:", r"write my_loss.py:\w+; it has"),
        ("my_loss.py:biuld", r"has no 'biuld'; did you mean build\? it has Centred, build"),
        ("my_loss.py:WIDTH", r"is 8: name a function or class"),
        ("my_loss.py:ready", "name a function or class that makes a loss, since every run has its own"),
        ("my_loss.py:needs", r"'gamma' has no default.*as in gamma=1.0; --setting gamma=2"),
        ("my_loss.py:number", "returned float 0.5: return a loss, or losses by name"),
        ("my_loss.py:of_a_class", "its term 'kd' is the class KD, not a loss"),
        ("my_loss.py:strays", "a weight for ce, but its terms are kd"),
        ("my_loss.py:by_lambda", r"my_loss.*: the weight of 'kd' is <function .*: give a number, or a dataclass"),
        ("my_loss.py:not_finite", "the weight of 'kd' is nan: give a finite number"),
        ("my_loss.py:fails", r"fails\(\) raised ValueError: temperature"),
        ("kdd", r"no method is called 'kdd'; there are .*my_loss.py:build; did you mean kd, "),
    ],
)
def test_what_is_no_method_is_refused_with_the_cure(file, name, message):
    with pytest.raises(ValueError, match=message):
        recipes.get_method(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def build(:\n    pass\n", r"my_loss.py, line 1: SyntaxError"),
        ("import numpy\n\n1 / 0\n", r"my_loss.py, line 3: ZeroDivisionError: division by zero"),
        ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("", "has no 'build'; it has none"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told_with_its_line(file, text, message):
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        recipes.get_method("my_loss.py:build")


@pytest.mark.parametrize(("setting", "message"), [("temprature", "has no setting 'temprature'"), ("temperature", "-1")])
def test_settings_are_checked_as_those_of_the_library(file, setting, message):
    with pytest.raises(ValueError, match=message):
        recipes.get_method("my_loss.py:build", **{setting: -1})


def test_a_record_knows_the_file_and_refuses_another(file):
    method = recipes.get_method("my_loss.py:build", temperature=2.0)
    config = RunConfig(
        network="resnet8",
        data=DataConfig("digits"),
        training=recipes.get_training("digits"),
        method=method,
        teacher=TeacherConfig(pathlib.Path("t.pth"), "resnet14"),
    )
    assert config.folder.name == "digits-resnet14-resnet8-my_loss.build-seed0"
    written = json.loads(json.dumps(config.to_dict()))
    assert written["arguments"]["method_file"] == "my_loss.py:build"
    assert written["settings"]["method"]["sha256"] == method.file.sha256
    read = RunConfig.from_dict(written)
    assert read.method == method
    assert read == config
    file.write_text(GOOD + "\n# another\n")
    with pytest.raises(ValueError, match=r"was built by a file whose SHA-256.*it was changed since"):
        RunConfig.from_dict(written)
    del written["arguments"]["method_file"]
    with pytest.raises(ValueError, match=r"no method is called 'my_loss.build'"):
        RunConfig.from_dict(written)


def test_the_losses_of_a_file_are_those_of_the_library(file):
    theirs, ours = recipes.get_method("my_loss.py:build").losses(), recipes.get_method("kd").losses()
    assert theirs.keys() == ours.keys()
    assert type(theirs["kd"]) is type(ours["kd"])
    assert dataclasses.replace(recipes.get_method("kd"), file=None) == recipes.get_method("kd")
    assert np.isclose(float(theirs["kd"].temperature.value[...]), 4.0)
