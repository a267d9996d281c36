"""Files as training scripts leave them: prefixes, counters, averages, several networks, Lightning, other classes."""

import itertools

import numpy as np
import pytest
from seeded import same_weights, seeded
from torch_bytes import call, dict_of, name, number, program, write_zip

from jaxkd import convert
from jaxkd.convert import ConversionError
from jaxkd.convert.__main__ import main
from jaxkd.convert.checkpoint import read_manifest
from jaxkd.convert.state_dict import weight_sets
from jaxkd.convert.torch_models import select
from jaxkd.formats import torch_reader, torch_writer

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "student.", "teacher.", "encoder.")


@pytest.fixture(scope="module")
def resnet8():
    return seeded("resnet8")


@pytest.fixture(scope="module")
def weights(resnet8):
    return convert.to_state_dict(resnet8)


def behind(prefix, weights):
    return {prefix + key: value for key, value in weights.items()}


def equal(found, weights):
    return all(found[key] is value for key, value in weights.items() if not key.endswith("num_batches_tracked"))


def refusal(tree, *arguments, **options):
    with pytest.raises(ConversionError) as caught:
        select(tree, "x.pth", *arguments, **options)
    return caught.value.reason


# Prefixes and what stands beside the keys.


@pytest.mark.parametrize("given", [None, "resnet8"])
def test_any_prefix_is_left_off_and_said(given, weights):
    chains = [*itertools.chain.from_iterable(itertools.product(PREFIXES, repeat=n) for n in (1, 2))]
    for chain in [*chains[:: 1 if given else 7], ("module.", "_orig_mod.", "model."), ("a.", "b.", "c.", "d.", "e.")]:
        prefix = "".join(chain)
        found = select({"state_dict": behind(prefix, weights), "epoch": 3}, "x.pth", given)
        assert (found.candidate.name, found.candidate.num_classes) == ("resnet8", 10)
        assert equal(found.weights, weights)
        plain = prefix == "module."  # which was always left off
        assert found.matched == ("" if plain else f"keys begin with '{prefix}', which was left off")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_counters_and_other_extras_beside_the_keys_are_left_out(prefix, weights):
    extras = {"epoch": 3, "optimizer": {"state": {}, "lr": [0.1]}, "step": np.array(7), "note": "best", "args": None}
    found = select({**extras, **behind(prefix, weights)}, "x.pth")
    assert equal(found.weights, weights)
    assert "no tensors (4): epoch, optimizer, note, args" in found.matched


def test_a_network_beside_which_little_else_lies_is_taken(weights):
    beside = {"criterion.embed.weight": np.ones((4, 4), np.float32), "temperature": np.ones(1, np.float32)}
    found = select({"model": behind("module.student.", weights) | beside}, "x.pth")
    assert equal(found.weights, weights)
    assert "tensors left out (2): criterion.embed.weight, temperature" in found.matched


def test_of_a_student_and_a_teacher_one_must_be_named(weights):
    """As `latest` of mdistiller holds them."""
    teacher = convert.to_state_dict(seeded("resnet14"))
    tree = {"model": behind("module.student.", weights) | behind("module.teacher.", teacher), "epoch": 3}
    reason = refusal(tree)
    assert "holds several networks (2): resnet8 (num_classes=10) at 'model/module.student.', resnet14" in reason
    assert "say which by weights='model/module.student.', or by jaxkd convert FILE OUT --weights" in reason
    for asked, expected in (("student", weights), ("module.teacher", teacher), ("model/module.student.", weights)):
        assert equal(select(tree, "x.pth", weights=asked).weights, expected)
    assert equal(select(tree, "x.pth", "resnet14").weights, teacher)
    assert "holds no weights at 'assistant'; it holds weights at (2): model, model/module." in refusal(
        tree, weights="assistant"
    )


def test_a_student_is_not_taken_for_a_teacher_that_is_not_of_the_zoo(weights):
    other = {f"teacher.stage{n}.conv.weight": np.ones((3, 3, 3, 3), np.float32) for n in range(5)}
    tree = behind("student.", weights) | other
    assert "holds several networks, one at 'student.' and 5 more convolutions beside it" in refusal(tree)
    assert equal(select(tree, "x.pth", "resnet8").weights, weights)
    assert equal(select(tree, "x.pth", weights="student").weights, weights)


def test_student_and_teacher_in_dictionaries_of_their_own(weights):
    teacher = convert.to_state_dict(seeded("resnet14"))
    tree = {"student": weights, "teacher": behind("module.", teacher)}
    assert "holds several networks (2)" in refusal(tree)
    found = select(tree, "x.pth", weights="teacher")
    assert equal(found.weights, teacher)
    assert found.matched == "the weights are those under 'teacher'"


@pytest.mark.parametrize("name", ["optimal_state_dict", "optimized_model", "schedule_free"])
def test_names_that_begin_as_an_optimizers_may_be_those_of_weights(name, weights):
    moments = {"state": {"fc.weight": np.ones((2, 2), np.float32)}}
    others = {"optimizer_state_dict": moments, "lr_schedulers": moments, "optim": moments, "grad_scaler": moments}
    found = select({"epoch": 9, name: weights, **others}, "x.pth")
    assert equal(found.weights, weights)
    assert found.matched == f"the weights are those under '{name}'"


# Raw and averaged weights.


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        *(("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema"), ("net", "swa_model")),
        *(("model", "model_EMA"), ("net", "EMA"), ("model", "model-ema")),
    ],
)
def test_of_raw_and_averaged_weights_one_must_be_named(raw, averaged, weights):
    mean = convert.to_state_dict(seeded("resnet8"))
    tree = {"epoch": 3, raw: weights, averaged: behind("module.", mean)}
    reason = refusal(tree)
    assert reason == (
        f"holds two sets of weights, raw ones at '{raw}' and averaged ones at '{averaged}/module.': "
        "say which by weights='raw' or weights='averaged', or write one to a file of its own: "
        "jaxkd convert FILE OUT --weights averaged"
    )
    assert equal(select(tree, "x.pth", weights="raw").weights, weights)
    found = select(tree, "x.pth", "resnet8", weights="averaged")
    assert equal(found.weights, mean)
    assert found.matched == f"averaged weights; the weights are those under '{averaged}'"
    del tree[raw]
    assert equal(select(tree, "x.pth").weights, mean)
    assert "holds no raw weights; it holds weights at (2)" in refusal(tree, weights="raw")


def test_the_averaged_model_of_pytorch(weights):
    tree = {"n_averaged": np.array(7), **behind("module.", weights)}
    found = select(tree, "x.pth")
    assert equal(found.weights, weights)
    assert found.matched == "averaged weights"
    assert "holds no raw weights" in refusal(tree, weights="raw")
    both = behind("net.", weights) | {f"ema.{key}": value for key, value in tree.items()}
    assert "raw ones at 'net.' and averaged ones at 'ema.module.'" in refusal(both)
    assert equal(select(both, "x.pth", weights="averaged").weights, weights)


def test_dictionaries_that_contain_each_other_end(weights):
    tree = {"model": dict(weights)}
    tree["model"]["self"] = tree["again"] = tree["model"]
    assert len({each.containers for each in weight_sets(tree, "x.pth")}) == 1
    assert equal(select(tree, "x.pth").weights, weights)


# Lightning.


def lightning(weights, **hyper_parameters):
    state = behind("model.", weights)
    return {"epoch": 3, "global_step": 9, "state_dict": state, "hyper_parameters": hyper_parameters, "loops": {"a": 1}}


def test_lightning_checkpoints_are_read(weights, resnet8, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {key: torch.from_numpy(value.copy()) for key, value in weights.items()}
    torch.save(lightning(tensors, lr=0.1, betas=(0.9, 0.99)), tmp_path / "last.ckpt")
    model = convert.from_torch(tmp_path / "last.ckpt")
    assert same_weights(model, resnet8)
    assert model.source.matched == "keys begin with 'model.', which was left off"


def test_dictionaries_of_lightning_are_plain_ones(tmp_path):
    made = call(name("pytorch_lightning.utilities.parsing", "AttributeDict"))
    path = write_zip(tmp_path / "x.ckpt", program(dict_of(hyper_parameters=made, epoch=number(3))))
    assert torch_reader.read(path) == {"hyper_parameters": {}, "epoch": 3}


def test_code_in_a_checkpoint_is_refused_with_the_cure(tmp_path):
    pickled = program(dict_of(hyper_parameters=call(name("my.models", "Net"))))
    with pytest.raises(ConversionError, match=r"refused to load my\.models\.Net: .*torch\.save\(model\.state_dict\(\)"):
        convert.from_torch(write_zip(tmp_path / "x.ckpt", pickled))


# Another number of classes.


def test_a_classifier_of_other_classes_is_replaced_by_a_fresh_one(weights, tmp_path):
    torch_writer.write(tmp_path / "x.pth", behind("net.", weights))
    model = convert.from_torch(tmp_path / "x.pth", num_classes=4)
    assert (model.name, model.num_classes, model.fc.kernel.shape) == ("resnet8", 4, (64, 4))
    found = convert.to_state_dict(model)
    assert all(np.array_equal(found[key], weights[key]) for key in weights if not key.startswith("fc."))
    assert np.abs(found["fc.weight"]).max() > 0
    assert model.source.matched == (
        "keys begin with 'net.', which was left off; "
        "the classifier of 10 classes was replaced by a fresh one of 4 (seed 0)"
    )
    again, other = (convert.from_torch(tmp_path / "x.pth", "resnet8", 4, seed=seed) for seed in (0, 1))
    assert same_weights(again, model)
    assert not same_weights(other, model)
    own = convert.from_torch(tmp_path / "x.pth", num_classes=10)
    assert np.array_equal(convert.to_state_dict(own)["fc.weight"], weights["fc.weight"])
    assert "fresh" not in own.source.matched
    with pytest.raises(ValueError, match="at least two classes"):
        convert.from_torch(tmp_path / "x.pth", num_classes=1)


# What is kept and printed of it.


def test_what_was_matched_is_kept_with_the_model(weights, tmp_path):
    torch_writer.write(tmp_path / "x.pth", behind("_orig_mod.", weights))
    model = convert.from_torch(tmp_path / "x.pth")
    convert.save(model, tmp_path / "model")
    assert read_manifest(tmp_path / "model")["source"]["matched"] == model.source.matched
    assert convert.load(tmp_path / "model").source == model.source


def test_the_command_prints_what_was_matched_and_takes_which_weights(weights, resnet8, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    tensors = {key: torch.from_numpy(value.copy()) for key, value in weights.items()}
    torch.save({"state_dict": tensors, "state_dict_ema": dict(tensors)}, tmp_path / "x.pth")
    assert main([str(tmp_path / "x.pth"), str(tmp_path / "out")]) == 2
    assert "say which by weights='raw' or weights='averaged'" in capsys.readouterr().err
    assert main([str(tmp_path / "x.pth"), str(tmp_path / "out"), "--weights", "averaged"]) == 0
    printed = capsys.readouterr().out
    assert "matched        averaged weights; the weights are those under 'state_dict_ema'\n" in printed
    assert same_weights(convert.load(tmp_path / "out"), resnet8)


def test_guessing_sees_through_prefixes_too(weights):
    assert str(convert.guess({"state_dict": behind("_orig_mod.model.", weights), "epoch": 3})[0]) == (
        "resnet8 (num_classes=10)"
    )
