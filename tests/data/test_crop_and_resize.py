"""Random parts of images on the device: where they lie, and that they are resized as Pillow does it."""

import jax
import numpy as np
import pytest
from conformance_cases import QUICK
from PIL import Image

from jaxkd.data import CropAndResize, RandomResizedCrop
from jaxkd.data.transforms.crop_and_resize import resized_parts

DRAWS = 4000


def drawn(crop, height, width):
    draw = jax.jit(crop.draw, static_argnums=(1, 2, 3), compiler_options=QUICK)
    return np.asarray(draw(jax.random.key(0), DRAWS, height, width))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 64)])
def test_parts_are_drawn_as_those_of_images_from_files(height, width):
    left, top, wide, high = drawn(CropAndResize(), height, width).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + wide <= width).all()
    assert (top + high <= height).all()
    rng = np.random.default_rng(0)
    boxes = np.array([RandomResizedCrop().box(width, height, rng) for _ in range(DRAWS)])
    theirs = boxes[:, 0], boxes[:, 1], boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    for ours, other in zip((left, top, wide, high), theirs, strict=True):
        assert abs(ours.mean() - other.mean()) < 0.02 * max(height, width)
        np.testing.assert_allclose(ours.std(), other.std(), rtol=0.05)
    share = wide * high / (height * width)
    assert share.min() > 0.05
    assert len(np.unique(left)) > 0.7 * width  # small parts lie everywhere


def test_where_no_part_fits_the_middle_is_taken():
    parts = drawn(CropAndResize(scale=(1.0, 1.0), ratio=(0.5, 0.6)), 20, 40)
    assert (parts == [14, 0, 12, 20]).all()
    assert RandomResizedCrop(scale=(1.0, 1.0), ratio=(0.5, 0.6)).box(40, 20, np.random.default_rng(0)) == (
        14,
        0,
        26,
        20,
    )


def test_parts_are_resized_as_pillow_does_it():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 24, 20, 3), np.uint8)
    parts = np.array([(0, 0, 20, 24), (3, 5, 7, 9), (13, 0, 7, 24), (0, 23, 20, 1), (19, 23, 1, 1), (2, 2, 15, 3)])
    found = np.asarray(jax.jit(resized_parts, compiler_options=QUICK)(images, parts))
    assert found.dtype == np.uint8
    for image, (left, top, wide, high), ours in zip(images, parts, found, strict=True):
        box = Image.fromarray(image).crop((left, top, left + wide, top + high))
        theirs = np.asarray(box.resize((20, 24), Image.Resampling.BICUBIC))
        assert np.abs(ours.astype(int) - theirs).max() <= 1
    np.testing.assert_array_equal(found[0], images[0])  # the whole image is left as it is
    assert (found[4] == images[4, 23, 19]).all()


def test_normalised_images_are_not_rounded_and_may_overshoot():
    image = np.where(np.arange(64).reshape(8, 8) % 3 == 0, 2.0, -1.0).astype(np.float32)
    found = np.asarray(resized_parts(image[None, :, :, None], np.array([(1, 1, 5, 6)])))
    assert found.dtype == np.float32
    assert found.max() > 2.05
    box = Image.fromarray(image).crop((1, 1, 6, 7))
    theirs = np.asarray(box.resize((8, 8), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(found[0, :, :, 0], theirs, rtol=1e-5, atol=1e-5)


def test_the_key_decides_and_limits_are_checked():
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 1), np.uint8)
    crop = jax.jit(CropAndResize(), compiler_options=QUICK)
    one, again, other = (np.asarray(crop(jax.random.key(seed), images)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    with pytest.raises(ValueError, match=r"scale=\(0.5, 2.0\): no part of an image is larger"):
        CropAndResize(scale=(0.5, 2.0))
    with pytest.raises(ValueError, match=r"ratio=\(2, 1\): give the least and the greatest"):
        CropAndResize(ratio=(2, 1))
