"""Steps that the CPU would run slowly in a compiled loop are found by their structure, and not put in one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from sweeps import sweep
from tiny import TinyNet, digits

import jaxkd
from jaxkd import Outputs, callbacks, losses, models, optimizers
from jaxkd.nn.convolution import LAYOUT, convolve, slow_in_a_loop
from jaxkd.nn.layers import global_average_pool
from jaxkd.training.compiled_epoch import make_resident_loop, make_stream_loop
from jaxkd.training.sharding import Placement
from jaxkd.training.stacked_runs import make_stacked_step, stack
from jaxkd.types import Batch

IMAGES, KERNEL = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))


class OwnNet(nnx.Module):
    """Somebody's network, with Flax's convolution."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.conv, self.fc = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, images, train=False):
        pooled = global_average_pool(nnx.relu(self.conv(images)))
        return Outputs(self.fc(pooled), (pooled,))


def found(function, *arguments):
    return slow_in_a_loop(jax.make_jaxpr(function)(*arguments).jaxpr)


def plain(kernel, images):
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


def total(convolution):
    return lambda *arguments: convolution(*arguments).sum()


@pytest.mark.parametrize("argument", [0, 1])
def test_gradients_by_autodiff_are_slow_and_the_forward_pass_is_not(argument):
    assert not found(plain, KERNEL, IMAGES)
    assert found(jax.grad(total(plain), argument), KERNEL, IMAGES)


@pytest.mark.parametrize("argument", [0, 1])
@pytest.mark.parametrize(("groups", "kernel"), [(1, (3, 3, 4, 4)), (2, (3, 3, 2, 4)), (4, (3, 3, 1, 4))])
def test_the_zoos_convolution_is_never_slow(groups, kernel, argument):
    convolution = total(lambda kernel, images: convolve(images, kernel, 1, 1, groups))
    assert not found(jax.grad(convolution, argument), jnp.ones(kernel), jnp.ones((2, 8, 8, 4)))


@pytest.mark.parametrize(
    "wrapped",
    [
        jax.jit(plain),
        jax.checkpoint(plain),
        lambda kernel, images: lax.scan(lambda carry, _: (plain(kernel, images).sum(), None), 0.0, length=2)[0],
        lambda kernel, images: lax.cond(images.sum() > 0, plain, lambda *given: 2 * plain(*given), kernel, images),
    ],
    ids=["jit", "checkpoint", "scan", "cond"],
)
def test_a_convolution_is_found_at_any_depth(wrapped):
    assert found(jax.grad(lambda kernel: jnp.sum(wrapped(kernel, IMAGES))), KERNEL)


@sweep(
    "name",
    ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"],
    core=["resnet8"],
    thorough=["ShuffleV2"],
)
def test_networks_of_the_zoo_are_taken_in_loops(name):
    trainer = jaxkd.Trainer(models.create(name, num_classes=10))
    trainer.compile(optimizers.sgd(0.1))
    numbers = jax.ShapeDtypeStruct((2,), jnp.int32)
    batch = Batch(jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32), numbers, numbers)
    assert not found(trainer.step, trainer.state, batch)


def steps_of_calls(student, teacher=None, **options):
    """How many steps each compiled call took in an epoch of four batches and the rest of one."""
    calls = []
    heard = callbacks.LambdaCallback(on_train_batch_end=lambda *_: calls.append(len(run.last_steps["loss"])))
    run = jaxkd.Trainer(student) if teacher is None else jaxkd.Distiller(student=student, teacher=teacher)
    run.compile(optimizers.sgd(0.1), None if teacher is None else losses.KD(temperature=4.0), **options)
    run.fit(digits()[0].subset(72), batch_size=16, callbacks=[heard], verbose=0)
    return calls


def test_a_network_with_other_convolutions_takes_one_step_a_call():
    assert steps_of_calls(TinyNet()) == [4, 1]
    assert steps_of_calls(OwnNet()) == [1] * 5


def test_a_teachers_convolutions_do_not_matter():
    assert steps_of_calls(TinyNet(), teacher=OwnNet()) == [4, 1]
    assert steps_of_calls(OwnNet(), teacher=TinyNet()) == [1] * 5


@pytest.mark.thorough
def test_a_kept_teacher_takes_part():
    assert steps_of_calls(TinyNet(), teacher=OwnNet(), cache_teacher=True) == [4, 1]
    assert steps_of_calls(OwnNet(), teacher=TinyNet(), cache_teacher=True) == [1] * 5


def test_what_the_user_says_is_done():
    assert steps_of_calls(OwnNet(), steps_per_execution=2) == [2, 2, 1]


@pytest.mark.thorough
@pytest.mark.parametrize(("network", "together"), [(TinyNet, 2), (OwnNet, 1)])
@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)], ids=["shared batches", "own batches"])
def test_a_sweep_puts_only_runs_together_that_loop_well(network, together, seeds, capsys):
    def make(net_seed, seed):
        trainer = jaxkd.Trainer(network(seed=net_seed))
        trainer.compile(optimizers.sgd(0.1), seed=seed)
        return trainer

    cells = [{"net_seed": position, "seed": seed} for position, seed in enumerate(seeds)]
    swept = jaxkd.sweep(make, cells, digits()[0].subset(40), batch_size=16)
    assert f"{together} of 2 runs in one program" in capsys.readouterr().out
    alone = [make(**cell).fit(digits()[0].subset(40), batch_size=16, verbose=0).last("loss") for cell in cells]
    np.testing.assert_allclose(swept.last("loss"), alone, rtol=1e-5)


@pytest.mark.parametrize("runs", [1, 2])
def test_one_step_of_one_run_is_compiled_without_a_loop(runs):
    trainers = [jaxkd.Trainer(OwnNet(seed)) for seed in range(runs)]
    for trainer in trainers:
        trainer.compile(optimizers.sgd(0.1))
    images, labels, indices = np.ones((4, 8, 8, 3), np.float32), np.zeros(4, np.int32), np.arange(4, dtype=np.int32)
    program = trainers[0]._compiled_program()
    many = make_stacked_step(program, None, None, Placement())
    swept = make_resident_loop(many, None).trace(stack([t.state for t in trainers]), images, labels, indices[None])
    assert ("scan[" in str(swept.jaxpr)) == (runs > 1)

    resident = make_resident_loop(trainers[0].step, None).trace(trainers[0].state, images, labels, indices[None])
    streamed = make_stream_loop(trainers[0].step).trace(
        trainers[0].state, Batch(images[None], labels[None], indices[None])
    )
    assert "scan[" not in str(resident.jaxpr) + str(streamed.jaxpr)
