"""Files whose keys have other names: the right network with every tensor in its place, or a refusal."""

import re
import string

import numpy as np
import pytest

from jaxkd.convert import ConversionError
from jaxkd.convert.architectures import CHANNELS, CLASSES, networks
from jaxkd.convert.identify import named, variants
from jaxkd.convert.renaming import renamed
from jaxkd.convert.selection import _CIFAR_STEM
from jaxkd.convert.torch_models import select

PREFIXES = ("module", "_orig_mod", "model", "net", "backbone", "student", "teacher", "encoder", "a.b")
EXTRAS = {"epoch": 3, "optimizer": {"state": {}, "param_groups": []}, "step": np.array(9), "note": "best", "args": None}
KINDS = ("plain", "words", "numbers", "underscores", "opaque", "preactivation")
DAMAGES = ("none", "none", "none", "none", "dropped", "swapped", "sorted", "reshaped", "turned")


def arrays(network, options=0, num_classes=7, channels=3):
    """Arrays of a network's keys and shapes that take no memory; each is an object of its own."""
    numbers = {CLASSES: num_classes, CHANNELS: channels}
    _, shapes = variants(network)[options]
    filled = {key: tuple(numbers.get(size, size) for size in shape) for key, shape in shapes.items()}
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in filled.items()}


def replaced_words(key, words):
    return re.sub(r"[A-Za-z]+(_[A-Za-z]+)*", lambda found: words[found[0]], key)


def new_names(keys, kind, rng):
    """Other names for keys, in their order; equal parts stay equal."""
    if kind == "words":
        parts = sorted({part[0] for key in keys for part in re.finditer(r"[A-Za-z]+(_[A-Za-z]+)*", key)})
        made = {part: "q" + "".join(rng.choice(list(string.ascii_lowercase), 6)) for part in parts}
        return [replaced_words(key, made) for key in keys]
    if kind == "numbers":
        shift = int(rng.integers(1, 20))
        return [re.sub(r"\d+", lambda found: str(int(found[0]) + shift), key) for key in keys]
    if kind == "underscores":
        return [key.replace(".", "_") for key in keys]
    if kind == "opaque":
        return [f"tensor{number}" for number in range(len(keys))]
    if kind == "preactivation":  # each block begins with the normalisation that ends the one before
        return preactivation(keys)
    return list(keys)


def preactivation(keys):
    """Names of a network whose blocks begin one layer later, in the order of these keys."""
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in keys))
    moved = dict(zip(layers, [f"first.{layers[0]}", *layers[:-1]], strict=True))
    return [f"pre.{moved[layer]}.{leaf}" for layer, _, leaf in (key.rpartition(".") for key in keys)]


def damaged(items, damage, rng):
    """The items of a file with one thing wrong."""
    items = list(items)
    place = int(rng.integers(len(items) - 1))
    if damage == "dropped":
        del items[place]
    elif damage == "swapped":
        items[place], items[place + 1] = items[place + 1], items[place]
    elif damage == "sorted":
        items.sort()
    elif damage == "reshaped":
        key, value = items[place]
        items[place] = key, np.broadcast_to(np.float32(0), (*value.shape[:-1], value.shape[-1] + 1))
    elif damage == "turned":
        items = [*items[place:], *items[:place]]
    return items


def mutated(seed):
    """A file, what it was made of, and whether it must load (None where it must not)."""
    rng = np.random.default_rng(seed)
    known = networks()
    network = known[int(rng.integers(len(known)))]
    weights = arrays(network, int(rng.integers(1 + network.pads)), int(rng.integers(2, 300)))
    kind, damage = str(rng.choice(KINDS)), str(rng.choice(DAMAGES))
    prefix = "".join(f"{part}." for part in rng.choice(PREFIXES, int(rng.integers(4))))
    names = new_names(list(weights), kind, rng)
    items = damaged(zip(names, weights.values(), strict=True), damage, rng)
    content = {prefix + key: value for key, value in items}
    tree = {**content, "n_averaged": np.array(5)} if rng.random() < 0.2 else content
    tree = {str(rng.choice(["state_dict", "model", "net", "weights"])): tree, **EXTRAS} if rng.random() < 0.5 else tree
    same_names = kind == "plain" and damage not in ("dropped", "reshaped")  # in any order
    renamed_well = kind in ("words", "numbers") and damage == "none" and network.names[0] not in _CIFAR_STEM
    return tree, network, weights, None if kind == "preactivation" else same_names or renamed_well


def check(seed):
    """Return whether the file was loaded; assert that it was not wrong."""
    tree, network, weights, certain = mutated(seed)
    found = selected(tree)
    if isinstance(found, ConversionError):
        assert not certain, (seed, str(found))
        return False
    assert certain is not None, seed
    assert found.candidate.name == network.names[0], seed
    assert found.candidate.num_classes == weights[list(weights)[-1]].shape[0], seed
    assert found.weights.keys() == weights.keys(), seed
    assert all(found.weights[key] is value for key, value in weights.items()), seed
    return True


def selected(tree):
    try:
        return select(tree, "x.pth")
    except ConversionError as error:
        return error


def test_some_mutations_end_right_or_refused():
    loaded = [check(seed) for seed in range(30)]
    assert 8 < sum(loaded) < 27


@pytest.mark.slow
def test_a_thousand_mutations_end_right_or_refused():
    loaded = [check(seed) for seed in range(1000, 2000)]
    assert 250 < sum(loaded) < 750


# What cannot be told apart by shapes.


def renamed_file(name, kind, options=0):
    weights = arrays(named(name), options, num_classes=10)
    return dict(zip(new_names(list(weights), kind, np.random.default_rng(0)), weights.values(), strict=True)), weights


def refusal(*arguments, **options):
    with pytest.raises(ConversionError) as caught:
        select(*arguments, **options)
    return caught.value.reason


def test_the_keys_that_were_matched_are_said():
    tree, weights = renamed_file("resnet8", "underscores")
    found = select(tree, "x.pth")
    assert all(found.weights[key] is value for key, value in weights.items())
    assert found.matched == (
        "its 47 keys have other names, matched in order and by shape: conv1_weight is conv1.weight"
    )


def test_a_pre_activation_network_is_not_loaded_as_its_twin():
    """Of padded shortcuts, it has the same shapes in the same order."""
    tree, _ = renamed_file("resnet20", "opaque", options=1)
    reason = refusal(tree, "x.pth")
    assert "is ambiguous: it fits resnet20 (num_classes=10, shortcut='pad'), and so does a ResNet with Batch" in reason
    assert "say name='resnet20'" in reason
    assert select(tree, "x.pth", "resnet20").candidate.fits
    keys = list(arrays(named("resnet20"), 1))
    shifted = {}
    for key, value in zip(keys, tree.values(), strict=True):
        shifted[f"blocks.{(keys.index(key) - 1) // 10}.{key.replace('.', '_')}"] = value
    assert "does not fit resnet20, by its keys or by its shapes" in refusal(shifted, "x.pth", "resnet20")


def test_a_vgg_without_blocks_is_not_loaded_as_one_that_pools_at_other_places():
    weights = arrays(named("vgg16"), num_classes=10)
    features = {f"features.{n}.{key.rpartition('.')[2]}": value for n, (key, value) in enumerate(weights.items())}
    assert "say name='vgg16'" in refusal(features, "x.pth")
    found = select(features, "x.pth", "vgg16")
    assert all(found.weights[key] is value for key, value in weights.items())


def test_the_max_pool_that_a_small_stem_may_keep_is_named():
    """huyvnphan/PyTorch_CIFAR10 keeps it, under torchvision's keys."""
    weights = arrays(named("ResNet18_cifar"), num_classes=10)
    theirs = {key.replace("linear", "fc").replace("shortcut", "downsample"): value for key, value in weights.items()}
    assert select(weights, "x.pth").candidate.name == "ResNet18_cifar"
    reason = refusal(theirs, "x.pth")
    assert "is ambiguous: it fits ResNet18_cifar (num_classes=10), and so does a network that keeps" in reason
    assert "say name='ResNet18_cifar'" in reason
    assert select(theirs, "x.pth", "ResNet18_cifar").matched == ""


def test_kinds_of_tensors_are_not_exchanged():
    network = named("resnet8")
    exchanged = {"weight": "bias", "bias": "weight", "running_mean": "running_mean", "running_var": "running_var"}
    shapes = {}
    for key, shape in network.shapes.items():
        layer, _, leaf = key.rpartition(".")
        shapes[f"net.{layer}.{exchanged[leaf] if 'bn' in layer else leaf}"] = shape
    assert renamed(network, shapes) is None
    gammas = {key.replace("bn1.weight", "bn1.gamma"): shape for key, shape in network.shapes.items()}
    assert renamed(network, gammas).shows_blocks


def test_blocks_in_the_order_of_text_are_not_taken_for_that_of_numbers():
    weights = arrays(named("resnet110"), num_classes=10)
    moved = sorted(weights, key=lambda key: [len(key.split(".")) < 4, "layer" not in key, key.split(".")[:2]])
    moved = (
        [key for key in weights if "layer" not in key][:5] + [key for key in moved if "layer" in key] + ["fc.weight"]
    )
    tree = {key.replace("layer", "stage"): weights[key] for key in [*moved, "fc.bias"]}
    assert len(tree) == len(weights)
    assert "fits no network of the zoo" in refusal(tree, "x.pth")


def test_a_near_miss_is_shown_side_by_side():
    tree, _ = renamed_file("resnet8", "words")
    tree[list(tree)[20]] = np.zeros((5, 5), np.float32)
    lines = refusal(tree, "x.pth").splitlines()
    assert lines[0] == (
        "fits no network of the zoo, by its keys or by its shapes in order; its shapes are nearly those of resnet8, "
        "1 apart, the first key 21:"
    )
    assert lines[1] == "  file | resnet8"
    assert len(lines) == 3
    assert re.fullmatch(r"  q\w+.* \[5, 5\] \| layer2\.\S+ \[.*\]", lines[2])
