"""`jaxkd train`, run as a user runs it, on the digits."""

import json

import numpy as np
import pytest
from flax import nnx
from tiny import digits

import jaxkd
from jaxkd import convert, models, optimizers, recipes
from jaxkd.commands import config_file, run, train
from jaxkd.config import DataConfig, RunConfig
from jaxkd.nn.attention import DropPath

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


def test_options_reach_the_network_its_loss_and_its_optimizer(tmp_path):
    images = digits()[0]
    given = ["--model", "vit_tiny_patch16_224", "--precision", "bfloat16", "--gradient-accumulation-steps", "2"]
    given += ["--label-smoothing", "0.1", "--drop-path", "0.2", "--resize-to", "224"]
    config = config_of(*given)
    assert run.losses_of(config, images).label_smoothing == 0.1
    network = run.initial_network(config, 10)
    assert network.resize_to == 224
    rates = [part.rate[...] for _, part in nnx.iter_modules(network) if isinstance(part, DropPath)]
    assert np.max(rates) == pytest.approx(0.2)  # blocks of equal shape are stacked
    program = run.compiled(config_of(*["--model", "resnet8", *given[2:8]]), images)._compiled_program()
    assert (program.precision, program.microbatches) == ("bfloat16", 2)

    convert.save(models.create("resnet8", num_classes=10), tmp_path / "pretrained")
    start = ["--model", "resnet8", "--init", str(tmp_path / "pretrained"), "--learning-rate", "0.01"]
    config = config_of(*start, "--head-learning-rate", "0.1")
    slow, fast = config.training.optimizer(), config.training.adapted(learning_rate=0.1).optimizer()
    network = run.initial_network(config, 10)
    assert run.optimizer_of(config, network) is optimizers.by_layer(slow, {"fc": fast})


def config_of(*arguments):
    return train.config_of(config_file.parse(train.command_line(), [*arguments, *SMALL], train.config_of))


AROUND = [
    *("--optimizer", "adamw", "--schedule", "cosine", "--warmup", "1", "--warmup-learning-rate", "1e-5"),
    *("--final-learning-rate", "1e-4", "--learning-rate", "0.002", "--weight-decay", "0.05", "--decay-kernels-only"),
    *("--augment", "trivial", "--random-erasing", "0.25"),
    *("--clip-norm", "1", "--label-smoothing", "0.1", "--mixup", "0.8", "--cutmix", "1", "--ema-decay", "0.9"),
]


def test_what_is_around_the_loss_is_recorded_and_averaged_weights_are_written(tmp_path, capsys):
    arguments = ["--model", "resnet8", "--epochs", "2", "--output", str(tmp_path / "run"), *SMALL]
    assert train.main([*arguments, *AROUND]) == 0
    settings = read(tmp_path / "run" / "config.json")["settings"]["training"]
    plain = RunConfig("resnet8", DataConfig("digits"), recipes.get_training("digits")).settings()["training"]
    since = {name: value for name, value in settings.items() if name not in plain}
    assert since == {
        "optimizer_name": "adamw", "schedule": "cosine", "warmup_learning_rate": 1e-5, "final_learning_rate": 1e-4,
        "decays_kernels_only": True, "clip_norm": 1.0, "label_smoothing": 0.1, "augment": "trivial",
        "random_erasing": 0.25, "mixup": 0.8, "cutmix": 1.0, "ema_decay": 0.9,
    }  # fmt: skip
    result = read(tmp_path / "run" / "result.json")
    last = result["last"]
    averaged = convert.load(tmp_path / "run" / "model-ema")
    measured = jaxkd.Trainer(averaged).evaluate(digits()[1])
    assert last["val_ema_accuracy"] == pytest.approx(measured["accuracy"], abs=1e-3)
    assert (tmp_path / "run" / "model-ema.pth").exists()
    printed, best = capsys.readouterr().out, result["best_ema"]
    assert f"averaged weights {last['val_ema_accuracy']:.2%}" in printed
    assert best["val_ema_accuracy"] >= last["val_ema_accuracy"]
    best_in = f"averaged weights were best in epoch {best['epoch']}: test top-1 {best['val_ema_accuracy']:.2%}"
    assert best_in in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "transformers", "--schedule", "steps"], "recipe transformers says no epochs after which"),
        (["--final-learning-rate", "0.1"], "a schedule of steps has neither a final_learning_rate"),
        (["--mixup", "-1"], "mixup_alpha=-1.0: give a finite number"),
        (["--augment", "auto"], "no augmentation is called 'auto'; there are trivial, auto-cifar10"),
        (["--random-erasing", "2"], "prob=2.0: a probability is from 0 to 1"),
        (["--clip-norm", "0"], "norm is 0.0"),
        (["--drop-path", "0.1"], "drop_path"),
        (["--optimizer", "adam"], "did you mean adamw"),
    ],
)
def test_what_does_not_go_together_is_told_before_any_work(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main(["--model", "resnet8", "--output", str(tmp_path / "run"), *SMALL, *arguments])
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
