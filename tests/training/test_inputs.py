"""What fit, evaluate and predict accept, and what they refuse."""

import numpy as np
import pytest
from flax import nnx
from tiny import TinyNet, digits

import jaxkd
from jaxkd import Batch, Normalization, optimizers
from jaxkd.training.expectations import Expectations
from jaxkd.training.inputs import InMemory, Stream, as_source
from jaxkd.types import MixedLabels

SGD = optimizers.sgd(0.1)


def pixels(count=6):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)


def compiled(**options):
    trainer = jaxkd.Trainer(TinyNet(**options))
    trainer.compile(SGD)
    return trainer


def test_a_dataset_brings_its_statistics_and_its_augmentation():
    train, _ = digits()
    source = as_source(train)
    assert isinstance(source, InMemory)
    assert source.images is train.images
    assert (source.normalization, source.augmentation) == (train.normalization, train.augmentation)
    assert source.num_classes == 10


def test_uint8_arrays_are_normalised_with_their_own_statistics():
    source = as_source((pixels(), np.array([0, 1, 2, 0, 1, 2])), training=True)
    assert source.num_classes == 3
    normal = source.normalization(source.images)
    assert abs(float(normal.mean())) < 1e-2
    assert float(normal.std()) == pytest.approx(1, abs=1e-2)


def test_float_arrays_are_taken_as_they_are():
    images = np.linspace(-3, 3, 2 * 4 * 4 * 1).reshape(2, 4, 4, 1)
    source = as_source((images, np.array([0, 4])))
    assert source.normalization is None
    assert source.num_classes == 5
    assert source.images.dtype == np.float32
    np.testing.assert_allclose(source.images, images, rtol=1e-6)


def test_a_stream_counts_its_examples_unless_it_is_told_their_numbers():
    images, labels = pixels(), np.arange(6) % 3
    halves = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    source = as_source(halves)
    assert isinstance(source, Stream)
    for _ in range(2):
        batches = list(source)
        assert [batch.index.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
        assert batches[1].labels.tolist() == [1, 2]
        assert {array.dtype for batch in batches for array in (batch.labels, batch.index)} == {np.dtype(np.int32)}
    [told] = as_source([(images[:2], labels[:2], np.array([7, 5]))])
    [whole] = as_source([Batch(images[:2], labels[:2], np.array([7, 5]))])
    assert told.index.tolist() == whole.index.tolist() == [7, 5]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pixels().astype(np.float32), "reach 25.*uint8"),
        (-pixels().astype(np.float64), "uint8"),
        (np.full((2, 4, 4, 3), np.nan, np.float32), "nan"),
        (pixels()[0], r"\(8, 8, 3\).*N, H, W, C"),
        (pixels().astype(np.int64), "int64.*uint8"),
    ],
)
def test_images_that_cannot_be_network_inputs_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        Expectations().checked_images(images)


@pytest.mark.parametrize("data", [None, 3, "cifar100", b"cifar100", {"images": pixels()}, pixels()])
def test_what_is_no_data_is_refused(data):
    with pytest.raises(TypeError, match=r"data\.Dataset"):
        as_source(data)


def test_labels_beyond_the_networks_classes_are_refused():
    trainer, (train, _) = compiled(num_classes=5), digits()
    for use in (trainer.fit, trainer.evaluate):
        with pytest.raises(ValueError, match=r"10 classes.*has 5.*num_classes=10"):
            use(train)
    with pytest.raises(ValueError, match=r"7 classes.*has 5"):
        trainer.fit((pixels(), np.array([0, 1, 2, 3, 4, 6])))
    with pytest.raises(ValueError, match="label 6"):
        trainer.fit([(pixels(), np.array([0, 1, 2, 3, 4, 6]))], verbose=0)
    with pytest.raises(ValueError, match="label -1"):
        trainer.evaluate([(pixels(), np.array([0, 1, 2, 3, 4, -1]))])


def test_labels_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match="integers"):
        as_source((np.zeros((2, 4, 4, 1), np.float32), np.array([0.0, 1.5])))
    with pytest.raises(TypeError, match="integers"):
        list(as_source([(pixels(2), np.array([0.0, 1.5]))]))


def test_a_batch_without_a_label_for_each_image_is_refused():
    with pytest.raises(ValueError, match=r"4 images.*3 labels"):
        list(as_source([(pixels(4), np.zeros(3, np.int32))]))


def test_pixels_that_cannot_be_normalised_are_refused():
    trainer = compiled()
    with pytest.raises(ValueError, match=r"model.normalization = jaxkd.Normalization"):
        trainer.fit([(pixels(), np.zeros(6, np.int32))], verbose=0)
    with pytest.raises(ValueError, match=r"model.normalization"):
        trainer.predict(pixels())


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"strong": np.zeros((4, 8, 8, 3), np.uint8)}, "has a strong view.*strong_view, a function"),
        ({"mixed": MixedLabels(np.zeros(4, np.int32), np.ones(4, np.float32))}, r"mixed labels.*compile\(mixing="),
    ],
)
def test_what_a_batch_brings_besides_is_refused_and_not_left_aside(extra, message):
    batch = Batch(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int32), np.arange(4), **extra)
    with pytest.raises(TypeError, match=message):
        list(as_source([batch]))


def test_a_generator_lasts_for_one_epoch_only():
    def batches():
        yield np.zeros((2, 8, 8, 3), np.float32), np.array([0, 1])

    trainer = compiled()
    assert len(trainer.fit(batches(), epochs=1, verbose=0).epoch) == 1
    with pytest.raises(ValueError, match="generator"):
        trainer.fit(batches(), epochs=2, verbose=0)
    with pytest.raises(ValueError, match="gave none"):
        trainer.evaluate([])


def test_a_constant_channel_matters_only_where_its_statistics_are_needed():
    images, labels = pixels(), np.arange(6)
    images[..., 2] = 0
    known = compiled(normalization=Normalization((0.5,) * 3, (0.25,) * 3))
    known.evaluate(images, labels)
    known.fit(images, labels, verbose=0)
    with pytest.raises(ValueError, match=r"channel 2 of the images is the same everywhere.*data.from_arrays\("):
        compiled().fit(images, labels, verbose=0)


def test_statistics_of_ones_own_are_plain_numbers_wherever_they_come_from(tmp_path):
    images, labels = pixels(), np.arange(6)
    unit = images.astype(np.float32) / 255
    trainer = compiled(normalization=Normalization(list(unit.mean((0, 1, 2))), tuple(unit.std((0, 1, 2)))))
    trainer.fit(images, labels, verbose=0)
    trainer.save(tmp_path)
    assert all(type(value) is float for values in trainer.model.normalization for value in values)
    trainer.restore(tmp_path)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (Normalization((123.7,) * 3, (58.4,) * 3), ValueError, r"TinyNet.normalization: .*divide mean and std by 255"),
        (Normalization((0.5,) * 3, (0.0,) * 3), ValueError, "TinyNet.normalization: .*must be positive"),
        (nnx.Linear(2, 2, rngs=nnx.Rngs(0)), TypeError, "TinyNet.normalization is a Linear.*give a layer another name"),
    ],
)
def test_statistics_that_cannot_be_right_are_refused(given, error, said):
    trainer = jaxkd.Trainer(TinyNet(normalization=given))
    for use in (
        lambda: trainer.compile(SGD),
        lambda: trainer.evaluate(pixels(), np.arange(6)),
        lambda: trainer.predict(pixels()),
    ):
        with pytest.raises(error, match=said):
            use()
