"""What there is: networks, published numbers, and the machine."""

import importlib.metadata
import json
import os
import platform
import shutil
import sys

import pytest

from jaxkd import models, recipes
from jaxkd.commands import info
from jaxkd.commands import models as models_command
from jaxkd.commands import recipes as recipes_command
from jaxkd.convert.architectures import networks
from jaxkd.nn import cpu_kernels
from jaxkd.nn.cpu_kernels.library import SWITCH


def said(command, arguments, capsys):
    assert command.main(arguments) == 0
    return capsys.readouterr().out


def refused(command, arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_every_network_is_listed_with_its_other_names(capsys):
    printed = said(models_command, [], capsys)
    words = set(printed.replace(",", " ").split())
    assert set(models.list()) <= words
    assert "resnet20                          278,324  69.06 cifar100" in printed
    published = said(models_command, ["--published"], capsys).splitlines()[1:]
    published = [line for line in published if not line.startswith("–: ")]
    assert len(published) == len({recipes.get(name).student for name in recipes.list() if name.startswith("ce/")})


@pytest.mark.parametrize("name", ["resnet8", "MobileNetV2", "vgg13_bn", "ShuffleV1", "convnext_tiny"])
def test_parameters_are_those_of_the_network(name):
    (network,) = (network for network in networks() if name in network.names)
    assert models_command.parameters(network) == models.describe(name).parameters


def test_a_network_is_described_with_its_numbers(capsys):
    printed = said(models_command, ["wrn_10_1", "--num-classes", "10"], capsys)
    assert printed.startswith("wrn_10_1: images 32×32×3, 10 classes\n")
    printed = said(models_command, ["resnet20", "--image-size", "16"], capsys)
    assert "resnet20: images 16×16×3" in printed
    assert "jaxkd recipes resnet20" in printed
    assert "did you mean resnet20" in refused(models_command, ["resnet-20"], capsys)
    assert "describe one network: name it" in refused(models_command, ["--image-size", "16"], capsys)


def test_a_recipe_is_all_that_leads_to_its_number(capsys):
    printed = said(recipes_command, ["dkd/resnet56-resnet20"], capsys)
    for line in (
        "published      71.97 %, best epoch, cifar100",
        "weights        ce 1, dkd Warmup(epochs 20, weight 1)",
        "settings       alpha 1, beta 2, temperature 4",
        "command        jaxkd distill --recipe dkd/resnet56-resnet20 --teacher resnet56.pth",
    ):
        assert line in printed.splitlines()
    assert "command        jaxkd train --recipe ce/resnet56" in said(recipes_command, ["ce/resnet56"], capsys)


@pytest.mark.parametrize("name", ["dkd", "resnet56-resnet20", "resnet8x4", "standardization"])
def test_recipes_are_found_by_their_parts(name, capsys):
    printed = said(recipes_command, [name], capsys)
    listed = [line.split()[0] for line in printed.splitlines() if line.startswith("  ")]
    assert listed == recipes_command.found(name)
    assert 1 < len(listed) < len(recipes.list())


def test_every_recipe_is_listed_and_can_be_shown(capsys):
    printed = said(recipes_command, [], capsys)
    for name in recipes.list():
        assert f"  {name} " in printed
        assert recipes_command.shown(name).startswith(name)
    assert "did you mean resnet56-resnet20? jaxkd recipes" in refused(recipes_command, ["resnet56-resnet2"], capsys)


def test_the_cpu_kernels_compute_where_they_can_be_built():
    """Else their own tests skip, and what broke them shows nowhere."""
    there = "onednn-cpu-gomp" in {one.metadata["Name"] for one in importlib.metadata.distributions()}
    on_linux = (sys.platform, platform.machine()) == ("linux", "x86_64")
    if not (there and on_linux and shutil.which("c++")) or os.environ.get(SWITCH):
        pytest.skip("no oneDNN, no compiler, or switched off")
    assert cpu_kernels.usable("float32"), cpu_kernels.describe()


def test_info_says_what_a_bug_report_needs(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXKD_DATA", str(tmp_path))
    facts = json.loads(said(info, ["--json"], capsys))
    assert facts["data"]["folder"] == f"{tmp_path} (from JAXKD_DATA)"
    assert {"jaxkd", "jax", "python"} <= facts["versions"].keys()
    assert facts["convolutions"]["by"].startswith(("oneDNN", "XLA"))
    printed = said(info, [], capsys)
    for topic, entries in facts.items():
        assert f"{topic}\n" in printed
        assert all(f"  {name:15s} " in printed for name in entries)
