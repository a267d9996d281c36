"""The command: what it writes, prints and refuses, and the table of student and teacher."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import recorded
from image_tree import image_tree
from seeded import HALF, seeded
from tiny import TinyNet

import jaxkd
from jaxkd import convert, data, export
from jaxkd.export import __main__ as command
from jaxkd.export import comparison
from jaxkd.export.__main__ import main


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Measures latency once or twice, on batches that the networks were compiled for when they were checked."""
    monkeypatch.setattr(comparison, "BATCHES", (1, 16))
    monkeypatch.setattr(comparison, "REPEATS", 2)


def test_a_run_beside_its_teacher(run, tmp_path, capsys):
    assert main([str(run), "--to", "safetensors", "--output", str(tmp_path / "x.safetensors")]) == 0
    printed = capsys.readouterr().out
    for part in ("resnet8, 78,042 parameters, images 8×8×3", "mean 0.3054 0.3054 0.3054", "logits differ by", "KiB"):
        assert part in printed
    roles, names, size, parameters, macs, *latency = printed.splitlines()[-8:-1]
    assert (roles.split(), names.split()) == (["teacher", "student"], ["network", "resnet14", "resnet8"])
    assert f"  {(tmp_path / 'x.safetensors').stat().st_size / 1024:,.0f} KiB " in size
    assert parameters.split() == ["parameters", "175,258", "78,042", "2.2", "×", "less"]
    assert macs.split()[3:5] == ["0.8", "M"]
    assert [line.split()[:3] for line in latency] == [["batch", "of", "1"], ["batch", "of", "16"]]
    assert all(line.count("×") == 1 for line in (size, macs, *latency))
    assert max(map(len, (names, size, parameters, macs, *latency))) < 60
    assert convert.from_torch(tmp_path / "x.safetensors").name == "resnet8"


def test_a_teacher_that_is_gone_is_told(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "kd")
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace(str(run.parent / "teacher"), "gone/teacher.pth"))
    assert main([str(copy), "--to", "safetensors"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("the run's teacher, gone/teacher.pth, is not there: say where it is by --compare\n")
    assert "resnet14" not in printed
    assert main([str(copy), "--to", "safetensors", "--compare", str(run.parent / "teacher")]) == 0
    assert re.search(r"^network +resnet14 +resnet8$", capsys.readouterr().out, re.MULTILINE)


def test_a_teacher_of_a_file_is_known_by_the_name_of_the_run(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "kd")
    convert.to_torch(seeded("wrn_10_3"), tmp_path / "teacher.pth")  # which is not published, and so never guessed
    for name in ("wrn_10_3", "wrn_16_1"):
        config = json.loads((copy / "config.json").read_text())
        config["settings"]["teacher"]["name"], config["arguments"]["teacher"] = name, str(tmp_path / "teacher.pth")
        (copy / "config.json").write_text(json.dumps(config))
        result = json.loads((copy / "result.json").read_text())
        (copy / "result.json").write_text(json.dumps(result | {"teacher": {"name": name}}))
        assert main([str(copy), "--to", "safetensors"]) == 0
        printed = capsys.readouterr().out
        if name == "wrn_10_3":
            assert re.search(r"^network +wrn_10_3 +resnet8$", printed, re.MULTILINE)
        else:  # what was asked for is written all the same
            assert re.search(r"^network +resnet8$", printed, re.MULTILINE)
            assert f"the run's teacher, {tmp_path / 'teacher.pth'}, is not compared: " in printed


def test_a_network_without_a_run(tmp_path, capsys):
    model = seeded("resnet8")
    convert.to_torch(model, tmp_path / "net.pth")
    assert main([str(tmp_path / "net.pth"), "--to", "safetensors"]) == 2
    assert "error: " in (told := capsys.readouterr().err)
    assert "the normalisation of its images is not known" in told
    assert told.count("\n") == 1
    model.normalization = HALF
    convert.save(model, tmp_path / "net")
    assert main([str(tmp_path / "net"), "--to", "safetensors", "--image-size", "16"]) == 0
    printed = capsys.readouterr().out
    assert "images 16×16×3" in printed
    assert re.search(r"^network +resnet8$", printed, re.MULTILINE)
    assert (tmp_path / "net.safetensors").exists()


def for_int8(tmp_path, monkeypatch, data_dir, **images):
    """The images that a run of these data is calibrated with, and measured on."""
    given = {}

    def write(*_, **options):
        given.update(options)
        raise ValueError("enough is known")

    monkeypatch.setattr(command, "write", write)
    recorded.with_student(tmp_path / "run", data=images, arguments={"data_dir": str(data_dir)})
    assert main([str(tmp_path / "run"), "--to", "onnx", "--int8"]) == 2
    return given["calibration"], given["test"]


def test_int8_sees_the_split_of_the_run(tmp_path, monkeypatch):
    file = tmp_path / "images.npz"
    np.savez(file, x=np.arange(16 * 20 * 20 * 3, dtype=np.uint8).reshape(16, 20, 20, 3), y=np.arange(16) % 2)
    found = for_int8(tmp_path, monkeypatch, file, name="npz", validation_split=0.25)
    assert [(len(images), images.image_shape) for images in found] == [(12, (20, 20, 3)), (4, (20, 20, 3))]


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_int8_brings_streamed_images_into_memory(tmp_path, monkeypatch):
    """As they are evaluated; what cannot be read is left out."""
    folder = image_tree(tmp_path / "own", classes=2, train=2, val=3, broken=1).root
    calibration, test = for_int8(tmp_path, monkeypatch, folder, name="folder", image_size=16)
    assert [type(images) for images in (calibration, test)] == [data.Dataset] * 2
    assert (len(calibration), calibration.image_shape) == (3, (16, 16, 3))
    trainer = jaxkd.Trainer(TinyNet(num_classes=2, normalization=HALF))
    streamed = data.load("folder", folder, split="test", image_size=16)
    order = np.random.default_rng(0).permutation(len(streamed))
    np.testing.assert_allclose(trainer.predict(test), trainer.predict(streamed)[order], rtol=1e-5)
    np.testing.assert_array_equal(test.labels, streamed.labels[order])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "--to", "safetensors"], "absent: there is no such file or folder"),
        (["{run}", "--to", "safetensors", "--int8"], "safetensors has no int8 here"),
        (["{run}", "--output", "x.bin"], "a file's suffix says its format"),
        (["hf://user/repo/x.safetensors", "--to", "onnx"], "lies in the hub's cache once it is fetched: name the file"),
        (["{run}/student", "--to", "onnx", "--int8"], "give --data"),
        (["{run}", "--to", "safetensors", "--compare", "absent"], "absent: there is no such file or folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_line(arguments, message, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([argument.format(run=run) for argument in arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert told.count("\n") == 1


def test_a_library_that_is_not_there_is_told(run, tmp_path, capsys, monkeypatch):
    for name in ("jax2onnx", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main([str(run), "--output", str(tmp_path / "x.onnx")]) == 2
    assert capsys.readouterr().err == 'error: ONNX needs jax2onnx: pip install "jaxkd[onnx]"\n'
    assert main([str(run), "--output", str(tmp_path / "x.tflite")]) == 2
    assert capsys.readouterr().err == 'error: LiteRT needs tensorflow: pip install "jaxkd[litert]"\n'
    assert not list(tmp_path.iterdir())


def test_a_student_that_is_slower_is_said_to_be():
    teacher = export.Measured("teacher", "a", 2048, 10, 10, (1.0, 2.0))
    student = export.Measured("student", "b", 1024, 5, 5, (0.04081, 1062.0))
    table = [re.split(r" {2,}", line) for line in export.table([teacher, student]).splitlines()]
    own, ratios = [line[2] for line in table], [line[3] for line in table[2:]]
    assert own == ["student", "b", "1 KiB", "5", "0.0 M", "0.0408 ms", "1,062 ms"]
    assert ratios == ["2.0 × less", "2.0 × less", "2.0 × less", "24.5 × less", "531.0 × more"]
