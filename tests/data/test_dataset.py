"""Dataset and from_arrays: what they accept, what they make of it, and what they refuse."""

import dataclasses
import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jaxkd import Normalization
from jaxkd.data import Augmentation, Dataset, from_arrays

HALF = Normalization((0.5,), (0.25,))


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@st.composite
def labelled(draw):
    """Valid images, labels of any integer type, and the number of classes."""
    count, classes = draw(st.integers(1, 12)), draw(st.integers(1, 100))
    height, width, channels = draw(st.integers(5, 9)), draw(st.integers(5, 9)), draw(st.sampled_from([1, 3, 4]))
    images = draw(npst.arrays(np.uint8, (count, height, width, channels)))
    dtype = draw(st.sampled_from([np.uint8, np.int8, np.int16, np.uint32, np.int64, np.uint64]))
    labels = draw(npst.arrays(dtype, count, elements=st.integers(0, classes - 1)))
    return images, labels, classes


@given(labelled())
def test_valid_arrays_are_kept_as_they_are(example):
    images, labels, classes = example
    dataset = Dataset(images, labels, tuple(map(str, range(classes))), HALF)
    assert dataset.images is images
    assert dataset.labels.dtype == np.int32
    np.testing.assert_array_equal(dataset.labels, labels)
    assert (len(dataset), dataset.num_classes) == (len(images), classes)
    assert (dataset.mean, dataset.std) == ((0.5,), (0.25,))


@given(labelled(), st.data())
def test_a_label_out_of_range_is_named_with_its_position(example, data):
    images, labels, classes = example
    position = data.draw(st.integers(0, len(labels) - 1))
    labels = labels.astype(np.int64)
    labels[position] = data.draw(st.integers(-(2**40), -1) | st.integers(classes, 2**40))
    with pytest.raises(ValueError, match=f"label {labels[position]} at position {position} is out of range"):
        from_arrays(images, labels, num_classes=classes)


@given(labelled(), st.data())
def test_take_and_subset_select_the_same_examples_as_numpy(example, data):
    images, labels, classes = example
    dataset = Dataset(images, labels, tuple(map(str, range(classes))), HALF)  # from_arrays warns of a class 0 left out
    indices = data.draw(st.lists(st.integers(0, len(labels) - 1), min_size=1))
    taken = dataset.take(indices)
    np.testing.assert_array_equal(taken.images, images[indices])
    np.testing.assert_array_equal(taken.labels, labels[indices])
    assert taken.class_names == dataset.class_names
    count = data.draw(st.integers(1, len(labels)))
    first = dataset.subset(count)
    assert len(first) == count
    assert np.shares_memory(first.images, images) or images.size == 0


@given(npst.arrays(np.uint8, st.tuples(*[st.integers(4, 8)] * 3, st.just(3))))
def test_statistics_default_to_those_of_the_pixels(images):
    if (images.astype(float).std(axis=(0, 1, 2)) / 255 < 1e-4).any():
        with pytest.raises(ValueError, match=r"std=.*must be positive"):
            from_arrays(images, np.zeros(len(images), int))
        return
    dataset = from_arrays(images, np.zeros(len(images), int))
    grey = images.astype(np.float64) / 255
    np.testing.assert_allclose(dataset.mean, grey.mean(axis=(0, 1, 2)), atol=0.51e-4)
    np.testing.assert_allclose(dataset.std, grey.std(axis=(0, 1, 2)), atol=0.51e-4)


def test_from_arrays_counts_classes_by_names_then_number_then_labels():
    images = pixels(3, 8, 8, 3)
    assert from_arrays(images, [0, 2, 1]).class_names == ("0", "1", "2")
    assert from_arrays(images, [0, 2, 1], num_classes=5).num_classes == 5
    assert from_arrays(images, [0, 2, 1], ["a", "b", "c"]).class_names == ("a", "b", "c")
    with pytest.raises(ValueError, match="num_classes=5, but there are 3 class_names"):
        from_arrays(images, [0, 2, 1], ["a", "b", "c"], num_classes=5)


def test_from_arrays_passes_on_statistics_and_augmentation():
    augmentation = Augmentation(pad=2)
    dataset = from_arrays(pixels(3, 8, 8, 3), [0, 2, 1], mean=[0.1, 0.2, 0.3], augmentation=augmentation)
    assert dataset.mean == (0.1, 0.2, 0.3)
    assert len(dataset.std) == 3
    assert dataset.augmentation is augmentation


def test_labels_that_use_few_of_the_classes_are_warned_about():
    images = pixels(1000, 5, 5, 1)
    with pytest.warns(UserWarning, match="use only 20 of 100 classes"):
        from_arrays(images, np.arange(1000) % 20, num_classes=100)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint16])
@pytest.mark.parametrize("classes", [2, 10, 102])
@pytest.mark.parametrize("per_class", [1, 20])
def test_labels_from_one_are_warned_about_and_labels_from_zero_are_not(dtype, classes, per_class):
    labels = np.tile(np.arange(classes), per_class).astype(dtype)
    images = pixels(len(labels), 2, 2, 1)
    with pytest.warns(UserWarning, match=f"class 0 has no images.* from 1 to {classes}.*labels - 1") as seen:
        assert from_arrays(images, labels + 1).num_classes == classes + 1
    assert len(seen) == 1
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_arrays(images, labels).num_classes == classes


def test_a_gap_between_the_labels_is_warned_about_unless_the_classes_are_declared():
    images, labels = pixels(90, 2, 2, 1), np.repeat([0, 2, 3], 30)
    with pytest.warns(UserWarning, match="no images in class 1, of 4.*num_classes=4"):
        from_arrays(images, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held_out = from_arrays(images, labels, num_classes=4)  # a test set may lack a class
        from_arrays(images[:6], [0, 3, 2, 0, 0, 0])  # few images leave gaps by chance
        held_out.take(held_out.labels != 0)  # leaving one out is an experiment


def test_one_hot_labels_are_told_by_their_own_width():
    for labels in (np.eye(5)[[0, 1, 2]], np.eye(5, dtype=bool)[[0, 1, 2]], np.eye(5, dtype=int)[[4, 1, 2]]):
        with pytest.raises(ValueError, match=r"\(3, 5\): take labels.argmax\(axis=1\), 5 columns being one-hot"):
            from_arrays(pixels(3, 8, 8, 3), labels)
    with pytest.raises(ValueError, match="5 columns being scores or probabilities"):
        from_arrays(pixels(3, 8, 8, 3), np.full((3, 5), 0.2))


def test_replace_checks_anew():
    dataset = from_arrays(pixels(3, 8, 8, 3), [0, 1, 2])
    assert dataset.replace(augmentation=Augmentation()).augmentation == Augmentation()
    with pytest.raises(ValueError, match="3 images, but 2 labels"):
        dataset.replace(labels=np.array([0, 1]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"


def test_repr_tells_the_size_and_not_the_pixels():
    dataset = from_arrays(pixels(3, 8, 9, 3), [0, 1, 2]).replace(name="toys")
    assert repr(dataset) == "<Dataset 'toys': 3 images of 8×9×3, 3 classes>"


GOOD = pixels(4, 8, 8, 3)
LABELS = np.arange(4)


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (
            GOOD / 255,
            LABELS,
            TypeError,
            "uint8 pixels 0…255 and normalises them itself; these are float64: .*images * 255",
        ),
        (GOOD.astype(np.float32), LABELS, TypeError, "float32: pass np.rint(images).astype(np.uint8)"),
        ((GOOD / 255 - 0.5) / 0.25, LABELS, TypeError, "undo their normalisation"),
        (np.full((4, 8, 8, 3), np.nan), LABELS, TypeError, "undo their normalisation"),
        (GOOD.astype(np.int64), LABELS, TypeError, "int64: pass images.astype(np.uint8)"),
        (GOOD.astype(str), LABELS, TypeError, "pass an array of pixels"),
        (
            GOOD.transpose(0, 3, 1, 2),
            LABELS,
            ValueError,
            "(4, 3, 8, 8) look like channels first .*transpose(0, 2, 3, 1)",
        ),
        (GOOD[..., 0], LABELS, ValueError, "their shape is (4, 8, 8): .*images[..., None]"),
        (GOOD.reshape(4, -1), LABELS, ValueError, "their shape is (4, 192): .*reshape"),
        (GOOD[..., None], LABELS, ValueError, "their shape is (4, 8, 8, 3, 1)"),
        (GOOD[:0], LABELS[:0], ValueError, "there are no images"),
        (GOOD[:, :0], LABELS, ValueError, "there are no images, or no pixels"),
        (GOOD, LABELS[:3], ValueError, "4 images, but 3 labels"),
        (GOOD, LABELS.astype(np.float32), TypeError, "labels must be integers; these are float32, .*astype(np.int32)"),
        (GOOD, LABELS + 0.5, TypeError, "labels must be integers; these are float64, such as .*no class indices"),
        (GOOD, LABELS.astype(str), TypeError, "labels must be integers"),
        (GOOD, np.eye(4, dtype=int), ValueError, "(4, 4): take labels.argmax(axis=1)"),
        (GOOD, LABELS[:, None], ValueError, "(4, 1): pass labels[:, 0]"),
        (GOOD, np.int64(3), ValueError, "their shape is ()"),
        (GOOD, LABELS + 1, ValueError, "label 4 at position 3 is out of range: 4 classes are numbered 0 to 3"),
    ],
)
def test_defects_are_refused_with_their_cure(images, labels, error, message):
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(error, match=pattern):
        Dataset(images, labels, ("a", "b", "c", "d"), HALF)
    with pytest.raises(error, match=pattern):
        from_arrays(images, labels, num_classes=4)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5, 0.5), (0.2,), "mean has 2 values, but the images have 3 channels"),
        ((0.5,), (0.2, 0.2, 0.2, 0.2), "std has 4 values, but the images have 3 channels"),
        ((0.5,), (0.2, 0.0, 0.2), r"std=\(0.2, 0.0, 0.2\) must be positive"),
        ((0.5,), (-0.2,), r"std=\(-0.2,\) must be positive"),
        ((float("nan"),), (0.2,), "mean=.*not finite"),
        ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7), "divide mean and std by 255"),
    ],
)
def test_impossible_statistics_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(GOOD, LABELS, mean=mean, std=std)


def test_other_misuse_is_refused():
    dataset = from_arrays(GOOD, LABELS)
    with pytest.raises(ValueError, match="no indices"):
        dataset.take([])
    with pytest.raises(ValueError, match=r"subset\(5\) of 4 images"):
        dataset.subset(5)
    with pytest.raises(TypeError, match=r"augmentation is a jaxkd\.data\.Augmentation"):
        dataset.replace(augmentation="flip")
    with pytest.raises(ValueError, match="there are 0 classes"):
        from_arrays(GOOD, LABELS, [])
