"""Augmentation: every output is one of the views that NumPy enumerates, each equally often, decided by the key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jaxkd.data import Augmentation
from jaxkd.data.transforms.pad_crop_flip import _chosen_by_products, _sliced


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def enumerate_views(image: np.ndarray, pad: int, flip: bool) -> list[np.ndarray]:
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    crops = [
        padded[top : top + height, left : left + width] for top in range(2 * pad + 1) for left in range(2 * pad + 1)
    ]
    return [view for crop in crops for view in ([crop, crop[:, ::-1]] if flip else [crop])]


@settings(max_examples=25, deadline=None)
@given(
    images=npst.arrays(
        st.sampled_from([np.uint8, np.float32]),
        st.sampled_from([(1, 5, 7, 3), (3, 6, 4, 1)]),
        elements=st.integers(0, 255),
    ),
    pad=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_each_output_is_a_view_of_its_input(images, pad, flip, seed):
    augmentation = Augmentation(pad, flip)
    output = augmentation(jax.random.key(seed), images)
    assert output.dtype == images.dtype
    assert output.shape == images.shape
    for before, after in zip(images, np.asarray(output), strict=True):
        views = enumerate_views(before, pad, flip)
        assert len(views) == augmentation.views
        assert any(np.array_equal(after, view) for view in views)
    np.testing.assert_array_equal(output, augmentation(jax.random.key(seed), images))


@pytest.mark.parametrize(("pad", "flip"), [(0, False), (0, True), (2, False), (2, True)])
def test_view_numbers_run_through_all_views(pad, flip):
    augmentation = Augmentation(pad, flip)
    image = np.arange(1, 6 * 5 * 3 + 1, dtype=np.uint8).reshape(6, 5, 3)
    copies = np.broadcast_to(image, (augmentation.views, *image.shape))
    output = augmentation.view(copies, jnp.arange(augmentation.views))
    np.testing.assert_array_equal(output, enumerate_views(image, pad, flip))


@pytest.mark.parametrize("flip", [False, True])
def test_views_are_equally_likely(flip):
    augmentation = Augmentation(pad=1, flip=flip)
    image = np.arange(1, 28, dtype=np.uint8).reshape(3, 3, 3)
    expected = 1000
    count = expected * augmentation.views
    output = np.asarray(augmentation(jax.random.key(3), np.broadcast_to(image, (count, 3, 3, 3))))
    seen = {view.tobytes(): 0 for view in enumerate_views(image, 1, flip)}
    assert len(seen) == augmentation.views
    for view in output:
        seen[view.tobytes()] += 1
    assert max(abs(number - expected) for number in seen.values()) < 5 * expected**0.5


def test_images_of_a_batch_are_drawn_independently():
    augmentation = Augmentation(pad=4, flip=True)
    first, second = np.asarray(augmentation.draw(jax.random.key(0), 20_000)).reshape(2, -1)
    assert abs(np.mean(first == second) - 1 / 162) < 5 * (1 / 162 / 10_000) ** 0.5


def test_different_keys_give_different_views():
    augmentation, images = Augmentation(), np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    one, other = (np.asarray(augmentation(jax.random.key(seed), images)) for seed in (0, 1))
    assert (one != other).any(axis=(1, 2, 3)).mean() > 0.9


def test_without_padding_and_flip_nothing_changes():
    images = np.random.default_rng(0).integers(0, 256, (8, 5, 5, 3), np.uint8)
    np.testing.assert_array_equal(Augmentation(pad=0, flip=False)(jax.random.key(0), images), images)


def test_works_under_jit_vmap_and_scan():
    augmentation = Augmentation(pad=2)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 4, 6, 6, 3), np.uint8))
    keys = jax.random.split(jax.random.key(0), 3)
    separately = np.stack([augmentation(key, batch) for key, batch in zip(keys, images, strict=True)])
    np.testing.assert_array_equal(jax.jit(jax.vmap(augmentation))(keys, images), separately)
    _, scanned = jax.lax.scan(lambda carry, batch: (carry, augmentation(*batch)), None, (keys, images))
    np.testing.assert_array_equal(scanned, separately)


def test_counts_its_views():
    assert Augmentation(pad=4, flip=True).views == 162
    assert Augmentation(pad=1, flip=False).views == 9


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pad": -1}, ValueError, "pad=-1 is negative"),
        ({"pad": 1.5}, TypeError, "pad is a whole number of pixels; got 1.5"),
        ({"pad": True}, TypeError, "pad is a whole number of pixels; got True"),
        ({"flip": 0.5}, TypeError, "flip is True or False; got 0.5"),
    ],
)
def test_impossible_settings_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Augmentation(**arguments)


def test_a_pad_that_could_lose_the_image_is_refused():
    with pytest.raises(ValueError, match="pad=8 would let a crop miss a 8×9 image"):
        Augmentation(pad=8)(jax.random.key(0), np.zeros((1, 8, 9, 3), np.uint8))


@settings(max_examples=25, deadline=None)
@given(
    images=npst.arrays(np.uint8, st.sampled_from([(1, 5, 7, 3), (3, 6, 4, 1), (4, 8, 8, 3)])),
    pad=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_products_with_one_hot_matrices_choose_the_same_pixels(images, pad, flip, seed):
    """As a TPU computes the views."""
    drawn = np.random.default_rng(seed)
    top, left = (jnp.asarray(drawn.integers(0, 2 * pad + 1, len(images), np.int32)) for _ in range(2))
    mirrored = jnp.asarray(drawn.integers(0, 1 + flip, len(images), np.int32))
    found = _chosen_by_products(jnp.asarray(images), top, left, mirrored, pad)
    np.testing.assert_array_equal(found, _sliced(jnp.asarray(images), top, left, mirrored, pad, flip))
