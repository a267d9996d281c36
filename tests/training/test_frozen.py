"""Layers that are frozen: weights, optimizer, BatchNorm and dropout, in every form of network and run."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from tiny import TinyNet, assert_same_bits, leaves

import jaxkd
from jaxkd import Outputs, callbacks, losses, models, optimizers
from jaxkd.nn.modes import call, checked_trainable

IMAGES = np.random.default_rng(0).standard_normal((24, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(24) % 3
SGD = optimizers.sgd(0.1, weight_decay=5e-4)


class Own(nnx.Module):
    """Flax's layers; the mode comes by `train=`, which decides in the call, or by Flax's attributes."""

    def __init__(self, told, seed=0):
        rngs = nnx.Rngs(seed)
        self.conv, self.bn = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.dropout, self.fc, self.told = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(8, 3, rngs=rngs), told

    def __call__(self, images, train=False):
        mode = {
            "always": {"use_running_average": not train},
            "leaves": {"use_running_average": None if train else True},
        }
        hidden = jax.nn.relu(self.bn(self.conv(images), **mode[self.told])).mean((1, 2))
        return Outputs(self.fc(self.dropout(hidden, deterministic=None if train else True)), (hidden,))


class ByAttributes(nnx.Module):
    """The same without any argument."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.conv, self.bn = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.dropout, self.fc = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, images):
        return self.fc(self.dropout(jax.nn.relu(self.bn(self.conv(images))).mean((1, 2))))


NETWORKS = {
    "TinyNet": lambda seed=0: TinyNet(3, seed),
    "resnet8": lambda seed=0: models.create("resnet8", num_classes=3, seed=seed),
    "left to the layer": lambda seed=0: Own("leaves", seed),
    "attributes": ByAttributes,
}


def compiled(network, trainable=None, optimizer=SGD, **options):
    trainer = jaxkd.Trainer(network)
    trainer.compile(optimizer, trainable=trainable, **options)
    return trainer


def weights(network):
    """Parameters and running statistics by path."""
    found = nnx.to_flat_state(nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat)))
    return {".".join(map(str, path)): np.array(variable[...]) for path, variable in found}


def changed(before, network):
    """The layers at the network's top that have changed."""
    after = weights(network)
    return {key.split(".")[0] for key in before if not np.array_equal(before[key], after[key])}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_what_is_frozen_keeps_its_weights_and_its_statistics(make):
    network = make()
    before = weights(network)
    trainer = compiled(network, "fc")
    trainer.fit((IMAGES, LABELS), batch_size=8, epochs=2, verbose=0)
    assert changed(before, trainer.model) == {"fc"}
    assert all(leaf.shape in ((3,), (8, 3), (64, 3), ()) for leaf in leaves(trainer.state.opt_state))
    trainer = compiled(network)  # and is trained again when nothing is said
    trainer.fit((IMAGES, LABELS), batch_size=8, verbose=0)
    assert changed(before, trainer.model) > {"fc"}


def test_a_frozen_network_trains_its_classifier_on_the_features_of_evaluation():
    """As logistic regression on features that were computed before, dropout and BatchNorm in evaluation."""
    network = ByAttributes()
    network.eval()
    network.bn.mean[...] = np.linspace(-1, 1, 8)
    graph, state = nnx.split(network)
    kernel, bias = np.array(network.fc.kernel[...]), np.array(network.fc.bias[...])
    network.train()
    features = jax.nn.relu(nnx.merge(graph, state).bn(nnx.merge(graph, state).conv(IMAGES))).mean((1, 2))
    trainer = compiled(network, "fc", optimizers.sgd(0.5, momentum=0.0))
    trainer.fit((IMAGES, LABELS), batch_size=24, epochs=3, verbose=0)

    def objective(params):
        logits = features @ params[0] + params[1][None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    params = (kernel, bias)
    for _ in range(3):
        # The layer between, dropout, has nothing of its own and is frozen with the rest.
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.grad(objective)(params))
    np.testing.assert_allclose(trainer.model.fc.kernel[...], params[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(trainer.model.fc.bias[...], params[1], rtol=1e-4, atol=1e-6)


def test_dropout_and_left_out_branches_of_the_zoo_are_off_where_they_are_frozen():
    small = {"image_size": 8, "patch_size": 4, "width": 12, "depth": 4, "heads": 2}
    network = models.create("vit_tiny_patch16_224", 3, drop=0.5, drop_path=0.5, **small)

    def logits(train, trainable=None):
        return call(nnx.clone(network), jax.numpy.asarray(IMAGES), train, trainable).logits

    frozen = logits(True, checked_trainable(network, models.head(network)))
    np.testing.assert_allclose(frozen, logits(False), rtol=1e-5, atol=1e-6)
    network.eval()  # which is the user's own, and does not count
    assert not np.allclose(logits(True), frozen, atol=1e-2)


def test_some_stages_are_trained_and_others_not():
    network = models.create("resnet8", num_classes=3)
    before = weights(network)
    trainer = compiled(network, ("layer3", "fc"))
    trainer.fit((IMAGES, LABELS), batch_size=8, verbose=0)
    assert changed(before, trainer.model) == {"layer3", "fc"}
    after = weights(trainer.model)
    moved = {key for key in before if key.endswith("mean") and not np.array_equal(before[key], after[key])}
    assert len(moved) == 3  # BatchNorm of what is trained goes on, the shortcut's as well


@pytest.mark.thorough
def test_blocks_in_a_loop_are_frozen_too():
    network = models.create("resnet32", num_classes=3)
    assert type(network.layer1[1]).__name__ == "Stack"
    before = weights(network)
    trainer = compiled(network, models.head(network))
    trainer.fit((IMAGES[:8], LABELS[:8]), batch_size=8, verbose=0)
    assert changed(before, trainer.model) == {"fc"}


def test_a_layer_that_is_told_its_mode_in_the_call_cannot_be_frozen_and_is_named():
    trainer = compiled(Own("always"), "fc")
    for given in ((IMAGES, LABELS), [(IMAGES, LABELS)]):
        with pytest.raises(ValueError, match=r"bn is frozen, and Own tells it.*None if train else True\), or add 'bn'"):
            trainer.fit(given, batch_size=8, verbose=0)
    assert np.isfinite(
        compiled(Own("always"), ("bn", "fc")).fit((IMAGES, LABELS), batch_size=8, verbose=0).last("loss")
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("fcc", r"TinyNet has no such layer with parameters; did you mean fc\? at its top are bn, conv, fc"),
        (("conv", "layer4"), "trainable='layer4'"),
        ((), "trains nothing"),
    ],
)
def test_layers_that_do_not_exist_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        compiled(TinyNet(3), names)


def test_what_looks_like_one_block_and_is_several_is_refused_with_a_name_for_all_of_them():
    network = nnx.eval_shape(lambda: models.create("resnet32", num_classes=3))
    message = r"'layer3.1': that is no single block, but a row of equal ones .*: name 'layer3.1.block' for all of them"
    with pytest.raises(ValueError, match=f"trainable={message}"):
        checked_trainable(network, ("layer3.1", "fc"))
    assert checked_trainable(network, ("layer3.0", "layer2", "layer3.1.block")) is not None
    params = {"model": nnx.to_pure_dict(nnx.state(network, nnx.Param))}
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), params)
    with pytest.raises(ValueError, match=f"by_layer: {message}"):
        optimizers.by_layer(SGD, {"layer3.1": SGD}).init(params)
    optimizers.by_layer(SGD, {"layer3.0": SGD, "layer2": SGD, "layer3.1.block": SGD}).init(params)
    own = {"model": {"stem": {"block": {"kernel": np.zeros((4, 4)), "bias": np.zeros(4)}}, "fc": np.zeros(4)}}
    optimizers.by_layer(SGD, {"stem": SGD}).init(own)  # one layer, which happens to be called so


def test_a_fine_tuned_run_resumed_ends_with_the_same_bits(tmp_path):
    def run(epochs, folder, resume=None):
        rate = optimizers.step_decay(0.1, drops=(1,))
        optimizer = optimizers.by_layer(optimizers.sgd(0.01), {"fc": optimizers.sgd(rate)})
        trainer = compiled(TinyNet(3), ("bn", "fc"), optimizer)
        kept = [callbacks.Checkpoint(folder)]
        trainer.fit((IMAGES, LABELS), batch_size=8, epochs=epochs, callbacks=kept, resume=resume, verbose=0)
        return trainer

    whole = run(3, tmp_path / "whole")
    run(1, tmp_path / "parts")
    resumed = run(3, tmp_path / "parts", resume="auto")
    assert_same_bits(leaves(resumed.state), leaves(whole.state))


def test_a_sweep_freezes_what_its_runs_do():
    def make(seed):
        return compiled(TinyNet(3, seed), "fc", seed=seed)

    found = jaxkd.sweep(make, jaxkd.grid(seed=(0, 1)), (IMAGES, LABELS), batch_size=8, verbose=0)
    for seed, run in enumerate(found.runs):
        alone = make(seed)
        alone.fit((IMAGES, LABELS), batch_size=8, verbose=0)
        ours, theirs = weights(run.model), weights(alone.model)
        for key, value in theirs.items():
            np.testing.assert_allclose(ours[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
        assert changed(weights(TinyNet(3, seed)), run.model) == {"fc"}


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"gradient_accumulation_steps": 2}], ids=str)
def test_every_way_to_run_keeps_what_is_frozen(options):
    network = TinyNet(3)
    before = weights(network)
    distiller = jaxkd.Distiller(student=network, teacher=TinyNet(3, seed=1))
    distiller.compile(
        SGD,
        loss={"kd": losses.KD(4.0), "vid": losses.VID(positions=(0,))},
        trainable="fc",
        image_shape=(8, 8, 3),
        **options,
    )
    distiller.fit((IMAGES, LABELS), batch_size=8, verbose=0)
    assert changed(before, distiller.student) == {"fc"}
