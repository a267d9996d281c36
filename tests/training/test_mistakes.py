"""Mistakes in data as kinds and not single inputs: over shapes, types and numbers of classes, in every form of data."""

import types
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyNet

import jaxkd
from jaxkd import Normalization, data, optimizers
from jaxkd.training import inputs
from jaxkd.training.expectations import Expectations, _normalised_twice
from jaxkd.training.inputs import as_source, images_of

SIDES = st.integers(5, 40)
CHANNELS = st.sampled_from([1, 3, 4])
FLOATS = st.sampled_from([np.float16, np.float32, np.float64])
few = settings(max_examples=40, deadline=None)


def pixels(shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def read(images, labels):
    """Every way in which images reach a network."""
    nothing = Expectations()
    yield lambda: as_source((images, labels))
    yield lambda: list(as_source([(images, labels)]))
    yield lambda: list(as_source([{"image": images, "label": labels}]))
    yield lambda: nothing.checked_images(images)
    yield lambda: list(images_of(images, nothing, 4))
    yield lambda: list(images_of([(images, labels)], nothing, 4))
    if images.dtype == np.uint8:
        yield lambda: data.from_arrays(images, labels, num_classes=max(labels) + 1, mean=(0.5,), std=(0.5,))


@few
@given(st.integers(1, 4), CHANNELS, SIDES, SIDES, st.just(np.uint8) | FLOATS)
def test_channels_first_are_told_whatever_their_size_and_type(count, channels, height, width, dtype):
    images, labels = pixels((count, channels, height, width)).astype(dtype), np.zeros(count, int)
    images = images if dtype is np.uint8 else images / dtype(255)
    for use in read(images, labels):
        with pytest.raises(ValueError, match=r"look like channels first \(NCHW\).*data.channels_last"):
            use()
    for use in read(data.channels_last(images), labels):
        use()


@few
@given(st.integers(3, 12), st.integers(1, 30), st.sampled_from([np.uint8, np.int16, np.int32, np.int64]))
def test_labels_that_count_from_one_are_told_by_data_and_network(classes, each, dtype):
    labels = np.repeat(np.arange(1, classes + 1), each).astype(dtype)
    images = pixels((len(labels), 5, 5, 3))
    with pytest.warns(UserWarning, match=f"class 0 has no images, and the labels run from 1 to {classes}"):
        data.from_arrays(images, labels)
    network = types.SimpleNamespace(name="net", num_classes=classes)
    for given_data in ((images, labels), (images / np.float32(255), labels)):
        with pytest.raises(ValueError, match=rf"need {classes + 1} classes, .* has {classes}: pass labels - 1"):
            as_source(given_data, network)
    with pytest.raises(ValueError, match=f"label {classes} at position .*count from 1"):
        list(as_source([(images, labels)], network))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.from_arrays(images, labels - 1)
        as_source((images, labels - 1), network, training=True)


@few
@given(
    st.floats(0.1, 0.9),
    st.floats(-29, 29),
    st.floats(-29, 29),
    FLOATS,
)
def test_the_range_of_images_says_whether_they_are_normalised(mean, one, other, dtype):
    known = Expectations(normalization=Normalization((mean,), (0.25,)))
    images = np.zeros((1, 5, 5, 3), dtype)
    images[0, 0, 0, :2] = one, other
    low, high = np.float32(images.min()), np.float32(images.max())  # what networks compute in
    if low <= (bound := _normalised_twice(known.normalization)) < -6:
        assert bound == pytest.approx(-16 * mean)  # a fifth above what black becomes
        with pytest.raises(ValueError, match="as images do that are normalised twice"):
            known.checked_images(images)
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        known.checked_images(images)
    assert len(seen) == (0 <= low < high <= 1)
    with pytest.raises(ValueError, match="which no normalised image does: give the pixels as uint8"):
        known.checked_images(images + dtype(np.sign(one) or 1) * dtype(60))


@few
@given(
    st.integers(2, 6),
    st.sampled_from([np.float16, np.float32, np.float64, np.bool_, np.complex64, np.uint8, np.int32, np.int64]),
    st.sampled_from(["one each", "too many", "a column", "one for all"]),
)
def test_a_third_entry_is_an_index_or_refused(count, dtype, shape):
    entry = np.ones({"one each": count, "too many": count + 1, "a column": (count, 1), "one for all": ()}[shape], dtype)
    batch = (np.zeros((count, 5, 5, 3), np.float32), np.zeros(count, int), entry)
    if np.issubdtype(dtype, np.integer) and shape == "one each":
        [found] = as_source([batch])
        assert found.index.tolist() == [1] * count
    else:
        with pytest.raises(TypeError, match=rf"{count} integers; this one is .*: leave it out; sample weights"):
            list(as_source([batch]))


@few
@given(st.integers(2, 5), st.integers(1, 9), st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.bool_]))
def test_labels_in_columns_are_told_what_they_are(count, columns, dtype):
    labels = np.zeros((count, columns), dtype)
    labels[:, 0] = 1
    images = np.ones((count, 5, 5, 3), np.uint8)
    cure = r"pass labels\[:, 0\]" if columns == 1 else rf"argmax\(axis=1\), {columns} columns being one-hot"
    for use in (
        lambda: as_source((images, labels)),
        lambda: list(as_source([(images, labels)])),
        lambda: data.from_arrays(images, labels, mean=(0.5,), std=(0.5,)),
        lambda: data.Dataset(images, labels, ("a", "b"), Normalization((0.5,), (0.5,))),
    ):
        with pytest.raises(ValueError, match=cure):
            use()


def of_labels(labels):
    """Every way in which labels reach a network."""
    images = np.ones((len(labels), 5, 5, 3), np.uint8) * np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    network = types.SimpleNamespace(name="net", num_classes=9)
    yield lambda: as_source((images, labels))
    yield lambda: as_source((images, labels), network)
    yield lambda: as_source((images.astype(np.float32) / 9, labels), network)
    yield lambda: list(as_source([(images, labels)], network))
    yield lambda: list(as_source([(images, labels)]))
    yield lambda: data.from_arrays(images, labels)


@few
@given(
    st.lists(st.integers(0, 8), min_size=2, max_size=6), st.integers(0, 9), st.sampled_from(["NaN", "str", "object"])
)
def test_labels_that_are_no_numbers_are_told_what_they_are(labels, position, kind):
    labels = np.array([0, 1, *labels])
    position %= len(labels)
    if kind == "NaN":
        labels, said = labels.astype(np.float32), "float32, such as .*: they are no class indices"
        labels[position] = np.nan
    elif kind == "str":
        labels, said = labels.astype(str), r"such as '0': number them by names, labels = np.unique"
    else:
        labels, said = labels.astype(object), r"object, such as 0: pass labels.astype\(np.int32\)"
    for use in of_labels(labels):
        with pytest.raises(TypeError, match=said):
            use()


@few
@given(st.integers(24, 62), st.sampled_from([np.int32, np.uint32, np.int64, np.uint64]))
def test_identifiers_are_no_labels(bits, dtype):
    largest = min(2**bits, np.iinfo(dtype).max)
    for use in of_labels(np.array([0, 1, largest], dtype)):
        with pytest.raises(
            ValueError, match=f"the labels reach {largest}, and are identifiers|label {largest} at posi"
        ):
            use()


@few
@given(st.integers(-(2**31), -1), st.integers(0, 3), st.sampled_from([np.int32, np.int64]))
def test_a_negative_label_or_index_is_named(number, position, dtype):
    labels = np.arange(4).astype(dtype)
    labels[position] = number
    for use in of_labels(labels):
        with pytest.raises(ValueError, match=f"label {number} at position {position} .*leave such images out"):
            use()
    with pytest.raises(
        ValueError, match=f"the index of its examples in the training set, from 0; this one has {number}"
    ):
        list(as_source([(np.zeros((4, 5, 5, 3), np.float32), np.zeros(4, int), labels)]))


@few
@given(st.sampled_from([1, 3, 4]), st.sampled_from([1, 2, 3, 4, 6]), st.just(np.uint8) | FLOATS)
def test_a_normalisation_of_other_channels_is_told_where_the_network_says_nothing_else(wanted, channels, dtype):
    known = Expectations(normalization=Normalization((0.5,) * wanted, (0.25,) * wanted))
    images = np.zeros((2, 7, 9, channels), dtype)
    if wanted in (1, channels):  # one for all
        known.checked_images(images)
    else:
        with pytest.raises(ValueError, match=rf"have {channels} channels, but .* normalised with {wanted}, mean=\(0.5"):
            known.checked_images(images)


@few
@given(FLOATS, st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 74))
def test_images_that_are_not_finite_are_told_as_such(dtype, value, position):
    images = np.zeros((1, 5, 5, 3), dtype)
    images.reshape(-1)[position] = value
    for use in read(images, [0]):
        with pytest.raises(
            ValueError, match=r"float images run from .*: leave out, or mend, those that are not finite"
        ):
            use()


@pytest.mark.parametrize(
    ("dtype", "factor", "cure"),
    [
        (np.int64, 1, r"pass images.astype\(np.uint8\)"),
        (np.uint16, 257, r"16 bits, so pass the upper 8, \(images >> 8\)"),
        (np.bool_, 1, r"pass np.rint\(images \* 255.0\)"),
    ],
)
def test_pixels_of_other_types_are_told_how_they_become_uint8(dtype, factor, cure):
    images = (pixels((2, 5, 5, 3)).astype(np.int64) * factor).astype(dtype)
    for use in read(images, [0, 0]):
        with pytest.raises(ValueError, match=f"images are {np.dtype(dtype)}: .*{cure}"):
            use()


def test_classes_that_are_numbered_otherwise_than_in_training_are_told():
    """As of a second folder that lacks a class: every image of the others would count as wrong."""
    images, labels = pixels((6, 8, 8, 3)), np.arange(6) % 3
    trained = data.from_arrays(images, labels, ["ash", "elm", "oak"])
    fewer = data.from_arrays(images[:4], labels[:4] % 2, ["elm", "oak"], trained.mean, trained.std)
    trainer = jaxkd.Trainer(TinyNet(3))
    trainer.compile(optimizers.sgd(0.05))
    for held_out in (fewer, fewer.replace(class_names=("elm", "pine"))):
        with pytest.raises(ValueError, match="class 'elm' is number 1 of the training images and number 0 of the held"):
            trainer.fit(trained, held_out, epochs=1, verbose=0)
    for held_out in (fewer.replace(class_names=names) for names in (("ash", "elm"), ("Esche", "Ulme"), ("0", "1"))):
        inputs.check_names(trained, held_out)
    twice = trained.replace(class_names=("crane", "dog", "crane"))  # as lists of ImageNet's classes have it
    inputs.check_names(twice, twice)
    inputs.check_names(trained.replace(class_names=("1", "2", "3")), data.from_arrays(images, labels))
