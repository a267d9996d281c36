"""Models on disk: weights with the manifest that says what they are, where they are from and how to feed them."""

import dataclasses
import importlib.metadata
import json

import jax
import numpy as np
import pytest
from seeded import HALF, same_weights, seeded

import jaxkd
from jaxkd import Normalization, convert, data, losses, models, optimizers
from jaxkd.convert import ConversionError, manifest
from jaxkd.convert.checkpoint import read_manifest
from jaxkd.formats.files import sha256


def test_save_then_load_is_the_identity(tmp_path):
    model = seeded("resnet14", shortcut="pad")
    model.normalization = HALF
    convert.save(seeded("resnet8"), tmp_path / "model")
    convert.save(model, tmp_path / "model")
    back = convert.load(tmp_path / "model")
    assert (back.name, back.num_classes, back.normalization) == ("resnet14", 10, HALF)
    assert dict(back.options) == {"shortcut": "pad"}
    assert same_weights(back, model)


def test_a_tilde_is_the_home_folder_and_missing_folders_are_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    model = seeded("resnet8")
    convert.save(model, "~/teachers/r8")
    convert.to_torch(model, "~/files/r8.pth")
    for back in (convert.load("~/teachers/r8"), convert.from_torch("~/files/r8.pth")):
        assert same_weights(back, model)
    assert convert.guess("~/files/r8.pth")[0].name == "resnet8"
    with pytest.raises(FileExistsError, match=r"~/files/r8\.pth exists and is not a saved model"):
        convert.save(model, "~/files/r8.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_networks_of_one_architecture_keep_their_own_weights(tmp_path):
    first, second = seeded("resnet8"), models.create("resnet8", num_classes=10, seed=7)
    for model, name in ((first, "first"), (second, "second")):
        convert.save(model, tmp_path / name)
        convert.to_torch(model, tmp_path / f"{name}.pth")
    loaded = {name: convert.load(tmp_path / name) for name in ("first", "second")}
    converted = {name: convert.from_torch(tmp_path / f"{name}.pth", "resnet8") for name in ("first", "second")}
    for found in (loaded, converted):
        assert same_weights(found["first"], first)
        assert same_weights(found["second"], second)
    assert not same_weights(first, second)


def test_save_replaces_nothing_but_a_saved_model(tmp_path):
    model = seeded("resnet8")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    for path in (tmp_path / "thesis", tmp_path / "thesis" / "chapter.txt"):
        with pytest.raises(FileExistsError, match="choose another place"):
            convert.save(model, path)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ConversionError, match="nothing: there is no such folder"):
        convert.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConversionError, match="holds no checkpoint"):
        convert.load(tmp_path / "empty")
    convert.save(seeded("resnet8"), tmp_path / "model")
    with pytest.raises(ConversionError, match=r"the run's network is in .*model"):
        convert.load(tmp_path)
    for file in (tmp_path / "model" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(ConversionError, match="damaged"):
        convert.load(tmp_path / "model")


def test_a_network_of_ones_own_cannot_be_made_again(tmp_path):
    with pytest.raises(ValueError, match="keep its weights with to_torch"):
        convert.save(seeded("resnet8").layer1[0], tmp_path / "block")
    assert not (tmp_path / "block").exists()


# The manifest.


def test_the_manifest_of_a_converted_file(tmp_path):
    convert.to_torch(seeded("resnet8", channels=1), tmp_path / "teacher.pth")
    model = convert.from_torch(tmp_path / "teacher.pth", normalization=Normalization((0.5,), (0.25,)))
    convert.save(model, tmp_path / "teacher")
    found = read_manifest(tmp_path / "teacher")
    weights = manifest.weights_sha256(convert.to_state_dict(model))
    assert found == {
        "format": "jaxkd-model",
        "architecture": "resnet8",
        "options": {"channels": 1},
        "num_classes": 10,
        "normalization": {"mean": [0.5], "std": [0.25]},
        "weights_sha256": weights,
        "source": {
            "file": "teacher.pth",
            "sha256": sha256(tmp_path / "teacher.pth"),
            "weights_sha256": weights,
            "trained_since": False,
        },
        "jaxkd": importlib.metadata.version("jaxkd"),
    }


def test_a_model_that_was_trained_since_says_so(tmp_path):
    """Also after it was saved and loaded again: what it came from stays known, and that it is not that any more."""
    convert.to_torch(seeded("resnet8"), tmp_path / "x.pth")
    model = convert.from_torch(tmp_path / "x.pth", normalization=HALF)
    trainer = jaxkd.Trainer(model)
    trainer.compile(optimizer=optimizers.sgd(0.01))
    params = jax.tree.map(lambda value: value * 0.99, trainer.state.params)  # what a step of training would do
    trainer.state = dataclasses.replace(trainer.state, params=params)
    convert.save(trainer.model, tmp_path / "tuned")
    convert.save(convert.load(tmp_path / "tuned"), tmp_path / "again")
    for folder in ("tuned", "again"):
        found = read_manifest(tmp_path / folder)
        assert (found["source"]["file"], found["source"]["trained_since"]) == ("x.pth", True)
        assert found["source"]["weights_sha256"] != found["weights_sha256"]
        assert found["normalization"] == {"mean": [0.5] * 3, "std": [0.25] * 3}
    assert convert.load(tmp_path / "again").source == convert.load(tmp_path / "tuned").source


def test_a_distilled_student_has_no_source_and_keeps_its_normalization(tmp_path):
    convert.to_torch(seeded("resnet8"), tmp_path / "x.pth")
    teacher = convert.from_torch(tmp_path / "x.pth", normalization=HALF)
    student = models.create("resnet8", num_classes=10)
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    distiller.compile(optimizer=optimizers.sgd(0.01), loss={"kd": losses.KD(4.0)})
    train, _ = data.load("digits")
    distiller.fit(train.subset(32), epochs=1, batch_size=32, verbose=0)
    convert.save(distiller.student, tmp_path / "student")
    found = read_manifest(tmp_path / "student")
    assert (found["architecture"], found["source"]) == ("resnet8", None)
    assert convert.load(tmp_path / "student").normalization == train.normalization
    convert.to_torch(distiller.student, tmp_path / "student.safetensors")
    assert convert.from_torch(tmp_path / "student.safetensors").normalization == train.normalization


def saved_with(change, path):
    """A checkpoint whose manifest was edited."""
    convert.save(seeded("resnet8"), path)
    (file,) = [file for file in path.rglob("*") if file.is_file() and b"jaxkd-model" in file.read_bytes()]
    content = json.loads(file.read_text())
    change(content["custom_metadata"])
    file.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("format", "another", "without a model's manifest"),
        ("architecture", "resnet9", "unknown model"),
        ("architecture", 3, "cannot be read"),
        ("architecture", "resnet14", "missing (30)"),
        ("num_classes", 100, "misshapen (2)"),
        ("num_classes", "ten", "cannot be read"),
        ("options", {"depth": 8}, "cannot be read"),
        ("options", None, "cannot be read"),
        ("normalization", {"mean": [0.5]}, "cannot be read"),
        ("normalization", {"mean": [0.5], "std": [0.0]}, "must be above 0"),
        ("normalization", {"mean": ["a"], "std": [1.0]}, "no lists of numbers"),
        ("source", {"file": "x"}, "cannot be read"),
        ("weights_sha256", "0", "not those it was saved with"),
    ],
)
def test_a_manifest_that_was_tampered_with_is_refused(key, value, reason, tmp_path):
    path = saved_with(lambda content: content.update({key: value}), tmp_path / "model")
    with pytest.raises(ConversionError) as caught:
        convert.load(path)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("key", ["architecture", "options", "num_classes", "normalization", "source", "weights_sha256"])
def test_a_manifest_that_is_incomplete_is_refused(key, tmp_path):
    path = saved_with(lambda content: content.pop(key), tmp_path / "model")
    with pytest.raises(ConversionError, match=f"cannot be read .KeyError.*{key}"):
        convert.load(path)


def test_the_digest_sees_every_number_key_and_shape():
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)}
    changed = [
        {**weights, "a": weights["a"].T},
        {**weights, "a": weights["a"].reshape(3, 2)},
        {**weights, "a": -weights["a"]},
        {"a": weights["a"], "c": weights["b"]},
        {"a": weights["a"]},
    ]
    digests = {manifest.weights_sha256(each) for each in (weights, *changed)}
    assert len(digests) == 1 + len(changed)
    assert manifest.weights_sha256({**weights, "n": np.array(3, np.int64)}) == manifest.weights_sha256(weights)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_fresh_classifier_is_drawn_from_the_seed(tmp_path, kind):
    path = tmp_path / ("model.pth" if kind == "file" else "model")
    (convert.to_torch if kind == "file" else convert.save)(seeded("resnet8"), path)
    drawn = [convert.load_pretrained(path, num_classes=4, seed=seed).model.fc.kernel[...] for seed in (0, 1, 1)]
    assert drawn[0].shape == (64, 4)
    assert not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[1], drawn[2])
