"""Optimizers that are not the library's: they see blocks one by one, and are told what they ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import TinyNet, digits

import jaxkd
from jaxkd import models, optimizers
from jaxkd.training.optimizer_calls import with_named_arguments

pytestmark = pytest.mark.usefixtures("lenient_promotion")
BLOCKS = 3
STACKED = (("model", "stage", "block"),)


@pytest.fixture
def lenient_promotion():
    """optax mixes types, which the strict promotion of these tests forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def no_vectors(params):
    """Which parameters decay, as optax's documentation has it."""
    return jax.tree.map(lambda leaf: leaf.ndim != 1, params)


def parameters(seed):
    """Those of three blocks in one array each, and of a layer."""
    rng = np.random.default_rng(seed)
    block = {"kernel": rng.standard_normal((BLOCKS, 4, 2)), "scale": rng.standard_normal((BLOCKS, 4))}
    tree = {"model": {"stage": {"block": block}, "fc": {"bias": rng.standard_normal(4)}}, "losses": {}}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def of_block(tree, number):
    stage = {"block": jax.tree.map(lambda leaf: leaf[number], tree["model"]["stage"]["block"])}
    return {"model": {**tree["model"], "stage": stage}, "losses": {}}


FOREIGN = {
    "a mask by axes": optax.adamw(1e-2, weight_decay=0.5, mask=no_vectors),
    "ratios of lengths": optax.lamb(1e-2),
    "in a chain": optax.chain(optax.clip(1.0), optax.lars(1e-2)),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_blocks_are_seen_one_by_one(kind):
    optimizer, params = FOREIGN[kind], parameters(0)
    told = with_named_arguments(optimizer, STACKED)
    together, apart = told.init(params), [optimizer.init(of_block(params, number)) for number in range(BLOCKS)]
    for step in range(3):
        gradients = parameters(1 + step)
        updates, together = told.update(gradients, together, params, epoch=jnp.int32(1), stacked=STACKED)
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
        for number in range(BLOCKS):
            one = of_block(gradients, number), apart[number], of_block(params, number)
            alone, apart[number] = optimizer.update(*one)
            ours, theirs = map(jax.tree.leaves, (of_block(updates, number), alone))
            for value, expected in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-9)


def test_our_own_are_called_as_they_are():
    for own in (
        optimizers.sgd(0.1),
        optimizers.lamb(0.1),
        optimizers.by_layer(optax.adam(0.1), {"fc": optax.sgd(0.1)}),
    ):
        assert with_named_arguments(own, STACKED) is own


def test_kernels_are_found_among_blocks_that_are_apart():
    params = {"block": {"kernel": (jnp.zeros((2, 2)),) * 2, "bias_table": (jnp.zeros((2, 2)),) * 2}}
    assert optimizers.kernels(params) == {"block": {"kernel": (True, True), "bias_table": (False, False)}}


def test_a_deep_network_is_trained_and_resumed_by_an_optimizer_of_optax(tmp_path):
    train = digits()[0].subset(32)

    def compiled():
        trainer = jaxkd.Trainer(models.create("resnet32", num_classes=10, seed=0))
        trainer.compile(optax.adamw(1e-2, weight_decay=0.05, mask=no_vectors))
        return trainer

    trainer = compiled()
    trainer.fit(train, epochs=1, batch_size=32, verbose=0)
    trainer.save(tmp_path)
    again = compiled()
    again.restore(tmp_path)
    assert again.history.history == trainer.history.history


def test_many_steps_in_one_are_told_the_epoch():
    optimizer = optax.MultiSteps(optimizers.sgd(optimizers.step_decay(0.1, drops=(1,)), momentum=0.0), 2)
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(optimizer)
    history = trainer.fit(digits()[0].subset(64), epochs=2, batch_size=32, verbose=0)
    assert history.history["learning_rate"] == pytest.approx([0.1, 0.01])


def test_a_mask_of_another_tree_is_told():
    network = TinyNet()
    mask = {"conv": {"kernel": True}}
    with pytest.raises(TypeError, match=r"the optimizer cannot take a step: .*Parameters are \{'model': \{'conv': …"):
        jaxkd.Trainer(network).compile(optax.adamw(1e-3, mask=mask))
