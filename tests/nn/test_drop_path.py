"""Stochastic depth: which examples lose a branch, in what mean, and how often it was drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxkd import models
from jaxkd.nn.attention import DropPath, LayerNorm, drop_paths, dropout
from jaxkd.nn.stack import Stack


class Block(nnx.Module):
    """A residual block with both kinds of dropout."""

    def __init__(self, drop_path, rngs):
        self.norm, self.drop_path, self.dropout = LayerNorm(4), drop_path, dropout(0.2, rngs=rngs)

    def __call__(self, values, train):
        branch = self.dropout(self.norm(values), deterministic=not train)
        return values + self.drop_path(branch, train)


def blocks(count):
    rngs = nnx.Rngs(0, dropout=1)
    return [Block(drop, rngs) for drop in drop_paths(0.5, count, rngs=rngs)]


VALUES = jnp.arange(48.0).reshape(4, 3, 4) % 7


def test_an_example_loses_its_whole_branch_and_the_mean_stays():
    drop = DropPath(0.25, rngs=nnx.Rngs(0))
    found = np.asarray(drop(jnp.ones((4000, 2, 3)), train=True))
    assert set(np.unique(found)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (found == found[:, :1, :1]).all()
    assert found.mean() == pytest.approx(1, abs=0.03)


def test_each_call_draws_anew_and_evaluation_draws_nothing():
    drop = DropPath(0.5, rngs=nnx.Rngs(0))
    ones = jnp.ones((64, 1))
    first, second = drop(ones, train=True), drop(ones, train=True)
    assert (first != second).any()
    assert drop(ones, train=False) is ones
    assert int(drop.stream.count[...]) == 2


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates_that_cannot_be(rate):
    for make in (lambda: DropPath(rate, rngs=nnx.Rngs(0)), lambda: drop_paths(rate, 3, rngs=nnx.Rngs(0))):
        with pytest.raises(ValueError, match=r"drop_path is .*; it must be in \[0, 1\)"):
            make()
    with pytest.raises(ValueError, match="dropout is"):
        dropout(rate, rngs=nnx.Rngs(0))


def test_a_stack_drops_what_its_blocks_would():
    """Also with rates that differ, and again in a second call."""
    written_out, stacked = blocks(5), Stack(blocks(5))
    for _ in range(2):
        wanted = VALUES
        for block in written_out:
            wanted = block(wanted, True)
        np.testing.assert_allclose(stacked(VALUES, True), wanted, rtol=1e-5, atol=1e-6)
    assert stacked.block.drop_path.stream.count[...].tolist() == [2] * 5
    np.testing.assert_allclose(stacked(VALUES, False), Stack(blocks(5))(VALUES, False))


def test_gradients_see_the_same_draws_as_the_values():
    """A branch that was dropped has no gradient: the backward pass recomputes the block and draws the same."""
    stacked = nnx.split(Stack(blocks(4)))
    values, pull = jax.vjp(lambda values: nnx.merge(*stacked, copy=True)(values, True), VALUES)
    written_out = nnx.split(nnx.List(blocks(4)))

    def by_hand(values):
        for block in nnx.merge(*written_out, copy=True):
            values = block(values, True)
        return values

    expected, push = jax.vjp(by_hand, VALUES)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pull(VALUES)[0], push(VALUES)[0], rtol=1e-4, atol=1e-5)


def test_initial_weights_do_not_depend_on_the_keys_of_dropout():
    """The keys of dropout come from a stream of their own, which initial weights do not share."""
    plain = models.create("resnet8", num_classes=10, seed=3)
    kernel = models.resnet.Conv(3, 16, 3, rngs=nnx.Rngs(3)).kernel
    np.testing.assert_array_equal(plain.conv1.kernel[...], kernel[...])
