"""The engine carries the random keys of a network along: resumed, stacked and accumulated runs draw as they should."""

import jax
import numpy as np
import pytest
from flax import nnx
from tiny import assert_same_bits, digits, leaves

import jaxkd
from jaxkd import Outputs, optimizers
from jaxkd.nn.attention import drop_paths
from jaxkd.nn.layers import Linear
from jaxkd.nn.stack import Stack

SGD = optimizers.sgd(0.05, momentum=0.9)
EXAMPLES, BATCH, STEPS = 72, 32, 3


class Block(nnx.Module):
    def __init__(self, drop_path, rngs):
        self.linear, self.drop_path = Linear(8, 8, rngs=rngs), drop_path

    def __call__(self, values, train):
        return values + self.drop_path(jax.nn.relu(self.linear(values)), train)


class Dropping(nnx.Module):
    """A stack of blocks with stochastic depth."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.stem, self.fc = Linear(3, 8, rngs=rngs), Linear(8, 10, rngs=rngs)
        self.blocks = Stack([Block(drop, rngs) for drop in drop_paths(0.5, 4, rngs=rngs)])
        self.num_classes = 10

    def __call__(self, images, train=False):
        hidden = self.blocks(self.stem(images.mean((1, 2))), train)
        return Outputs(self.fc(hidden), (hidden,))


def compiled(seed=0, **options):
    trainer = jaxkd.Trainer(Dropping(seed))
    trainer.compile(SGD, seed=seed, **options)
    return trainer


def fit(trainer, epochs=2):
    train, _ = digits()
    trainer.fit(train.subset(EXAMPLES), epochs=epochs, batch_size=BATCH, verbose=0)
    return trainer


def draws(trainer):
    return trainer.state.variables["model"]["blocks"]["block"]["drop_path"]["stream"]["count"].tolist()


@pytest.fixture(scope="module")
def straight():
    return fit(compiled())


def test_resumed_bit_for_bit(straight, tmp_path):
    fit(compiled(), epochs=1).save(tmp_path)
    resumed = compiled()
    resumed.restore(tmp_path)
    fit(resumed)
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    assert draws(resumed) == [2 * STEPS] * 4


@pytest.mark.thorough
def test_one_step_a_call_draws_what_a_compiled_epoch_draws(straight):
    single = fit(compiled(steps_per_execution=1))
    for one, other in zip(leaves(single.state.params), leaves(straight.state.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
def test_each_microbatch_draws_for_itself():
    assert draws(fit(compiled(gradient_accumulation_steps=2), epochs=1)) == [2 * STEPS] * 4


@pytest.mark.thorough
def test_stacked_runs_draw_what_each_would_alone(straight):
    train, _ = digits()
    cells = [{"seed": 0}, {"seed": 1}]
    found = jaxkd.sweep(compiled, cells, train.subset(EXAMPLES), epochs=2, batch_size=BATCH, verbose=0)
    for run, alone in zip(found.runs, (straight, fit(compiled(1))), strict=True):
        assert draws(run) == draws(alone)
        for one, other in zip(leaves(run.state.params), leaves(alone.state.params), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_evaluation_drops_nothing(straight):
    _, test = digits()
    before = leaves(straight.state)
    assert straight.evaluate(test.subset(32)) == straight.evaluate(test.subset(32))
    assert_same_bits(leaves(straight.state), before)
