"""Mixup and CutMix: what a draw is, and what it makes of pixels and labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import Batch
from jaxkd.data import Mixing
from jaxkd.data.transforms.mixing import mixed_pixels

DRAWS = 2000


def drawn(mixing, height=12, width=8):
    return jax.jit(jax.vmap(lambda key: mixing.draw(key, height, width)))(jax.random.split(jax.random.key(0), DRAWS))


def batch(images):
    images = jnp.asarray(images)
    return Batch(images, jnp.arange(len(images), dtype=jnp.int32), jnp.arange(len(images), dtype=jnp.int32))


def test_mixup_keeps_the_share_of_every_pixel_and_draws_it_from_beta():
    weights, share = drawn(Mixing(mixup_alpha=0.8, cutmix_alpha=0.0))
    assert (weights == share[:, None, None]).all()
    mean, variance = float(share.mean()), float(share.var())
    assert abs(mean - 0.5) < 0.03
    assert abs(variance - 1 / (4 * (2 * 0.8 + 1))) < 0.01  # Beta(α, α) has the variance 1 / (4 · (2α + 1))


def test_cutmix_takes_one_box_whose_area_is_what_the_share_says():
    weights, share = map(np.asarray, drawn(Mixing(mixup_alpha=0.0, cutmix_alpha=1.0)))
    assert set(np.unique(weights)) == {0.0, 1.0}
    np.testing.assert_allclose(weights.mean((1, 2)), share, atol=1e-6)
    for one in weights[:200]:
        rows, columns = np.nonzero((one == 0).any(1))[0], np.nonzero((one == 0).any(0))[0]
        if rows.size:
            assert (one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 0).all()
            assert (one == 0).sum() == rows.size * columns.size
    # Sides are halved rounding down, as timm has it: of 12 by 8 pixels at most 10 by 6 are taken.
    assert share.min() == 0.375
    assert share.max() == 1.0


def test_boxes_lie_everywhere_and_are_cut_off_at_the_border():
    weights, _ = drawn(Mixing(mixup_alpha=0.0, cutmix_alpha=1.0), 16, 16)
    taken = 1 - np.asarray(weights).mean(0)
    assert taken.min() > 0.1
    assert taken[8, 8] > taken[0, 0]


def test_both_switch_and_some_batches_are_left_alone():
    weights, share = map(np.asarray, drawn(Mixing(0.8, 1.0, prob=0.5, switch_prob=0.25)))
    cut = (weights == 0).any((1, 2))
    mixed = ~cut & (share < 1)
    assert abs((cut | mixed).mean() - 0.5) < 0.05
    assert abs(cut.mean() - 0.5 * 0.25) < 0.05
    assert (weights[~cut & ~mixed] == 1).all()


def test_partners_are_those_from_the_other_end_and_pixels_are_rounded():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    mixing, key = Mixing(1.0, 0.0), jax.random.key(3)
    found = mixing(key, batch(images))
    share = float(found.mixed.share[0])
    wanted = np.rint(np.float32(share) * images + np.float32(1 - share) * images[::-1])
    assert found.images.dtype == jnp.uint8
    np.testing.assert_allclose(np.asarray(found.images, np.float32), wanted, atol=1)  # a tie may round either way
    assert (np.asarray(found.images) == wanted).mean() > 0.99
    assert found.mixed.labels.tolist() == [4, 3, 2, 1, 0]
    assert found.labels.tolist() == [0, 1, 2, 3, 4]
    assert found.mixed.share.tolist() == [share] * 5


def test_cut_pixels_are_exact_and_the_strong_view_is_cut_alike():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    found = Mixing(0.0, 1.0)(jax.random.key(1), batch(images)._replace(strong=jnp.asarray(255 - images)))
    own, partner = (np.asarray(found.images) == images).all(-1), (np.asarray(found.images) == images[::-1]).all(-1)
    assert (own | partner).all()
    assert not own.all()
    np.testing.assert_array_equal(np.asarray(found.strong), 255 - np.asarray(found.images))


def test_float_images_are_not_rounded():
    found = mixed_pixels(jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1), jnp.full((1, 1), 0.75))
    assert found.ravel().tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mixup_alpha": -1.0}, "mixup_alpha=-1.0: give a finite number"),
        ({"cutmix_alpha": float("nan")}, "cutmix_alpha=nan"),
        ({"prob": 1.5}, "prob=1.5: a probability"),
        ({"mixup_alpha": 0.0, "cutmix_alpha": 0.0}, "mix nothing"),
    ],
)
def test_numbers_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Mixing(**given)
