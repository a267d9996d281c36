"""A trained network, measured and asked."""

import csv
import json

import numpy as np
import pytest
import recorded as runs

import jaxkd
from jaxkd import analysis, convert, data
from jaxkd.commands import evaluate, predict


def refused(command, arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main([str(argument) for argument in arguments])
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with the first digits of the test images as pictures, and one that is none."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("pictures")
    for number, pixels in enumerate(data.load("digits", split="test").images[:5]):
        image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_a_run_is_measured_on_the_images_of_its_record(teacher, tmp_path, capsys):
    assert evaluate.main([str(teacher), "--output", str(tmp_path / "a" / "found.json")]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "a" / "found.json").read_text())
    result = json.loads((teacher / "result.json").read_text())
    recorded = result["last"]
    assert result["image_shape"] == [8, 8, 3]
    assert found["accuracy"] == pytest.approx(recorded["val_accuracy"])
    assert found["top5"] == pytest.approx(recorded["val_top5"])
    assert found["loss"] == pytest.approx(recorded["val_loss"], rel=1e-5)
    test = data.load("digits", split="test")
    logits = jaxkd.Trainer(convert.load(teacher / "model")).predict(test)
    assert found["ece"] == pytest.approx(analysis.reliability(logits, test.labels).ece)
    assert f"accuracy  {found['accuracy']:.2%}" in printed
    assert "digits, 360 test images, by the network's own normalisation" in printed


@pytest.mark.parametrize("command", [evaluate, predict])
def test_where_nothing_can_be_written_is_said_before_the_work(
    command, teacher, pictures, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(jaxkd.Trainer, "predict", None)  # which would be called
    (tmp_path / "file").touch()
    arguments = [teacher, *([pictures] if command is predict else []), "--output", tmp_path / "file" / "found.csv"]
    assert "is a file: give the name of a folder" in refused(command, arguments, capsys)
    arguments[-1] = tmp_path / "new" / "found.txt"
    refused(command, [teacher, "typo.jpg", *arguments[-2:]] if command is predict else ["typo", *arguments[1:]], capsys)
    assert not (tmp_path / "new").exists()
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder: give the name of a file" in refused(
        command, [*arguments[:-1], tmp_path / "folder.csv"], capsys
    )


def test_a_picture_that_is_missing_is_said_before_the_work(teacher, pictures, capsys, monkeypatch):
    monkeypatch.setattr(jaxkd.Trainer, "predict", None)
    assert "typo.jpg: there is no such file or folder" in refused(predict, [teacher, pictures, "typo.jpg"], capsys)


@pytest.mark.parametrize(("shape", "size"), [((48, 48, 3), 48), ((28, 40, 3), None)])
def test_other_images_are_seen_in_the_size_of_the_run_s_own(tmp_path, monkeypatch, shape, size):
    from jaxkd.commands import network

    record, _ = runs.with_student(tmp_path / "run", data={"name": "npz"}, facts={"image_shape": shape})
    monkeypatch.setattr(network.data, "load", lambda name, **given: given["image_size"])
    options = evaluate.command_line().parse_args(["run", "--data", "folder", "--data-dir", "other"])
    assert network.images_of(options, record, "test") == size


def test_a_picture_is_resized_to_what_a_network_that_resizes_learned_from(tmp_path):
    from jaxkd.commands import network

    record, model = runs.with_student(tmp_path / "run", facts={"image_shape": (8, 8, 3)})
    model.resize_to = 16
    options = predict.command_line().parse_args(["run", "x.png"])
    assert predict.shape_of(options, network.Trained(model, tmp_path, record)) == (8, 8, 3)


def test_a_file_of_weights_needs_to_be_told_its_data(teacher, capsys):
    file = teacher / "model.pth"
    assert "does not say what it was trained on: give --data" in refused(evaluate, [file], capsys)
    assert evaluate.main([str(file), "--data", "digits", "--split", "train", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["network"], found["split"]) == (1437, "resnet8", "train")
    assert "holds a resnet8" in refused(evaluate, [teacher, "--name", "resnet14"], capsys)
    assert "no such file or folder" in refused(evaluate, ["nothing.pth", "--data", "digits"], capsys)


def test_pictures_are_answered_as_their_pixels_are(teacher, pictures, tmp_path, capsys):
    table = tmp_path / "out" / "answers.csv"
    assert predict.main([str(teacher), str(pictures), "--top-k", "3", "--output", str(table)]) == 2
    told = capsys.readouterr()
    assert told.out == f"5 answers are in {table}\n"
    assert told.err == f"not read: {pictures / 'broken.png'}: none of JPEG, PNG, PPM, BMP, WEBP, TIFF, GIF\n"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    test = data.load("digits", split="test").subset(5)
    logits = jaxkd.Trainer(convert.load(teacher / "model")).predict(test)
    assert [row["class"] for row in rows if row["rank"] == "1"] == [str(label) for label in logits.argmax(1)]
    assert [row["file"] for row in rows[::3]] == [str(pictures / f"{number}.png") for number in range(5)]
    best = np.exp(logits.max(1)) / np.exp(logits).sum(1)
    np.testing.assert_allclose([float(row["probability"]) for row in rows[::3]], best, atol=2e-6)
    assert predict.main([str(teacher), str(pictures / "0.png")]) == 0
    assert capsys.readouterr().out == f"{pictures / '0.png'}  {rows[0]['name']} {best[0]:.1%}\n"


@pytest.mark.parametrize(
    ("images", "size", "facts"),
    [
        ({"name": "stl10"}, (96, 96), {}),
        ({"name": "npz"}, (40, 28), {"image_shape": (28, 40, 3)}),
    ],
    ids=["stl10", "npz"],
)
def test_a_picture_is_seen_as_the_run_s_own_images_are(tmp_path, monkeypatch, images, size, facts):
    """Whole, at their size; not at the 32 pixels that the network was published for."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setenv("JAXKD_DATA", str(tmp_path))
    _, model = runs.with_student(tmp_path / "run", data=images, facts=facts)
    picture = image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    picture.save(tmp_path / "own.png")
    output = tmp_path / "answers.npz"
    assert predict.main([str(tmp_path / "run"), str(tmp_path / "own.png"), "--output", str(output)]) == 0
    expected = jaxkd.Trainer(model).predict(np.asarray(picture)[None])
    np.testing.assert_allclose(np.load(output)["logits"], expected, rtol=1e-4, atol=1e-5)


def test_a_picture_of_unknown_size_is_not_guessed(tmp_path, pictures, capsys):
    runs.with_student(tmp_path / "run", data={"name": "npz"})
    assert "give --image-size N" in refused(predict, [tmp_path / "run", pictures / "0.png"], capsys)


def test_arrays_are_answered_into_arrays(teacher, tmp_path, capsys):
    test = data.load("digits", split="test").subset(3)
    np.savez(tmp_path / "pixels.npz", images=test.images, labels=test.labels)
    (tmp_path / "names.txt").write_text("zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n")
    arguments = [teacher / "model", tmp_path / "pixels.npz", "--class-names", tmp_path / "names.txt"]
    assert predict.main([str(one) for one in [*arguments, "--output", tmp_path / "answers.npz"]]) == 0
    found = np.load(tmp_path / "answers.npz")
    logits = jaxkd.Trainer(convert.load(teacher / "model")).predict(test.images)
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, rtol=1e-5)
    assert found["files"][2] == f"{tmp_path / 'pixels.npz'}[2]"
    assert found["class_names"][3] == "three"


def test_a_file_without_a_normalisation_takes_that_of_the_data(teacher, pictures, capsys):
    picture = pictures / "0.png"
    said = refused(predict, [teacher / "model.pth", picture], capsys)
    assert "does not say what its images are normalised with: name the --data" in said
    assert predict.main([str(teacher / "model.pth"), str(picture), "--data", "digits", "--image-size", "8"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "nothing.png"], "nothing.png: there is no such file or folder"),
        (["RUN", "FOLDER"], "there is no picture in"),
        (["RUN", "x.png", "--top-k", "0"], "--top-k 0: at least one is needed"),
        (["RUN", "x.png", "--output", "x.txt"], "give a name that ends in .csv or .npz"),
        (["RUN", "ARRAY"], "give one array of pixels, uint8 [N, H, W, C], or call it images; it has x float64[2]"),
        (["RUN", "BROKEN"], "broken.npz is damaged: File is not a zip file; write it again"),
        (["RUN", "FOLDER", "--class-names", "NAMES"], "has 1 lines for 10 classes"),
    ],
)
def test_what_cannot_be_answered_is_told(teacher, tmp_path, arguments, message, capsys):
    np.savez(tmp_path / "array.npz", x=np.zeros(2))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04junk")
    (tmp_path / "names.txt").write_text("one\n")
    (tmp_path / "empty").mkdir()
    places = {
        "RUN": teacher,
        "FOLDER": tmp_path / "empty",
        "ARRAY": tmp_path / "array.npz",
        "BROKEN": tmp_path / "broken.npz",
        "NAMES": tmp_path / "names.txt",
    }
    assert message in refused(predict, [places.get(one, one) for one in arguments], capsys)
