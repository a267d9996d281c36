"""Random erasing: which rectangles are hidden, how often, and by what."""

import jax
import numpy as np
import pytest
from conformance_cases import QUICK

from jaxkd import Normalization
from jaxkd.data import RandomErasing

STATISTICS = Normalization((0.5, 0.25), (0.1, 0.05))
DRAWS, H, W = 4000, 20, 30


def drawn(erasing, height=H, width=W):
    draw = jax.jit(erasing.draw, static_argnums=(1, 2, 3), compiler_options=QUICK)
    return np.asarray(draw(jax.random.key(0), DRAWS, height, width))


def sides(hidden):
    """Height and width of what is hidden, `[n]` each."""
    return hidden.any(2).sum(1), hidden.any(1).sum(1)


def test_rectangles_have_the_shares_and_the_shapes_of_timm():
    hidden = drawn(RandomErasing(prob=1.0))
    high, wide = sides(hidden)
    np.testing.assert_array_equal(hidden.sum((1, 2)), high * wide)  # a rectangle, whole
    assert (high < H).all()
    assert (wide < W).all()
    area = high * wide / (H * W)
    assert area.min() > 0.01
    assert area.max() < 0.37  # sides are rounded to whole pixels
    assert abs(area.mean() - (0.02 + 1 / 3) / 2) < 0.01  # nearly even: the largest and flattest do not fit
    small = drawn(RandomErasing(prob=1.0, scale=(0.05, 0.06)))
    assert abs(small.mean((1, 2)).mean() - 0.055) < 0.002
    ratio = np.log(high / wide)
    assert abs(ratio.mean()) < 0.1
    large = high * wide > 100  # where rounding hardly matters
    assert np.abs(ratio[large]).max() < np.log(1 / 0.3) + 0.15
    assert np.abs(ratio[large]).max() > 0.9 * np.log(1 / 0.3)


def test_they_are_hidden_with_the_probability_and_lie_everywhere():
    hidden = drawn(RandomErasing(prob=0.25))
    assert abs(hidden.any((1, 2)).mean() - 0.25) < 0.035
    everywhere = drawn(RandomErasing(prob=1.0, scale=(0.02, 0.03))).mean(0)
    assert everywhere.min() > 0
    corners = [drawn(RandomErasing(prob=1.0))[:, row, column].any() for row in (0, -1) for column in (0, -1)]
    assert all(corners)
    assert not drawn(RandomErasing(prob=0.0)).any()


def test_each_place_of_a_rectangle_is_equally_likely():
    hidden = drawn(RandomErasing(prob=1.0, scale=(0.1, 0.1), ratio=(1.0, 1.0)), 10, 10)
    high, wide = sides(hidden)
    assert set(high) == set(wide) == {3}
    counts = np.bincount(hidden.any(2).argmax(1), minlength=8)
    assert len(counts) == 8
    assert (np.abs(counts - DRAWS / 8) < 5 * (DRAWS / 8) ** 0.5).all()


def test_an_image_in_which_no_rectangle_fits_stays_whole():
    assert not drawn(RandomErasing(prob=1.0, scale=(1.0, 1.0)), 4, 4).any()
    assert drawn(RandomErasing(prob=1.0, scale=(0.9, 1.0)), 4, 4).mean() < 1


def hidden_values(erasing, dtype):
    images = np.full((256, 16, 16, 2), 7, dtype)
    found = jax.jit(erasing, compiler_options=QUICK)(jax.random.key(0), images)
    assert found.dtype == dtype
    found = np.asarray(found)
    changed = (found != 7).any(-1)
    assert 0.1 < changed.mean() < 0.25
    assert (found[~changed] == 7).all()
    return np.asarray(STATISTICS(found))[changed] if dtype == np.uint8 else found[changed]


def test_noise_is_normal_after_normalising():
    for dtype in (np.uint8, np.float32):
        values = hidden_values(RandomErasing(prob=1.0, normalization=STATISTICS), dtype)
        assert np.abs(values.mean(0)).max() < 0.03
        assert np.abs(values.std(0) - 1).max() < 0.03
        assert abs(np.corrcoef(values.T)[0, 1]) < 0.03


def test_the_mean_is_nothing_after_normalising():
    values = hidden_values(RandomErasing(prob=1.0, fill="mean", normalization=STATISTICS), np.uint8)
    assert (np.abs(values) <= np.array([0.5, 0.5]) / 255 / np.array(STATISTICS.std) + 1e-6).all()
    assert (hidden_values(RandomErasing(prob=1.0, fill="mean"), np.float32) == 0).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prob": 1.5}, "prob=1.5: a probability"),
        ({"scale": (0.4, 0.2)}, "scale=.* in this order"),
        ({"scale": (0.5, 2.0)}, "no part of an image is larger"),
        ({"ratio": (0.0, 1.0)}, "ratio="),
        ({"fill": "black"}, "fill='black': choose one of noise, mean"),
    ],
)
def test_numbers_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        RandomErasing(**given)


def test_pixels_need_statistics():
    with pytest.raises(ValueError, match="RandomErasing fills in what images have on average"):
        RandomErasing()(jax.random.key(0), np.zeros((1, 8, 8, 3), np.uint8))


def test_the_aspect_is_height_over_width():
    high, wide = sides(drawn(RandomErasing(1.0, (0.1, 0.1), (2.0, 2.0))))
    assert (high > wide).all()
