"""Channels first become channels last, in every form of a batch."""

import numpy as np
import pytest

from jaxkd import Batch, data

LAST = np.random.default_rng(0).normal(size=(4, 6, 8, 3)).astype(np.float32)
FIRST = LAST.transpose(0, 3, 1, 2)
LABELS = np.array([0, 1, 1, 0])


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_array_of_any_type_keeps_its_values(channels, dtype):
    first = np.arange(2 * channels * 6 * 8).reshape(2, channels, 6, 8).astype(dtype)
    last = data.channels_last(first)
    assert (last.shape, last.dtype) == ((2, 6, 8, channels), dtype)
    np.testing.assert_array_equal(last[1, 2, 5], first[1, :, 2, 5])


def test_batches_keep_all_but_the_order_of_their_axes():
    batches = data.channels_last(
        [(FIRST, LABELS), [FIRST, LABELS, np.arange(4)], {"img": FIRST, "label": LABELS, "id": "x"}, FIRST]
    )
    for _ in range(2):  # once an epoch
        pair, indexed, named, alone = batches
        for images in (pair[0], indexed[0], named["img"], alone):
            np.testing.assert_array_equal(images, LAST)
        assert pair[1] is indexed[1] is named["label"] is LABELS
        assert indexed[2].tolist() == [0, 1, 2, 3]
        assert named["id"] == "x"
    [batch] = data.channels_last([Batch(FIRST, LABELS, np.arange(4), FIRST + 1)])
    np.testing.assert_array_equal(batch.images, LAST)
    np.testing.assert_array_equal(batch.strong, LAST + 1)


def test_an_iterator_stays_one():
    given = iter([(FIRST, LABELS)])
    batches = data.channels_last(given)
    assert iter(batches) is batches
    np.testing.assert_array_equal(next(batches)[0], LAST)


@pytest.mark.parametrize("images", [LAST, LAST[0], np.zeros((4, 32, 32, 1))])
def test_channels_that_are_last_already_are_refused(images):
    for given in (lambda: data.channels_last(images), lambda: list(data.channels_last([(images, LABELS)]))):
        with pytest.raises(ValueError, match=r"channels_last was given images of shape .*: it takes \[N, C, H, W\]"):
            given()
