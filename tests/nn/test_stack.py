"""Stacked blocks do what the blocks written out do, in one loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxkd import convert, models
from jaxkd.models.resnet import BasicBlock
from jaxkd.nn import stack
from jaxkd.nn.layers import Preactivation
from jaxkd.nn.stack import LOOP_FROM, Stack, last_block, stack_blocks


def blocks(count):
    rngs = nnx.Rngs(3)
    return [BasicBlock(4, 4, 1, "pad", rngs=rngs) for _ in range(count)]


def images(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def test_few_blocks_stay_as_they_are_and_many_become_a_stack():
    first, *rest = blocks(LOOP_FROM)
    assert len(stack_blocks(first, rest)) == LOOP_FROM
    first, *rest = blocks(LOOP_FROM + 1)
    stage = stack_blocks(first, rest)
    assert len(stage) == 2
    assert len(stage[1]) == LOOP_FROM
    assert [leaf.shape[0] for leaf in jax.tree.leaves(nnx.state(stage[1]))] == [LOOP_FROM] * 10


@pytest.mark.parametrize("train", [False, True])
def test_a_stack_is_its_blocks_one_after_another(train):
    alone, stacked = blocks(6), Stack(blocks(6))
    assert len(stacked) == 6
    given = wanted = Preactivation.of(images(2, 5, 5, 4))
    for block in alone:
        wanted = block(wanted, train)
    found = stacked(given, train)
    np.testing.assert_allclose(found.value, wanted.value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.relu(), wanted.relu(), rtol=1e-5, atol=1e-5)
    for position, block in enumerate(alone):
        ours, theirs = (nnx.to_pure_dict(nnx.state(one)) for one in (stacked[position], block))
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)  # running statistics included


def test_blocks_of_a_stack_can_be_looked_at():
    stacked = Stack(blocks(5))
    np.testing.assert_array_equal(stacked[-1].conv1.kernel[...], blocks(5)[-1].conv1.kernel[...])
    assert len(list(stacked)) == 5
    with pytest.raises(IndexError, match="5 blocks has no block 5"):
        stacked[5]
    stage = stack_blocks(blocks(1)[0], blocks(5))
    np.testing.assert_array_equal(last_block(stage).bn2.scale[...], stacked[4].bn2.scale[...])


@pytest.mark.thorough
def test_a_deep_network_trains_like_one_that_is_written_out(monkeypatch):
    def gradients(loop_from):
        monkeypatch.setattr(stack, "LOOP_FROM", loop_from)
        model = models.create("resnet32", num_classes=10)
        graph, *parts = nnx.split(model, nnx.Param, ...)
        params, rest = map(nnx.to_pure_dict, parts)

        def loss(params):
            merged = nnx.merge(graph, params, rest)
            value = jnp.mean(jnp.square(merged(images(4, 16, 16, 3), train=True).logits))
            return value, nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))

        (value, statistics), found = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        nnx.update(model, nnx.State(found), nnx.State(statistics))  # gradients, listed by name
        return value, convert.to_state_dict(model)

    (ours, by_name), (theirs, written_out) = gradients(4), gradients(100)
    assert list(by_name) == list(written_out)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    for name, value in written_out.items():
        np.testing.assert_allclose(by_name[name], value, atol=2e-4 * max(np.abs(value).max(), 1e-3), err_msg=name)


def test_the_program_does_not_grow_with_depth():
    def size(name):
        model = nnx.eval_shape(lambda: models.create(name, num_classes=10))
        graph, state = nnx.split(model)
        program = jax.make_jaxpr(lambda state, images: nnx.merge(graph, state)(images, train=True).logits)
        return str(program(state, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))).count("conv_general_dilated")

    assert size("resnet110") == size("resnet38") < size("resnet26")
    assert size("wrn_40_2") == size("wrn_52_2")
