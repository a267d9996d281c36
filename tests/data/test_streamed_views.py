"""Random resized crops and centre crops against their definition, computed by hand."""

import math
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxkd.data import RandomResizedCrop, ResizedCentreCrop
from jaxkd.data.pipeline.decode import BrokenImageError


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def boxes(crop, width, height, count=4000):
    rng = np.random.default_rng(0)
    return np.array([crop.box(width, height, rng) for _ in range(count)]).T


def farthest(sample, distribution):
    """The Kolmogorov-Smirnov distance of a sample from a distribution function."""
    ordered = np.sort(sample)
    return np.abs(distribution(ordered) - (np.arange(len(ordered)) + 0.5) / len(ordered)).max()


def test_area_and_shape_are_drawn_as_defined_where_every_box_fits():
    crop = RandomResizedCrop(32, scale=(0.1, 0.3), ratio=(1 / 2, 2))
    left, top, right, bottom = boxes(crop, 2000, 2000)
    width, height = right - left, bottom - top
    share, ratio = width * height / 2000**2, np.log(width / height)
    limit = 1.95 / math.sqrt(len(left))  # passed by chance once in a thousand times
    assert farthest(share, lambda value: (value - 0.1) / 0.2) < limit
    assert farthest(ratio, lambda value: (value + math.log(2)) / (2 * math.log(2))) < limit
    assert abs(np.corrcoef(share, ratio)[0, 1]) < 3.3 / math.sqrt(len(left))  # likewise
    for edge, room in ((left, 2000 - width), (top, 2000 - height)):
        assert farthest((edge + 0.5) / (room + 1), lambda value: value) < limit


@pytest.mark.parametrize(("width", "height"), [(500, 375), (21, 90), (5, 3), (1, 1)])
def test_boxes_lie_inside_the_image(width, height):
    left, top, right, bottom = boxes(RandomResizedCrop(32), width, height, 500)
    assert left.min() >= 0
    assert top.min() >= 0
    assert (right > left).all()
    assert (bottom > top).all()
    assert right.max() <= width
    assert bottom.max() <= height


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (300, 10, (143, 0, 156, 10)),  # 13 = round(10·4/3), of the middle
        (10, 300, (0, 143, 10, 156)),
        (40, 40, (0, 0, 40, 40)),
    ],
)
def test_the_middle_is_taken_where_no_box_fits(width, height, box):
    crop = RandomResizedCrop(32, scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3) if width != height else (1.0, 1.0))
    assert crop.box(width, height, np.random.default_rng(0)) == box


def test_a_random_view_is_the_box_resized_with_antialiasing_and_perhaps_mirrored():
    image, crop = noise(90, 70), RandomResizedCrop(24)
    mirrored = 0
    for seed in range(40):
        box = crop.box(90, 70, np.random.default_rng(seed))
        plain = np.asarray(image.crop(box).resize((24, 24), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(
            RandomResizedCrop(24, flip=False)(image, np.random.default_rng(seed)), plain, str(seed)
        )
        view = crop(image, np.random.default_rng(seed))
        mirrored += not np.array_equal(view, plain)
        assert np.array_equal(view, plain) or np.array_equal(view, plain[:, ::-1])
    assert 10 <= mirrored <= 30


def averaged(pixels, size):
    """One axis resized by hand: each result is a triangle-weighted mean of the pixels around its place."""
    count = len(pixels)
    scale = count / size
    reach = max(scale, 1.0)
    result = []
    for place in range(size):
        centre = (place + 0.5) * scale
        weights = np.maximum(0, 1 - np.abs(np.arange(count) + 0.5 - centre) / reach)
        result.append(np.tensordot(weights / weights.sum(), pixels, 1))
    return np.array(result)


@pytest.mark.parametrize(("width", "height"), [(90, 61), (61, 90), (40, 40), (20, 31)])
def test_the_view_for_evaluation_is_the_middle_of_the_resized_image(width, height):
    image, pixels = noise(width, height), np.asarray(noise(width, height), np.float64)
    short = min(width, height)
    wide, high = (36 if side == short else 36 * side // short for side in (width, height))
    resized = averaged(averaged(pixels, high).swapaxes(0, 1), wide).swapaxes(0, 1)
    top, left = round((high - 32) / 2), round((wide - 32) / 2)
    view = ResizedCentreCrop(36, 32)(image)
    assert view.shape == (32, 32, 3)
    assert view.dtype == np.uint8
    # Pillow rounds after each axis.
    assert np.abs(view - resized[top : top + 32, left : left + 32]).max() <= 1.01


def test_views_are_values_that_travel():
    for view in (RandomResizedCrop(64, ratio=(1, 2)), ResizedCentreCrop(80, 64)):
        assert pickle.loads(pickle.dumps(view)) == view
        assert hash(pickle.loads(pickle.dumps(view))) == hash(view)


def test_a_needle_is_refused_before_it_fills_the_memory():
    with pytest.raises(BrokenImageError, match="1×300000 pixels would have to become 256×76800000"):
        ResizedCentreCrop()(Image.new("RGB", (1, 300_000)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RandomResizedCrop(0), r"size=0: a whole number of pixels"),
        (lambda: RandomResizedCrop(2.5), r"size=2\.5"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 0.1)), r"scale=\(0\.5, 0\.1\): give the least and the greatest"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 1.5)), r"no part of an image is larger than 1"),
        (lambda: RandomResizedCrop(8, ratio=(0, 1)), r"ratio=\(0, 1\)"),
        (lambda: ResizedCentreCrop(32, 64), r"size=64 is more than resize=32 leaves"),
    ],
)
def test_impossible_views_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
