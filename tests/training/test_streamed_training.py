"""Images read from files train, evaluate and resume as images in memory do."""

import jax
import numpy as np
import pytest
from sweeps import sweep
from tiny import TinyNet, assert_same_bits, digits, leaves, reproducible

import jaxkd
from jaxkd import callbacks, data, losses, optimizers, recipes
from jaxkd.data.sampling import Share, TrainingPlan, evaluation_plan
from jaxkd.data.transforms.resized_crop import RandomResizedCrop, ResizedCentreCrop
from jaxkd.training import checkpoint
from jaxkd.training.epochs import seed_of

EPOCHS, BATCH_SIZE = 3, 16
WHOLE = ResizedCentreCrop(8, 8)


def streamed(examples=71, augmentation=None, **options):
    """Digits as they are, but read one by one."""
    train = digits()[0].subset(examples)
    source = list(zip(train.images, train.labels, strict=True))
    return data.StreamedDataset(
        source, train.class_names, train.normalization, augmentation, WHOLE, workers=0, **options
    )


def compiled(**options):
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=TinyNet(seed=1))
    terms = {"ce": losses.CrossEntropy(), "kd": losses.KD(losses.CurriculumTemperature())}
    distiller.compile(optimizers.sgd(0.1, momentum=0.9), loss=terms, seed=3, **options)
    return distiller


def fit(distiller, train, test=None, *hooks, epochs=EPOCHS, **options):
    options |= {"epochs": epochs, "batch_size": BATCH_SIZE, "callbacks": hooks, "verbose": 0}
    return distiller.fit(train, validation_data=test, **options)


def test_it_trains_on_the_batches_of_its_plan():
    ours, theirs, dataset = compiled(), compiled(), digits()[0].subset(71)
    fit(ours, streamed())
    plan = TrainingPlan(71, BATCH_SIZE, seed_of(theirs.state), 0, EPOCHS, Share(1, 1, 0))
    batches = [(dataset.images[p.index], dataset.labels[p.index], p.index.astype(np.int32)) for p in plan]
    theirs.student.normalization = theirs.teacher.normalization = dataset.normalization
    for epoch in range(EPOCHS):
        theirs.fit(batches[epoch * 5 : epoch * 5 + 5], verbose=0)
    assert_same_bits(leaves(ours.state), leaves(theirs.state))


def test_every_epoch_has_each_example_once_in_an_order_of_its_own():
    plan = TrainingPlan(71, BATCH_SIZE, seed=5, first_epoch=2, epochs=2, share=Share(1, 1, 0))
    assert len(plan) == 10
    picks = [plan[step] for step in (7, 0, 1, 2, 3, 4, 5, 6, 8, 9)]  # in any order
    by_epoch = {epoch: np.concatenate([p.index for p in picks if p.epoch == epoch]) for epoch in (2, 3)}
    assert all(sorted(index) == list(range(71)) for index in by_epoch.values())
    assert (plan[0].index != plan[5].index).any()
    later = TrainingPlan(71, BATCH_SIZE, seed=5, first_epoch=3, epochs=1, share=Share(1, 1, 0))
    np.testing.assert_array_equal(later[0].index, plan[5].index)
    with pytest.raises(IndexError):
        plan[10]


@pytest.mark.parametrize("examples", [64, 71])
def test_the_shares_of_processes_are_the_batch(examples):
    whole = TrainingPlan(examples, BATCH_SIZE, 5, 0, 1, Share(4, 1, 0))
    parts = [TrainingPlan(examples, BATCH_SIZE, 5, 0, 1, Share(4, 2, position)) for position in range(2)]
    for step, picks in enumerate(whole):
        shares = [part[step].index for part in parts]
        np.testing.assert_array_equal(np.concatenate(shares), picks.index)  # the last batch, of 7, likewise


def test_evaluation_reads_each_example_once_and_fills_up_with_nothing():
    plan = evaluation_plan(10, 4, Share(2, 2, 1))
    assert [picks.index.tolist() for picks in plan] == [[2, 3], [6, 7], [-1, -1]]


def test_it_evaluates_as_images_in_memory_do():
    distiller = compiled()
    fit(distiller, streamed(), epochs=1)
    whole, read = (distiller.evaluate(source, batch_size=16) for source in (digits()[0].subset(71), streamed()))
    assert read == pytest.approx(whole, rel=1e-6)


@sweep("step", [2, 4, 5], core=[4])
def test_a_broken_off_run_goes_on_at_the_very_next_example(step, tmp_path):
    class BrokenError(Exception):
        pass

    def die(done, logs):
        if distiller.last_steps_start == 5 + step - 1:
            raise BrokenError

    train, test = streamed(augmentation=RandomResizedCrop(8)), streamed(20)
    straight, distiller = compiled(), compiled()
    expected = fit(straight, train, test)
    hooks = callbacks.Checkpoint(tmp_path, every_steps=1), callbacks.LambdaCallback(on_train_batch_end=die)
    with pytest.raises(BrokenError):
        fit(distiller, train, test, *hooks)
    assert checkpoint.latest(tmp_path).parent.name == "partial"
    resumed = compiled()
    history = fit(resumed, train, test, callbacks.Checkpoint(tmp_path), resume="auto")
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    assert reproducible(history) == reproducible(expected)


def test_the_strong_view_is_made_of_what_is_read():
    student, teacher = TinyNet(), TinyNet(seed=1)
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    terms = {"ce": losses.TwoViewCrossEntropy(), "mlkd": losses.MLKD()}
    distiller.compile(optimizers.sgd(0.01), loss=terms)
    history = fit(distiller, streamed(32), epochs=1)
    assert np.isfinite(history.history["mlkd"]).all()


def test_losses_that_remember_every_example_get_its_labels():
    train = streamed(32)
    np.testing.assert_array_equal(train.labels, digits()[0].labels[:32])
    assert train.labels.dtype == np.int32
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=TinyNet(seed=1))
    distiller.compile(optimizers.sgd(0.01), loss=recipes.get_method("crd", negatives=4).losses(train))
    assert np.isfinite(fit(distiller, train, epochs=1).history["crd"]).all()


def test_its_views_cannot_be_kept():
    distiller = compiled(cache_teacher=True)
    with pytest.raises(ValueError, match="cropped at random, in too many ways to keep"):
        fit(distiller, streamed())


class Counted(list):
    """Counts how often an example is asked for."""

    asked = 0

    def __getitem__(self, number):
        Counted.asked += 1
        return super().__getitem__(number)


def test_nothing_is_read_that_is_not_shown_to_a_network():
    train = streamed().replace(source=Counted(streamed().source))
    distiller, Counted.asked = compiled(), 0
    fit(distiller, train, epochs=1)
    assert Counted.asked == len(train)
    distiller.evaluate(train)
    assert Counted.asked == 2 * len(train)


def test_networks_for_other_images_or_fewer_classes_are_refused():
    narrow = jaxkd.Trainer(TinyNet(num_classes=9))
    narrow.compile(optimizers.sgd(0.1))
    with pytest.raises(ValueError, match="the labels need 10 classes, but the network has 9"):
        fit(narrow, streamed())


def test_a_sweep_needs_data_in_memory():
    with pytest.raises(ValueError, match="a sweep needs data that can be on the device"):
        jaxkd.sweep(lambda: compiled(), [{}], streamed(), epochs=1, batch_size=16)


def test_the_random_key_gives_the_seed():
    first, second = compiled(), compiled()
    assert seed_of(first.state) == seed_of(second.state)
    assert seed_of(first.state) != int.from_bytes(
        np.asarray(jax.random.key_data(jax.random.key(4))).tobytes(), "little"
    )
