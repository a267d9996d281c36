"""Which network a file is for: guessed from keys and shapes, among all published ones."""

import gzip
import json

import numpy as np
import pytest
from seeded import same_weights, seeded
from sweeps import sweep

from jaxkd import convert, models
from jaxkd.convert import ConversionError, architectures, identify
from jaxkd.convert.architectures import CHANNELS, CLASSES, PAD, networks, survey
from jaxkd.convert.identify import guess
from jaxkd.formats import safetensors, torch_writer


def weights_of(shapes, num_classes=7, channels=3):
    """Arrays of these shapes that take no memory, and the numbers that vary filled in."""
    numbers = {CLASSES: num_classes, CHANNELS: channels}
    sizes = {key: tuple(numbers.get(size, size) for size in shape) for key, shape in shapes.items()}
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in sizes.items()}


# The list of networks in the package.


@sweep("name", models.list(), core=["resnet8"], thorough=models.list()[::7])
def test_the_list_of_networks_is_up_to_date(name):
    """If it is not: `python -m jaxkd.convert.architectures`."""
    listed = json.loads(gzip.decompress(architectures.FILE.read_bytes()))
    (entry,) = [entry for entry in listed if name in entry["names"]]
    shapes, graph = survey(name)
    assert list(entry["shapes"].items()) == [(key, list(shape)) for key, shape in shapes.items()]
    assert entry["pads"] == architectures._pads(name)
    equal = {other for other in listed if other["shapes"] == entry["shapes"] for other in other["names"]}
    assert set(entry["names"]) == {other for other in equal if survey(other).graph == graph}


def test_the_list_has_no_network_that_is_gone():
    listed = json.loads(gzip.decompress(architectures.FILE.read_bytes()))
    assert sorted(name for entry in listed for name in entry["names"]) == models.list()


def test_networks_that_are_not_on_the_list_are_built(tmp_path, monkeypatch):
    (tmp_path / "empty").write_bytes(gzip.compress(b"[]"))
    monkeypatch.setattr(architectures, "FILE", tmp_path / "empty")
    built = architectures._networks.__wrapped__(("ResNet14", "resnet14", "vgg8"))
    expected = [network for network in networks() if {"resnet14", "vgg8"} & set(network.names)]
    assert {network.names[0]: network.shapes for network in built} == {
        network.names[0]: network.shapes for network in expected
    }
    assert [network.names for network in built if network.pads] == [("resnet14", "ResNet14")]


# Guessing.


@pytest.mark.parametrize("network", networks(), ids=lambda network: network.names[0])
def test_every_network_is_guessed_from_its_own_keys(network):
    best, *others = guess(weights_of(network.shapes))
    assert (best.name, *best.synonyms) == network.names
    assert (best.num_classes, best.options, best.differing, best.similarity) == (7, {}, 0, 1.0)
    assert not any(other.fits for other in others)
    assert sorted(name for candidate in (best, *others) for name in (candidate.name, *candidate.synonyms)) == (
        models.list()
    )


@pytest.mark.parametrize(
    "network", [network for network in networks() if network.pads], ids=lambda network: network.names[0]
)
def test_shortcuts_without_weights_are_recognized(network):
    best, *others = guess(weights_of(survey(network.names[0], PAD).shapes))
    assert (best.name, best.options, best.differing) == (network.names[0], {"shortcut": "pad"}, 0)
    assert not any(other.fits for other in others)


def test_classes_channels_prefixes_and_synonyms_do_not_matter():
    shapes = next(network.shapes for network in networks() if "resnet20" in network.names)
    found = weights_of(shapes, num_classes=1000, channels=1)
    renamed = {"module." + key.replace("fc.", "linear."): value for key, value in reversed(found.items())}
    best = guess({"state_dict": renamed, "epoch": 3})[0]
    assert (best.name, best.num_classes, best.options, best.fits) == ("resnet20", 1000, {"channels": 1}, True)
    assert str(best) == "resnet20 (num_classes=1000, channels=1)"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_is_guessed_and_loaded_without_a_name(suffix, tmp_path):
    model, path = seeded("resnet14", shortcut="pad"), tmp_path / f"x{suffix}"
    writer = safetensors if suffix == ".safetensors" else torch_writer
    writer.write(path, convert.to_state_dict(model))
    best = guess(path)[0]
    assert (best.name, best.synonyms, best.fits) == ("resnet14", ("ResNet14",), True)
    back = convert.from_torch(path)
    assert (back.name, back.num_classes, dict(back.options)) == ("resnet14", 10, {"shortcut": "pad"})
    assert same_weights(back, model)


def test_a_name_that_is_given_is_kept(tmp_path):
    torch_writer.write(tmp_path / "x.pth", convert.to_state_dict(seeded("resnet14")))
    assert convert.from_torch(tmp_path / "x.pth", "ResNet14").name == "ResNet14"


def test_published_files_are_guessed(shared):
    found = {path.name: str(guess(path)[0]) for path in sorted((shared / "checkpoints").iterdir())}
    assert found == {
        "cifar100_resnet20.pth": "resnet20 (num_classes=100)",
        "cifar100_resnet32.pth": "resnet32 (num_classes=100)",
        "cifar100_resnet56.pth": "resnet56 (num_classes=100)",
        "cifar10_resnet20-12fca82f.th": "resnet20 (num_classes=10, shortcut='pad')",
        "cifar10_resnet32-d509ac18.th": "resnet32 (num_classes=10, shortcut='pad')",
        "cifar10_resnet56-4bfd9763.th": "resnet56 (num_classes=10, shortcut='pad')",
    }


# What fits nothing, or something else.


def refused(path, weights, name=None, **options) -> str:
    torch_writer.write(path, {key: np.array(value) for key, value in weights.items()})
    with pytest.raises(ConversionError) as caught:
        convert.from_torch(path, name, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value.reason


def named(name, **options):
    return weights_of(survey(name, tuple(options.items())).shapes, num_classes=10)


@pytest.mark.parametrize(
    ("weights", "name", "options", "problems", "hint"),
    [
        (
            named("resnet20"), "resnet14", {},
            "unexpected (30): layer1.2.conv1.weight, layer1.2.bn1.weight, layer1.2.bn1.bias, "
            "layer1.2.bn1.running_mean, layer1.2.bn1.running_var, layer1.2.conv2.weight, …",
            "the file fits resnet20 (num_classes=10)",
        ),
        (named("wrn_16_2"), "wrn_16_1", {}, "misshapen", "the file fits wrn_16_2 (num_classes=10)"),
        (named("vgg8"), "resnet8", {}, "missing (35): conv1.weight", "the file fits vgg8 (num_classes=10)"),
    ],
    ids=["depth", "width", "family"],
)  # fmt: skip
def test_a_mismatch_names_the_network_that_fits(weights, name, options, problems, hint, tmp_path):
    reason = refused(tmp_path / "x.pth", weights, name, **options)
    assert reason.startswith(f"does not fit {name} (num_classes={options.get('num_classes', 10)}); ")
    assert problems in reason
    assert reason.endswith(hint)


def test_a_mismatch_names_the_kind_of_shortcut_that_fits():
    with pytest.raises(ConversionError) as caught:
        convert.load_state_dict(seeded("resnet8"), named("resnet8", shortcut="pad"), "x.pth")
    assert caught.value.reason == (
        "does not fit resnet8 (num_classes=10); missing (10): layer2.0.downsample.0.weight, "
        "layer2.0.downsample.1.weight, layer2.0.downsample.1.bias, layer2.0.downsample.1.running_mean, "
        "layer2.0.downsample.1.running_var, layer3.0.downsample.0.weight, …; "
        "the file fits resnet8 (num_classes=10, shortcut='pad')"
    )


def test_a_mismatch_names_the_number_of_classes_that_fits():
    with pytest.raises(ConversionError) as caught:
        convert.load_state_dict(seeded("resnet8", 100), named("resnet8"), "x.pth")
    assert caught.value.reason == (
        "does not fit resnet8 (num_classes=100); misshapen (2): fc.weight [10, 64] where the model has [100, 64], "
        "fc.bias [10] where the model has [100]; the file fits resnet8 (num_classes=10)"
    )


def test_a_mismatch_names_the_closest_where_nothing_fits(tmp_path):
    weights = named("resnet20")
    del weights["layer2.1.bn1.weight"]
    reason = refused(tmp_path / "x.pth", weights, "resnet14")
    assert "missing (1): layer2.1.bn1.weight; unexpected (30)" in reason
    assert reason.endswith("closest is resnet20 (num_classes=10), 1 key apart")
    assert refused(tmp_path / "x.pth", weights) == (
        "fits no network of the zoo; closest is resnet20 (num_classes=10), 1 key apart; "
        "say which architecture it is, as in 'resnet56'"
    )


def test_a_network_of_the_same_form_that_nobody_published_must_be_named(tmp_path):
    weights = named("resnet26")
    reason = refused(tmp_path / "x.pth", weights)
    assert "closest is resnet32 (num_classes=10), 30 keys apart or resnet20 (num_classes=10), 30 keys apart" in reason
    assert convert.from_torch(tmp_path / "x.pth", "resnet26").name == "resnet26"


def test_a_file_like_nothing_in_the_zoo(tmp_path):
    weights = {"encoder.weight": np.zeros((4, 4)), "decoder.weight": np.zeros((4, 4))}
    assert "fits no network of the zoo; no network of the zoo is similar" in refused(tmp_path / "x.pth", weights)


def test_networks_that_differ_in_what_has_no_weights_are_not_guessed(tmp_path, monkeypatch):
    network = next(network for network in networks() if "resnet8" in network.names)
    monkeypatch.setattr(identify, "networks", lambda: (network, network._replace(names=("another8",))))
    reason = refused(tmp_path / "x.pth", named("resnet8"))
    assert "fits several networks alike; the file fits another8 (num_classes=10) and resnet8 (num_classes=10)" in reason


def test_numbers_of_classes_without_values_are_not_believed(tmp_path):
    weights = named("resnet8")
    weights["fc.weight"] = np.zeros((2**40, 0), np.float32)
    weights["fc.bias"] = np.zeros(0, np.float32)
    assert "holds no classifier of two or more classes" in refused(tmp_path / "x.pth", weights, "resnet8")
    assert "closest is resnet8, 2 keys apart" in refused(tmp_path / "x.pth", weights)


def test_a_key_under_two_names_counts_as_two(tmp_path):
    weights = named("resnet8")
    weights["linear.weight"] = weights["fc.weight"]
    best = guess(weights)[0]
    assert (best.name, best.matching, best.differing) == ("resnet8", 47, 1)
    assert "unexpected (1): linear.weight" in refused(tmp_path / "x.pth", weights, "resnet8")


def test_keys_of_any_length_are_refused_before_they_are_compared(tmp_path):
    assert "a key has 2001 letters" in refused(tmp_path / "x.pth", {"a" + ".a" * 1000: np.zeros(3)}, "resnet8")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_weights_that_are_no_finite_float32_are_refused(value, tmp_path):
    weights = {key: np.array(value, np.float64) for key, value in named("resnet8").items()}
    weights["layer1.0.bn1.bias"][3] = value
    assert refused(tmp_path / "x.pth", weights) == "holds damaged weights; not finite (1): layer1.0.bn1.bias"


def test_a_negative_variance_is_refused(tmp_path):
    weights = {key: np.array(value) for key, value in named("resnet8").items()}
    weights["bn1.running_var"][0] = -1
    assert refused(tmp_path / "x.pth", weights) == "holds damaged weights; negative (1): bn1.running_var"
