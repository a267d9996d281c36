"""Averaged weights: PyTorch's numbers, evaluated and saved beside the network's own, resumed, stacked, in parts."""

import jax
import numpy as np
import pytest
from conformance_cases import QUICK
from tiny import DroppingNet, TinyNet, assert_same_bits, digits, leaves, weights

import jaxkd
from jaxkd import EMA, Batch, optimizers

SGD = optimizers.sgd(0.05, momentum=0.9)
EXAMPLES, BATCH = 64, 32
DECAY = 0.9


def compiled(seed=0, ema=EMA(DECAY, warmup=True), **options):  # noqa: B008 - it is frozen
    trainer = jaxkd.Trainer(TinyNet(seed=seed, normalization=digits()[0].normalization))
    trainer.compile(SGD, seed=seed, ema=ema, **options)
    return trainer


def fit(trainer, epochs=2, **options):
    train, test = digits()
    trainer.fit(train.subset(EXAMPLES), test.subset(BATCH), epochs=epochs, batch_size=BATCH, verbose=0, **options)
    return trainer


@pytest.fixture(scope="module")
def straight():
    return fit(compiled())


def stepped(ema, parts, steps=4):
    """The network after each step, and the averaged one after the last, as dictionaries of arrays."""
    train, trainer = digits()[0].subset(BATCH), compiled(ema=ema, gradient_accumulation_steps=parts)
    step, seen = jax.jit(trainer.step, compiler_options=QUICK), []
    for _ in range(steps):
        trainer.state, _ = step(trainer.state, Batch(train.images, train.labels, np.arange(BATCH, dtype=np.int32)))
        seen.append(weights(trainer.model))
    return seen, weights(trainer.ema_model)


@pytest.mark.parametrize(("warmup", "parts"), [(False, 1), (True, 1), (True, 2)])
def test_it_is_the_average_of_pytorch_running_statistics_included(warmup, parts):
    torch, swa_utils = pytest.importorskip("torch"), pytest.importorskip("torch.optim.swa_utils")
    seen, found = stepped(EMA(DECAY, warmup), parts)

    def rate(averaged):  # timm's, for as many averages as were taken
        return min(DECAY, 1 - (1 + int(averaged)) ** (-2 / 3)) if warmup else DECAY

    network = torch.nn.ParameterList([torch.zeros(value.shape) for value in found.values()])
    average = swa_utils.AveragedModel(network, avg_fn=lambda old, new, count: old + (1 - rate(count)) * (new - old))
    for step in seen:
        for parameter, value in zip(network, step.values(), strict=True):
            parameter.data = torch.from_numpy(value)
        average.update_parameters(network)
    for (name, value), theirs in zip(found.items(), average.module, strict=True):
        np.testing.assert_allclose(value, theirs.detach().numpy(), rtol=1e-5, atol=1e-7, err_msg=name)
        assert (value != seen[-1][name]).any()


def test_it_is_evaluated_beside_the_weights(straight):
    test = digits()[1].subset(BATCH)
    own, averaged = straight.evaluate(test), jaxkd.Trainer(straight.ema_model).evaluate(test)
    history = straight.history
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(history.last(f"val_{name}"), own[name], rtol=1e-5)
        np.testing.assert_allclose(history.last(f"val_ema_{name}"), averaged[name], rtol=1e-5)
    assert own["loss"] != averaged["loss"]


def test_averaging_changes_nothing_else(straight):
    plain = fit(compiled(ema=None))
    assert_same_bits(leaves(plain.state.params), leaves(straight.state.params))
    assert_same_bits(leaves(plain.state.variables["model"]), leaves(straight.state.variables["model"]))


def test_resumed_bit_for_bit(straight, tmp_path):
    fit(compiled(), epochs=1).save(tmp_path)
    resumed = compiled()
    resumed.restore(tmp_path)
    fit(resumed)
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    with pytest.raises(ValueError, match=r"does not fit: .*variables\.average"):
        compiled(ema=None).restore(tmp_path)


@pytest.mark.thorough
def test_stacked_runs_average_as_a_run_alone(straight):
    train, test = digits()
    cells = [{"seed": 0}, {"seed": 0}, {"seed": 1}]
    data = train.subset(EXAMPLES), test.subset(BATCH)
    found = jaxkd.sweep(compiled, cells, *data, epochs=2, batch_size=BATCH, verbose=0)
    for run in found.runs[:2]:
        for one, other in zip(leaves(run.state), leaves(straight.state), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(run.history.last("val_ema_loss"), straight.history.last("val_ema_loss"), rtol=1e-4)


def test_random_keys_are_taken_as_they_are():
    trainer = jaxkd.Trainer(DroppingNet())
    trainer.compile(SGD, ema=EMA(DECAY))
    fit(trainer, 1)
    now, averaged = trainer.state.variables["model"]["drop"], trainer.state.variables["average"]["variables"]["drop"]
    assert_same_bits(leaves(averaged), leaves(now))
    assert int(averaged["rngs"]["count"]) == 2


def test_what_cannot_be_is_refused(straight):
    with pytest.raises(TypeError, match=r"ema=0\.99: give jaxkd\.EMA"):
        compiled(ema=0.99)
    with pytest.raises(ValueError, match=r"decay is 1\.0; it must be in \[0, 1\)"):
        EMA(1.0)
    with pytest.raises(RuntimeError, match="there are no averaged weights"):
        _ = compiled(ema=None).ema_model
