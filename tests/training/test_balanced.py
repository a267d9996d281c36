"""Balanced training: in memory, streamed, resumed and in a sweep, it is the same epochs."""

import jax
import numpy as np
import pytest
from tiny import TinyNet, assert_same_bits, digits, leaves

import jaxkd
from jaxkd import data, losses, optimizers
from jaxkd.data.sampling import Share, TrainingPlan, balanced_order
from jaxkd.training.epochs import order_of
from jaxkd.training.inputs import as_source

SGD = optimizers.sgd(0.1, momentum=0.9)
B, EPOCHS = 16, 3


@pytest.fixture(scope="module")
def uneven():
    """Digits, of which most are zeros."""
    train, _ = digits()
    chosen = [np.flatnonzero(train.labels == label)[: 50 if label == 0 else 3] for label in range(10)]
    return train.take(np.concatenate(chosen)).replace(balanced=True)


def compiled(seed=3):
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD, seed=seed)
    return trainer


def fit(run, train, epochs=EPOCHS):
    run.fit(train, epochs=epochs, batch_size=B, verbose=0)
    return run


@pytest.fixture(scope="module")
def straight(uneven):
    return fit(compiled(), uneven)


def orders(state, train):
    source = as_source(train)
    return [order_of(state.key, np.int32(epoch), source) for epoch in range(EPOCHS)]


def test_it_trains_on_a_balanced_order_of_each_epoch_and_run(uneven, straight):
    drawn = orders(straight.state, uneven)
    for order in drawn:
        assert np.ptp(np.bincount(uneven.labels[order])) <= 1
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], orders(compiled(seed=4).state, uneven)[0])
    # Without augmentation, its batches in that order train to the same network.
    plain = uneven.replace(augmentation=None)
    ours, theirs = fit(compiled(), plain), compiled()
    theirs.model.normalization = plain.normalization
    for order in drawn:
        parts = [order[start : start + B] for start in range(0, len(order), B)]
        batches = [(plain.images[part], plain.labels[part], part) for part in parts]
        theirs.fit(batches, verbose=0)
    for one, other in zip(leaves(ours.state.params), leaves(theirs.state.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)


def test_arrays_and_other_data_sets_are_not_balanced(uneven, straight):
    for given in ((uneven.images, uneven.labels), uneven.replace(balanced=False)):
        for order in orders(straight.state, given):
            assert sorted(order) == list(range(len(uneven)))


def test_a_run_that_is_taken_up_again_ends_the_same(uneven, straight, tmp_path):
    fit(compiled(), uneven, epochs=2).save(tmp_path)
    resumed = compiled()
    resumed.restore(tmp_path)
    assert_same_bits(leaves(fit(resumed, uneven).state), leaves(straight.state))


def test_a_run_of_a_sweep_ends_as_alone(uneven, straight):
    found = jaxkd.sweep(compiled, [{"seed": 3}, {"seed": 4}], uneven, epochs=EPOCHS, batch_size=B, verbose=0)
    for one, other in zip(leaves(found.runs[0].state.params), leaves(straight.state.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_streamed_images_are_balanced_by_their_plan(uneven):
    plan = TrainingPlan(len(uneven), B, 5, 1, 2, Share(1, 1, 0), uneven.labels)
    for epoch in (1, 2):
        index = np.concatenate([one.index for one in plan if one.epoch == epoch])
        np.testing.assert_array_equal(index, balanced_order(uneven.labels, np.random.default_rng((5, epoch))))
    source = list(zip(uneven.images, uneven.labels, strict=True))
    views = {"augmentation": None, "view": data.ResizedCentreCrop(8, 8)}
    streamed = data.StreamedDataset(source, uneven.class_names, uneven.normalization, workers=0, balanced=True, **views)
    seen = []

    class Spy(losses.Loss):
        def __call__(self, student, teacher, batch, progress, key):
            jax.debug.callback(lambda labels: seen.extend(labels.tolist()), batch.labels)
            return losses.CrossEntropy()(student, teacher, batch, progress, key)

    run = jaxkd.Trainer(TinyNet())
    run.compile(SGD, loss={"ce": Spy()})
    run.fit(streamed, batch_size=B, verbose=0)
    assert len(seen) == len(uneven)
    assert np.ptp(np.bincount(seen)) <= 1
