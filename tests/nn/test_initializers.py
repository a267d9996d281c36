"""Initial weights are JAX's own, whatever their shape, and are drawn by few programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers as jax_initializers

from jaxkd import models
from jaxkd.nn import initializers

SHAPES = [(7,), (3, 3, 3, 16), (64, 100), (1, 1, 256, 256), (3, 3, 128, 129), (2049, 2048)]


def assert_same_numbers(ours, theirs, shape):
    key = jax.random.key(5)
    found, expected = ours(key, shape, jnp.float32), theirs(key, shape, jnp.float32)
    np.testing.assert_array_max_ulp(found, expected, maxulp=4)  # a compiler may round differently for another shape


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_are_those_that_jax_draws(shape):
    assert_same_numbers(initializers.normal(0.01), jax_initializers.normal(0.01), shape)


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize("fan", ["fan_in", "fan_out"])
@pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
def test_variances_follow_the_fan_as_in_jax(distribution, fan, shape):
    ours = initializers.variance_scaling(2.0, fan, distribution)
    theirs = jax_initializers.variance_scaling(2.0, fan, distribution)
    assert_same_numbers(ours, theirs, shape)


def test_bounded_numbers_are_those_that_jax_draws():
    key, bound = jax.random.key(5), 0.3
    theirs = jax.random.uniform(key, (100,), minval=-bound, maxval=bound)
    np.testing.assert_array_equal(initializers.uniform(key, (100,), bound), theirs)


def test_a_network_of_many_shapes_draws_rows_of_few_lengths(monkeypatch):
    lengths = set()
    draw = initializers._cut

    def cut(row, scale, shape):
        lengths.add(row.shape)
        return draw(row, scale, shape)

    monkeypatch.setattr(initializers, "_cut", cut)
    network = models.create("ShuffleV1", num_classes=10, seed=0)
    shapes = {leaf.shape for leaf in jax.tree.leaves(jax.tree.map(np.asarray, network.layer1))}
    assert len(shapes) > 5
    assert lengths
    assert lengths <= {(length,) for length in initializers.LENGTHS}
