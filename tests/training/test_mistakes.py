"""Mistakes in data as kinds and not single inputs: over shapes, types and numbers of classes, in every form of data."""

import types
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxkd import Normalization, data
from jaxkd.training.expectations import Expectations
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
