"""A balanced epoch: every class equally often, every image of a rare class equally often."""

import numpy as np
import pytest

from jaxkd import data
from jaxkd.data.sampling import balanced_order

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("sizes", [(90, 10), (3, 500, 40), (7, 7, 7), (1, 1000), (0, 5, 20), (30,), (1, 1, 1, 50)])
def test_every_class_is_drawn_equally_often(sizes):
    labels = RNG.permutation(np.repeat(np.arange(len(sizes)), sizes))
    for seed in range(3):
        order = balanced_order(labels, np.random.default_rng(seed))
        assert order.shape == labels.shape
        drawn = np.bincount(labels[order], minlength=len(sizes))[np.array(sizes) > 0]
        assert drawn.max() - drawn.min() <= 1
        times = np.bincount(order, minlength=len(labels))
        for label in np.unique(labels):  # as evenly as whole numbers allow
            assert np.ptp(times[labels == label]) <= 1


def test_equal_classes_are_all_seen_once():
    labels = RNG.permutation(np.repeat(np.arange(4), 25))
    order = balanced_order(labels, np.random.default_rng(1))
    assert sorted(order) == list(range(100))
    assert (order != np.arange(100)).mean() > 0.9


def test_over_many_epochs_every_image_of_a_class_counts_the_same():
    labels = np.repeat([0, 1], [60, 20])
    times = sum(
        np.bincount(balanced_order(labels, np.random.default_rng((5, epoch))), minlength=80) for epoch in range(300)
    )
    np.testing.assert_allclose(times[:60] / 300, 40 / 60, atol=0.12)
    np.testing.assert_allclose(times[60:] / 300, 2.0)


def test_the_remainder_goes_to_no_class_in_particular():
    labels = np.repeat([0, 1, 2], [4, 3, 3])  # ten places for three classes
    extra = [np.bincount(labels[balanced_order(labels, np.random.default_rng(seed))]).argmax() for seed in range(300)]
    assert np.bincount(extra).min() > 60


def test_what_is_held_out_is_not_balanced():
    whole = data.from_arrays(np.zeros((20, 4, 4, 3), np.uint8) + 7, np.arange(20) % 2, std=(1.0,)).replace(
        balanced=True
    )
    train, test = whole.split(0.2)
    assert (train.balanced, test.balanced, train.subset(3).balanced) == (True, False, True)
