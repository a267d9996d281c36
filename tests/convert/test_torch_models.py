"""Models and torch files: names, layouts, containers and mismatches."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from seeded import HALF, filled, same_weights, seeded
from tiny import assert_same_bits, leaves

from jaxkd import convert, models
from jaxkd.convert import ConversionError
from jaxkd.convert.architectures import is_weight
from jaxkd.convert.state_dict import unwrap
from jaxkd.formats import torch_reader, torch_writer
from jaxkd.formats.torch_reader import read
from jaxkd.nn.layers import BatchNorm, Conv, Linear

# There and back.


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet8", {}),
        ("resnet14", {"shortcut": "pad"}),
        ("resnet8", {"channels": 1}),
        ("resnet8x4", {}),
        ("ResNet14", {}),
        ("wrn_16_2", {}),
        ("WRN16-1", {}),
        ("vgg11", {}),
        ("VGG8", {"channels": 4}),
    ],
)
def test_to_torch_then_from_torch_is_the_identity(name, options, tmp_path):
    model = seeded(name, num_classes=7, **options)
    convert.to_torch(model, tmp_path / "x.pth")
    back = convert.from_torch(tmp_path / "x.pth", name)
    assert (back.name, back.num_classes, back.normalization) == (name, 7, None)
    assert dict(back.options) == options
    assert same_weights(back, model)
    images = jnp.ones((1, 16, 16, options.get("channels", 3)))
    assert np.array_equal(back(images).logits, model(images).logits)
    assert np.isfinite(back(images).logits).all()


def test_the_given_normalization_is_kept(resnet8, tmp_path):
    convert.to_torch(resnet8, tmp_path / "x.pth")
    assert convert.from_torch(tmp_path / "x.pth", "resnet8", normalization=HALF).normalization == HALF


@pytest.mark.parametrize(
    "options", [{"normalization": "cifar100"}, {"normalization": HALF.mean}, {"num_classes": "10"}]
)
def test_arguments_of_another_kind_are_refused_by_name(resnet8, tmp_path, options):
    convert.to_torch(resnet8, tmp_path / "x.pth")
    [name] = options
    with pytest.raises(TypeError, match=f"{name}=.*: give (jaxkd.Normalization|a whole number)"):
        convert.from_torch(tmp_path / "x.pth", **options)


class Block(nnx.Module):
    """A network nobody published: containers of both kinds, and names in no alphabetical order."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Dict({"0": Conv(3, 4, 3, bias=True, rngs=rngs), "1": BatchNorm(4)})
        self.body = nnx.List([Conv(4, 6, 3, 2, rngs=rngs), BatchNorm(6)])
        self.classifier = Linear(6, 5, rngs=rngs)

    def __call__(self, images, train=False):
        images = jax.nn.relu(self.stem["1"](self.stem["0"](images), train))
        images = jax.nn.relu(self.body[1](self.body[0](images), train))
        return self.classifier(images.mean((1, 2)))


class Counted(nnx.Variable):
    """A type of its own."""


def anywhere():
    """Layers wherever a network may have them."""
    rngs, network = nnx.Rngs(0), nnx.Module()
    network._stem = nnx.Linear(2, 3, rngs=rngs)
    network.listed = nnx.data([nnx.Linear(2, 3, rngs=rngs), (nnx.Linear(2, 3, rngs=rngs),)])
    network.named = nnx.data({"a": nnx.Linear(2, 3, rngs=rngs)})
    network.params = nnx.List([nnx.Param(jnp.ones(2)), nnx.Param(jnp.zeros(2))])
    network.steps, network.shift = Counted(jnp.int32(2**24 + 1)), Counted(jnp.ones(3))
    network.drop = nnx.Dropout(0.5, rngs=rngs)
    return network


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, images):
        hidden = linen.BatchNorm(use_running_average=True)(linen.Conv(4, (3, 3), name="stem")(images))
        return linen.Dense(5)(hidden.mean((1, 2)))


def from_linen():
    return nnx.bridge.ToNNX(LinenBlock(), rngs=nnx.Rngs(0)).lazy_init(jnp.ones((1, 8, 8, 3)))


LINEAR = ("weight", "bias")
KEYS = {
    anywhere: [
        *("steps", "shift", *(f"_stem.{name}" for name in LINEAR)),
        *(f"{layer}.{name}" for layer in ("listed.0", "listed.1.0", "named.a") for name in LINEAR),
        *("params.0", "params.1"),
    ],
    from_linen: [
        *(f"BatchNorm_0.{name}" for name in (*LINEAR, "running_mean", "running_var", "num_batches_tracked")),
        *(f"{layer}.{name}" for layer in ("Dense_0", "stem") for name in LINEAR),
    ],
}


@pytest.mark.parametrize("make", KEYS)
def test_layers_are_found_wherever_they_lie(make, tmp_path):
    model, back = make(), make()
    nnx.update(back, jax.tree.map(jnp.zeros_like, nnx.state(back, is_weight)))
    weights = convert.to_state_dict(model)
    assert list(weights) == KEYS[make]
    convert.to_torch(model, tmp_path / "x.pth")
    convert.load_state_dict(back, unwrap(read(tmp_path / "x.pth"), "x.pth"), "x.pth")
    assert_same_bits(*(leaves(nnx.state(one, is_weight)) for one in (back, model)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Pair:
    """A container that names no key."""

    first: Any
    second: Any


def hidden(network):
    network.pair = nnx.data(Pair(nnx.Param(jnp.ones(2)), nnx.Param(jnp.ones(2))))


def with_one_key(network):
    network.kernel, network.scale = nnx.Param(jnp.ones((2, 2))), nnx.Param(jnp.ones(2))


@pytest.mark.parametrize(
    ("add", "names"), [(hidden, r"\(2\): pair.first, pair.second"), (with_one_key, r"\(1\): kernel")]
)
def test_weights_without_a_key_of_their_own_are_refused_by_name(add, names, tmp_path):
    model = filled(Block(nnx.Rngs(0)))
    before = convert.to_state_dict(model)
    add(model)
    with pytest.raises(ValueError, match=f"Block: weights without a key of their own {names}: keep layers in"):
        convert.to_torch(model, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="without a key"):
        convert.load_state_dict(model, before, "x.pth")
    assert not (tmp_path / "x.pth").exists()


def test_pytorch_computes_the_same_with_the_exported_weights(tmp_path):
    torch = pytest.importorskip("torch")

    class TorchBlock(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Sequential(
                torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU()
            )
            self.body = torch.nn.Sequential(
                torch.nn.Conv2d(4, 6, 3, 2, padding=1, bias=False), torch.nn.BatchNorm2d(6), torch.nn.ReLU()
            )
            self.classifier = torch.nn.Linear(6, 5)

        def forward(self, images):
            return self.classifier(self.body(self.stem(images)).mean((2, 3)))

    ours, theirs = filled(Block(nnx.Rngs(0))), TorchBlock()
    convert.to_torch(ours, tmp_path / "x.pth")
    loaded = torch.load(tmp_path / "x.pth", weights_only=True)
    assert list(loaded) == list(theirs.state_dict())
    theirs.load_state_dict(loaded, strict=True)
    images = np.random.default_rng(0).standard_normal((2, 3, 9, 9)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(ours(jnp.asarray(images.transpose(0, 2, 3, 1))), expected, rtol=1e-5, atol=1e-6)


# What files wrap their weights in.


@pytest.mark.parametrize("container", ["state_dict", "model", "net", "model_state_dict"])
@pytest.mark.parametrize("new_format", [True, False])
def test_containers_and_prefixes_are_seen_through(container, new_format, weights, resnet8, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {f"module.{key}": torch.from_numpy(value.copy()) for key, value in weights.items()}
    for saved in ({"epoch": 3, container: tensors}, {"model": {"state_dict": tensors, "name": "x"}}):
        torch.save(saved, tmp_path / "x.tar", _use_new_zipfile_serialization=new_format)
        assert same_weights(convert.from_torch(tmp_path / "x.tar", "resnet8"), resnet8)


def test_other_names_for_classifier_and_shortcut(weights, resnet8, tmp_path):
    renamed = {key.replace("fc.", "linear.").replace("downsample", "shortcut"): value for key, value in weights.items()}
    assert renamed.keys() != weights.keys()
    torch_writer.write(tmp_path / "x.pth", renamed)
    assert same_weights(convert.from_torch(tmp_path / "x.pth", "resnet8"), resnet8)


def test_half_and_double_precision_become_float32(weights, tmp_path):
    for dtype in (np.float16, np.float64):
        torch_writer.write(tmp_path / "x.pth", {key: value.astype(dtype) for key, value in weights.items()})
        back = convert.from_torch(tmp_path / "x.pth", "resnet8")
        assert back.conv1.kernel.dtype == jnp.float32
        np.testing.assert_array_equal(convert.to_state_dict(back)["fc.weight"], weights["fc.weight"].astype(dtype))


def test_what_was_written_and_what_was_read_is_loaded(tmp_path):
    ours, other = seeded("resnet8", num_classes=10), models.create("resnet8", num_classes=10)
    convert.to_torch(ours, tmp_path / "ours.pth")
    for given in (convert.to_state_dict(ours), torch_reader.read(tmp_path / "ours.pth")):
        assert any(key.endswith("num_batches_tracked") for key in given)
        loaded = convert.load_state_dict(other, given, "ours")
        np.testing.assert_array_equal(loaded["fc.weight"], given["fc.weight"])


# What does not fit.


def test_a_mismatch_lists_everything_and_changes_nothing(weights):
    model = seeded("resnet8", num_classes=12)
    before = convert.to_state_dict(model)
    wrong = {**weights, "extra": np.ones(3, np.float32)}
    wrong["bn1.bias"] = wrong["bn1.bias"].astype(np.int64)
    del wrong["conv1.weight"], wrong["layer2.0.bn1.running_var"]
    wrong = {key: value for key, value in wrong.items() if not key.endswith("num_batches_tracked")}
    with pytest.raises(ConversionError) as caught:
        convert.load_state_dict(model, wrong, "wrong.pth")
    assert str(caught.value) == (
        "wrong.pth: does not fit resnet8 (num_classes=12); "
        "missing (2): conv1.weight, layer2.0.bn1.running_var; unexpected (1): extra; "
        "misshapen (2): fc.weight [10, 64] where the model has [12, 64], fc.bias [10] where the model has [12]; "
        "of another type (1): bn1.bias (int64); "
        "closest is resnet8 (num_classes=10), 3 keys apart"
    )
    after = convert.to_state_dict(model)
    assert all(np.array_equal(before[key], after[key]) for key in before)


def refusal(path, name, **options) -> str:
    with pytest.raises(ConversionError) as caught:
        convert.from_torch(path, name, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value.reason


def test_files_for_another_network_are_refused(weights, tmp_path):
    path = tmp_path / "x.pth"
    torch_writer.write(path, weights)
    assert "missing (30): layer1.1.conv1.weight" in refusal(path, "resnet14")
    assert "misshapen" in refusal(path, "resnet8x4")
    assert "unexpected" in refusal(path, "vgg8")
    with pytest.raises(ValueError, match="unknown model 'resnet9'"):
        convert.from_torch(path, "resnet9")


def test_a_shortcut_half_there_is_no_other_kind_of_shortcut(weights, tmp_path):
    """Only a file without any projection has the shortcuts that need no weights."""
    incomplete = {key: value for key, value in weights.items() if not key.startswith("layer3.0.downsample")}
    torch_writer.write(tmp_path / "x.pth", incomplete)
    assert "missing (5): layer3.0.downsample.0.weight" in refusal(tmp_path / "x.pth", "resnet8")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "holds no state dict"),
        ({"a.weight": np.ones(3, np.float32)}, "holds no classifier"),
        ({"fc.weight": np.ones((1, 3), np.float32)}, "holds no classifier"),
    ],
)
def test_files_without_a_network(content, reason, tmp_path):
    torch_writer.write(tmp_path / "x.pth", content)
    assert reason in refusal(tmp_path / "x.pth", "resnet8")


def test_a_checkpoint_without_weights(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"epoch": 3, "state_dict": {"fc.weight": torch.ones(2, 2), "note": "hello"}}, tmp_path / "x.pth")
    assert "no tensors (1): note" in refusal(tmp_path / "x.pth", "resnet8")
    torch.save([torch.ones(3)], tmp_path / "x.pth")
    assert "holds no state dict" in refusal(tmp_path / "x.pth", "resnet8")
