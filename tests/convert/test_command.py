"""The command: files and folders of files, architectures named and guessed, and what it prints."""

import subprocess
import sys

import numpy as np
import pytest
from seeded import HALF, same_weights, seeded

from jaxkd import convert
from jaxkd.convert.__main__ import COLUMNS, main
from jaxkd.formats import torch_writer
from jaxkd.formats.torch_reader import read


def test_command_writes_a_checkpoint_with_a_manifest(resnet8, tmp_path, capsys):
    convert.to_torch(resnet8, tmp_path / "x.pth")
    statistics = ["--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"]
    assert main([str(tmp_path / "x.pth"), "resnet8", str(tmp_path / "out"), *statistics]) == 0
    printed = capsys.readouterr().out
    for part in ("resnet8", "classes        10", "parameters     78,042", "mean 0.5 0.5 0.5, std 0.25 0.25 0.25"):
        assert part in printed
    back = convert.load(tmp_path / "out")
    assert back.normalization == HALF
    assert same_weights(back, resnet8)


def test_command_writes_a_torch_file(weights, resnet8, tmp_path, capsys):
    torch_writer.write(tmp_path / "x.pth", {f"module.{key}": value for key, value in weights.items()})
    assert main([str(tmp_path / "x.pth"), "resnet8", str(tmp_path / "out.pt")]) == 0
    assert "not known" in capsys.readouterr().out
    assert list(read(tmp_path / "out.pt")) == list(weights)


def test_command_evaluates(tmp_path, capsys):
    convert.to_torch(seeded("resnet8"), tmp_path / "x.pth")
    assert main([str(tmp_path / "x.pth"), "resnet8", str(tmp_path / "out.pth"), "--evaluate", "digits"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("accuracy"))
    top1, top5 = (float(word.rstrip("%,")) for word in line.split() if "%" in word)
    assert 0 <= top1 <= top5 <= 100
    assert "of 360 images of digits" in line


def test_command_evaluates_on_images_that_training_held_out(tmp_path, capsys):
    convert.to_torch(seeded("resnet8"), tmp_path / "x.pth")
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "own.npz", x_train=images, y_train=np.arange(40) % 10)
    arguments = [str(tmp_path / "x.pth"), "resnet8", str(tmp_path / "out.pth"), "--data-dir", str(tmp_path / "own.npz")]
    assert main([*arguments, "--evaluate", "npz", "--validation-split", "0.25"]) == 0
    assert "of 10 images of" in capsys.readouterr().out
    assert main([*arguments, "--validation-split", "0.25"]) == 2
    assert "give --evaluate too" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["missing.pth", "resnet8", "out"],
        ["x.pth", "resnet14", "out"],
        ["x.pth", "resnet9", "out"],
        ["x.pth", "resnet8", "out", "--mean", "0.5"],
        ["x.pth", "resnet8", "out.onnx"],
        ["x.pth", "resnet8", "out.ckpt"],
        ["x.pth", "resnet8", "out", "--evaluate", "cifar100", "--data-dir", "."],
    ],
)
def test_command_fails_with_one_line(arguments, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch_writer.write("x.pth", weights)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_other_classes_than_those_of_the_images_are_said_and_not_measured(tmp_path, capsys):
    convert.to_torch(seeded("resnet8", 100), tmp_path / "x.pth")
    assert main([str(tmp_path / "x.pth"), str(tmp_path / "out"), "--evaluate", "digits"]) == 0
    assert "accuracy       not measured: digits has 10 classes, the network 100\n" in capsys.readouterr().out
    assert convert.load(tmp_path / "out").num_classes == 100


def test_a_saved_folder_is_converted_too(tmp_path, capsys, resnet8):
    convert.save(resnet8, tmp_path / "run" / "student")
    convert.to_torch(resnet8, tmp_path / "run" / "student.pth")  # which knows no normalisation
    statistics = ["--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"]
    assert main([str(tmp_path / "run"), str(tmp_path / "new" / "x.safetensors"), *statistics]) == 0
    assert "architecture   resnet8 (as its manifest says)\n" in capsys.readouterr().out
    back = convert.from_torch(tmp_path / "new" / "x.safetensors")
    assert back.normalization == HALF
    assert same_weights(back, resnet8)
    assert main([str(tmp_path / "new" / "x.safetensors"), str(tmp_path / "x.pth")]) == 0
    assert "x.pth (which cannot hold the normalisation: write it down)\n" in capsys.readouterr().out
    assert main([str(tmp_path / "run" / "student"), "resnet14", str(tmp_path / "x.pth")]) == 2
    assert "holds a resnet8, not a resnet14" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["taken", "taken.pth"])
def test_a_place_that_is_taken_is_refused_before_anything_is_measured(output, tmp_path, capsys, resnet8):
    convert.to_torch(resnet8, tmp_path / "x.pth")
    (tmp_path / output / "own").mkdir(parents=True)
    assert main([str(tmp_path / "x.pth"), str(tmp_path / output), "--evaluate", "digits"]) == 2
    captured = capsys.readouterr()
    assert "choose another" in captured.err
    assert "accuracy" not in captured.out
    assert (tmp_path / output / "own").is_dir()


@pytest.mark.parametrize("output", ["x.pth", "other.pth", "other.safetensors"])
def test_a_file_is_replaced_only_by_force(output, tmp_path, capsys, weights):
    torch_writer.write(tmp_path / "x.pth", {f"module.{key}": value for key, value in weights.items()})
    before = (tmp_path / "x.pth").read_bytes()
    (tmp_path / output).write_bytes(before)
    arguments = [str(tmp_path / "x.pth"), str(tmp_path / output)]
    assert main(arguments) == 2
    assert (
        f"{tmp_path / output} exists: choose another name for OUT, or replace it by --force" in capsys.readouterr().err
    )
    assert (tmp_path / output).read_bytes() == before
    assert main([*arguments, "--force"]) == 0
    assert list(read(tmp_path / output)) == list(weights)


def test_torch_is_not_needed(weights, resnet8, tmp_path):
    torch_writer.write(tmp_path / "x.pth", weights)
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from jaxkd.convert.__main__ import main\n"
        "sys.exit(main(['x.pth', 'resnet8', 'out.pth']))"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    assert same_weights(convert.from_torch(tmp_path / "out.pth", "resnet8"), resnet8)


# Guessing.


def test_command_guesses_the_architecture_and_says_so(tmp_path, capsys):
    convert.to_torch(seeded("ResNet14", shortcut="pad"), tmp_path / "x.pth")
    assert main([str(tmp_path / "x.pth"), str(tmp_path / "out.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert "architecture   resnet14, shortcut pad (guessed from the keys; also called ResNet14)\n" in printed
    assert convert.from_torch(tmp_path / "out.safetensors").name == "resnet14"


def test_options_may_stand_between_the_names(resnet8, tmp_path):
    convert.to_torch(resnet8, tmp_path / "x.pth")
    statistics = ["--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"]
    assert main([*statistics, "--data-dir", ".", str(tmp_path / "x.pth"), "resnet8", str(tmp_path / "out")]) == 0
    assert main([str(tmp_path / "x.pth"), "--data-dir", ".", str(tmp_path / "out"), *statistics]) == 0
    assert main([str(tmp_path / "x.pth"), "--data-dir", ".", "resnet8", str(tmp_path / "out"), *statistics]) == 0
    assert convert.load(tmp_path / "out").normalization == HALF


def test_a_file_that_fits_nothing_is_told_with_the_closest(tmp_path, capsys, weights):
    torch_writer.write(tmp_path / "x.pth", {key: value for key, value in weights.items() if key != "bn1.bias"})
    assert main([str(tmp_path / "x.pth"), str(tmp_path / "out")]) == 2
    assert "closest is resnet8 (num_classes=10), 1 key apart" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Folders.


def test_a_folder_is_converted_file_by_file_with_a_table_at_the_end(tmp_path, capsys):
    files = tmp_path / "files"
    files.mkdir()
    first = seeded("resnet8")
    first.normalization = HALF
    convert.to_torch(first, files / "first.safetensors")
    convert.to_torch(seeded("resnet14", shortcut="pad"), files / "second.pth")
    (files / "third.pth").write_bytes(b"no torch file")
    convert.to_torch(seeded("resnet8", channels=1), files / "grey.pth")
    (files / "notes.txt").write_text("not converted")
    (files / "folder.pth").mkdir()
    assert main([str(files), str(tmp_path / "out"), "--evaluate", "digits"]) == 2
    captured = capsys.readouterr()
    grey_error, third_error = captured.err.splitlines()
    assert grey_error.startswith(f"error: {files / 'grey.pth'}: the images have 3 channels")
    assert third_error.startswith(f"error: {files / 'third.pth'}: not a readable file of weights")
    *_, count, heading, one, grey, two, three = captured.out.splitlines()
    assert count == "2 of 4 files converted"
    assert tuple(heading.split()) == COLUMNS
    assert one.split()[:3] == ["first.safetensors", "resnet8", "10"]
    assert " known " in one
    assert one.endswith(f"{tmp_path / 'out' / 'first'}")
    assert all(cell.endswith("%") for cell in one.split()[-3:-1])
    assert "resnet14, shortcut pad" in two
    assert " not known " in two
    assert grey.split() == ["grey.pth", "failed"]
    assert three.split() == ["third.pth", "failed"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first", "second"]
    assert convert.load(tmp_path / "out" / "second").source.file == "second.pth"
    assert same_weights(convert.load(tmp_path / "out" / "first"), first)


def test_files_in_folders_of_a_folder_keep_their_places(tmp_path, capsys, resnet8):
    for name in ("resnet8_vanilla", "resnet14_vanilla"):
        (tmp_path / "models" / name).mkdir(parents=True)
        convert.to_torch(seeded(name.partition("_")[0]), tmp_path / "models" / name / "ckpt_epoch_240.pth")
    assert main([str(tmp_path / "models"), str(tmp_path / "out")]) == 0
    assert "resnet14_vanilla/ckpt_epoch_240.pth  resnet14" in capsys.readouterr().out
    assert convert.load(tmp_path / "out" / "resnet14_vanilla" / "ckpt_epoch_240").name == "resnet14"
    assert same_weights(convert.load(tmp_path / "out" / "resnet8_vanilla" / "ckpt_epoch_240"), resnet8)


def test_a_folder_with_a_name_takes_it_for_every_file(tmp_path, capsys):
    files = tmp_path / "files"
    files.mkdir()
    for name in ("a.pth", "b.pth"):
        convert.to_torch(seeded("resnet14"), files / name)
    assert main([str(files), "ResNet14", str(tmp_path / "out")]) == 0
    assert "guessed" not in capsys.readouterr().out
    assert {convert.load(tmp_path / "out" / name).name for name in "ab"} == {"ResNet14"}


def test_two_files_that_would_become_one_folder_are_both_refused(tmp_path, capsys, resnet8):
    files = tmp_path / "files"
    files.mkdir()
    for name in ("a.pth", "a.th", "b.th"):
        convert.to_torch(resnet8, files / name)
    assert main([str(files), str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"error: {files / 'a.pth'}: a.th would become {tmp_path / 'out' / 'a'} too: rename one",
        f"error: {files / 'a.th'}: a.pth would become {tmp_path / 'out' / 'a'} too: rename one",
    ]
    assert "1 of 3 files converted" in captured.out
    assert not captured.out.splitlines()[-1].endswith("top-5  written")


def test_files_with_two_suffixes_become_folders_without_them(tmp_path, capsys, resnet8):
    files = tmp_path / "files"
    files.mkdir()
    for name in ("best.pth.tar", "last.pth.tar", "last.pt"):
        convert.to_torch(resnet8, files / name)
    assert main([str(files), str(tmp_path / "out")]) == 2
    assert f"last.pth.tar: last.pt would become {tmp_path / 'out' / 'last'} too" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["best"]
    assert same_weights(convert.load(tmp_path / "out" / "best"), resnet8)


@pytest.mark.parametrize(("output", "reason"), [("out", "holds no file that ends in"), ("out.pth", "give a folder")])
def test_folders_that_cannot_be_converted(output, reason, tmp_path, capsys, resnet8):
    files = tmp_path / "files"
    files.mkdir()
    if output.endswith(".pth"):
        convert.to_torch(resnet8, files / "a.pth")
    assert main([str(files), str(tmp_path / output)]) == 2
    assert reason in capsys.readouterr().err
