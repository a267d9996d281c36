"""`jaxkd train`, run as a user runs it, on the digits."""

import json

import pytest

from jaxkd.commands import train

SMALL = ["--data", "digits", "--batch-size", "479", "--quiet"]  # three equal steps an epoch


def read(path):
    return json.loads(path.read_text())


def test_a_teacher_of_a_recipe_is_trained_by_its_name(tmp_path):
    arguments = ["--recipe", "ce/resnet20", "--epochs", "1", "--output", str(tmp_path / "run"), *SMALL]
    assert train.main([*arguments, "--model", "resnet8"]) == 0
    assert read(tmp_path / "run" / "result.json")["recipe"]["accuracy"] == 0.6906
    settings = read(tmp_path / "run" / "config.json")["settings"]
    assert (settings["model"], settings["training"]["name"]) == ("resnet8", "repdistiller")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--recipe", "kd/resnet56-resnet20"],
            "kd/resnet56-resnet20 learns from a resnet56: that is what jaxkd distill does",
        ),
        (["--recipe", "ce/resnet21"], "did you mean ce/resnet"),
        ([], "name the network by --model"),
    ],
)
def test_a_teacher_that_cannot_be_trained(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main([*SMALL, *arguments])
    assert message in " ".join(capsys.readouterr().err.split())
