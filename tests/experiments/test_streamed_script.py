"""The measurement of decoding, on a few images."""

import importlib
import json

import pytest
from benchmark_scripts import on_the_path  # noqa: F401


def test_decoding_is_measured_and_recorded(tmp_path, capsys):
    output = tmp_path / "found" / "decoding.json"
    sizes = ["--images", "12", "--batch-size", "4", "--workers", "0", "--rounds", "1"]
    assert importlib.import_module("decoding").main([*sizes, "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["bytes_an_image"] > 30_000
    assert found["versions"]["grain"]
    printed = capsys.readouterr().out
    for view in ("train", "evaluation"):
        assert found[view]["images"] == 12
        assert {"jaxkd", "pillow"} <= set(found[view]["one_core"])
        assert min(entry["images_per_second"] for entry in found[view]["one_core"].values()) > 0
        assert found[view]["streams"]["0"]["images_per_second"] > 0
        assert f"{view}, 12 images\n  jaxkd  " in printed


def test_too_few_images_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("decoding").main(["--images", "8", "--batch-size", "5"])
    assert "8 images are fewer than two batches: lower --batch-size" in capsys.readouterr().err
