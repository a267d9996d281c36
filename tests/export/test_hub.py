"""The hub: a network goes there with its card and comes back, over a stand-in for its HTTP interface."""

import dataclasses
import json
import sys

import pytest
from hub_stand_in import COMMIT, Hub, served
from seeded import same_weights, seeded

from jaxkd import convert, export, records
from jaxkd.convert.__main__ import main as convert_command
from jaxkd.export.hub import model_card
from jaxkd.formats import files as addresses


@pytest.fixture
def hub(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub", reason="needs jaxkd[hub]")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_stand_in")
    hub = Hub()
    with served(hub) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield hub


def test_a_run_goes_there_and_comes_back(run, hub):
    address = export.push_to_hub(run, "user/kd-student", private=True)
    assert address.endswith(f"user/kd-student/commit/{COMMIT}")
    assert hub.private == {"user/kd-student": True}
    files = hub.files["user/kd-student"]
    assert set(files) == {"README.md", "config.json", "student.safetensors"}
    back = convert.from_torch("hf://user/kd-student/student.safetensors")
    ours = records.read(run).student()
    assert (back.name, back.num_classes, back.normalization) == ("resnet8", 10, ours.normalization)
    assert back.source.file == "student.safetensors"
    assert same_weights(back, ours)
    assert convert.guess("hf://user/kd-student/student.safetensors")[0].fits
    config = json.loads(files["config.json"])
    assert (config["architecture"], config["settings"]["seed"], config["last"]["val_accuracy"]) == ("resnet8", 3, 0.5)


def test_nothing_of_this_machine_goes_there(run, hub):
    export.push_to_hub(run, "user/kd-student")
    sent = b"".join(hub.files["user/kd-student"][name] for name in ("README.md", "config.json")).decode()
    assert str(run.parent) not in sent
    assert sys.executable not in sent


def test_a_file_is_fetched_once_and_at_its_revision(hub, tmp_path):
    model = seeded("resnet8")
    convert.to_torch(model, tmp_path / "x.pth")
    hub.files["user/repo"] = {"folder/x.pth": (tmp_path / "x.pth").read_bytes()}
    for _ in range(2):
        assert same_weights(convert.from_torch("hf://user/repo@v1/folder/x.pth"), model)
    assert hub.asked.count(("GET", "user/repo/resolve/v1/folder/x.pth")) == 1
    assert convert.load_pretrained("hf://user/repo/folder/x.pth").model.name == "resnet8"


def test_the_command_takes_an_address(hub, tmp_path, capsys):
    convert.to_torch(seeded("resnet8"), tmp_path / "x.pth")
    hub.files["user/repo"] = {"x.pth": (tmp_path / "x.pth").read_bytes()}
    assert convert_command(["hf://user/repo/x.pth", str(tmp_path / "out")]) == 0
    assert convert.load(tmp_path / "out").name == "resnet8"
    assert convert_command(["hf://user/repo/absent.pth", str(tmp_path / "other")]) == 2
    told = capsys.readouterr().err
    assert "absent.pth: cannot be fetched from the hub" in told
    assert told.count("\n") == 1


def test_what_is_not_there_is_told(hub):
    with pytest.raises(convert.ConversionError, match=r"hf://user/absent/x\.pth: cannot be fetched from the hub"):
        convert.from_torch("hf://user/absent/x.pth")


@pytest.mark.parametrize("address", ["hf://x.pth", "hf://user/repo", "hf://user@v1/x.pth"])
def test_addresses_that_name_no_file_are_refused(address):
    with pytest.raises(convert.ConversionError, match="give hf://user/repo/file"):
        convert.from_torch(address)


def test_the_library_is_asked_for_by_name(monkeypatch, run):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'hf:// needs huggingface_hub: pip install "jaxkd\[hub\]"'):
        convert.from_torch("hf://user/repo/x.pth")
    with pytest.raises(ImportError, match=r'push_to_hub needs huggingface_hub: pip install "jaxkd\[hub\]"'):
        export.push_to_hub(run, "user/repo")


def test_other_paths_do_not_ask_for_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert addresses.fetched(tmp_path / "x.pth") == tmp_path / "x.pth"


def test_repositories_have_two_names(run):
    with pytest.raises(ValueError, match="'student': name the repository as user/repo"):
        export.push_to_hub(run, "student")


def test_the_card_says_what_the_record_does(run):
    record = records.read(run)
    card = model_card(record, export.classifier(run), "user/kd-student")
    for line in (
        "# resnet8, distilled from resnet14",
        "| network | resnet8, 78,042 parameters, 0.8 M multiply-accumulates |",
        "| teacher | resnet14, top-1 87.50% on the test images |",
        "| data | digits, images 8×8×3 |",
        "| seed | 3 |",
        "| last epoch | 2, top-1 50.00%, top-5 100.00% |",
        "| best epoch | 1, top-1 75.00%, top-5 100.00% |",
        'model = convert.from_torch("hf://user/kd-student/student.safetensors")',
    ):
        assert line in card.splitlines()
    assert "the weights are those of\nthe last one." in card
    earlier = dataclasses.replace(record, result={**(record.result or {}), "weights_epoch": 1})
    assert "the weights are those of\nepoch 1." in model_card(earlier, export.classifier(run), "user/kd-student")
    assert "Hinton" in next(line for line in card.splitlines() if line.startswith("| method |"))
    assert card.startswith("---\nlibrary_name: jaxkd\n")
