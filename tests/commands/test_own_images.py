"""The commands on images of one's own, in folders without a split."""

import json

import pytest
from image_tree import image_tree

from jaxkd import data
from jaxkd.commands import run, train

OPTIONS = ["--data", "folder", "--image-size", "16", "--workers", "0", "--model", "resnet8", "--epochs", "1", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tree = image_tree(tmp_path_factory.mktemp("own"), classes=2, train=8, val=1)
    return tree.root / "train"


def read(path):
    return json.loads(path.read_text())


def test_what_the_options_say_reaches_images_and_record(folder, tmp_path):
    options = [*OPTIONS, "--data-dir", str(folder), "--validation-split", "0.25", "--balanced"]
    config = train.config_of(train.command_line().parse_args(options))
    images, test = run.load_data(config)
    assert (len(images), len(test), images.balanced, test.balanced) == (12, 4, True, False)
    settings = run.resolve(config, images).settings()
    assert settings["data"]["validation_split"] == 0.25
    assert (settings["data"]["images"], settings["data"]["balanced"]) == (12, True)


def test_images_from_files_are_cropped_once(folder):
    options = [*OPTIONS, "--data-dir", str(folder), "--validation-split", "0.25", "--resized-crop"]
    config = train.config_of(train.command_line().parse_args(options))
    images, _ = run.load_data(config)
    assert isinstance(images.augmentation, data.RandomResizedCrop)
    assert run.compiled(config, images)._program.augment == ()


@pytest.mark.slow
def test_a_folder_without_a_split_is_trained_on_and_resumed(folder, tmp_path, capsys):
    options = [*OPTIONS, "--data-dir", str(folder), "--output", str(tmp_path / "run"), "--batch-size", "4"]
    assert train.main([*options, "--validation-split", "0.25", "--balanced"]) == 0
    settings = read(tmp_path / "run" / "config.json")["settings"]
    assert settings["data"]["validation_split"] == 0.25
    assert (settings["data"]["images"], settings["data"]["balanced"]) == (12, True)
    with pytest.raises(SystemExit):
        train.main([*options, "--validation-split", "0.5", "--resume"])
    assert "validation_split was 0.25 and is 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "hold a part of them out with validation_split=0.1 (--validation-split 0.1)"),
        (["--validation-split", "2"], "validation_split=2.0: give the part to hold out, above 0 and below 1"),
        (["--data", "digits", "--validation-split", "0.1"], "and digits has one: leave it out"),
    ],
)
def test_what_cannot_be_divided_is_told_before_any_work(folder, capsys, options, said):
    with pytest.raises(SystemExit):
        train.main([*OPTIONS, "--data-dir", str(folder), *options])
    assert said in capsys.readouterr().err
