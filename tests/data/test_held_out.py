"""Images held out of data sets without a split: of each class its part, and the same ones every time."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest
from streamed_sources import Noise

from jaxkd import data
from jaxkd.data.sampling import held_out

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("sizes", [(40, 40), (100, 7, 2), (3, 1, 50)])
def test_each_class_gives_its_part(fraction, sizes):
    labels = RNG.permutation(np.repeat(np.arange(len(sizes)), sizes))
    chosen = held_out(labels, fraction)
    for size, count in zip(sizes, np.bincount(labels[chosen], minlength=len(sizes)), strict=True):
        assert count <= size - 1
        assert count == (0 if size == 1 else min(max(round(fraction * size), 1), size - 1))


def test_the_choice_is_known_for_good():
    """On any machine and with any version of NumPy: a teacher's held-out images must not become a student's."""
    chosen = np.flatnonzero(held_out(np.arange(40) % 2, 0.2))
    assert chosen.tolist() == [3, 12, 15, 22, 29, 32, 33, 36]
    assert np.flatnonzero(held_out(np.arange(40) % 2, 0.2, seed=1)).tolist() != chosen.tolist()


def test_the_choice_follows_names_and_not_places():
    names = [f"cat/{number}.jpg" for number in range(60)]
    labels, order = np.zeros(60, int), RNG.permutation(60)
    chosen = held_out(labels, 0.2, keys=names)
    moved = held_out(labels, 0.2, keys=[names[place] for place in order])
    np.testing.assert_array_equal(moved, chosen[order])
    # Images that come later change little.
    more = held_out(np.zeros(66, int), 0.2, keys=[*names, *(f"cat/new {number}.jpg" for number in range(6))])
    assert (more[:60] != chosen).sum() <= 3


def test_names_of_files_are_bytes_and_need_not_be_utf_8():
    files = [name % number for name in (b"cat/\xc3\xa9%d.jpg", b"cat/\xe9%d.jpg") for number in range(20)]
    chosen = held_out(np.zeros(40, int), 0.25, keys=[name.decode(errors="surrogateescape") for name in files])
    ranked = sorted(files, key=lambda name: hashlib.blake2b(b"0/" + name, digest_size=8).digest()[::-1])
    assert {files[place] for place in np.flatnonzero(chosen)} == set(ranked[:10])


def test_choices_of_classes_are_independent():
    labels = np.repeat([0, 1], 1000)
    first, second = held_out(labels, 0.5).reshape(2, -1)
    assert 400 < (first & second).sum() / 0.5 < 600


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 10, float("nan")])
def test_parts_out_of_range_are_refused(fraction):
    with pytest.raises(ValueError, match=r"validation_split=.*above 0 and below 1, such as 0.1"):
        held_out(np.zeros(10, int), fraction)


def test_single_images_are_not_held_out():
    with pytest.raises(ValueError, match="nothing can be held out of 3 images"):
        held_out(np.arange(3), 0.5)


def test_a_data_set_in_memory_is_divided():
    pixels = RNG.integers(0, 256, (30, 4, 4, 3), np.uint8)
    whole = data.from_arrays(pixels, np.arange(30) % 3, augmentation=data.Augmentation(1))
    train, test = whole.split(0.2)
    assert (len(train), len(test)) == (24, 6)
    assert (train.augmentation, test.augmentation) == (data.Augmentation(1), None)
    assert train.normalization == test.normalization == whole.normalization
    found = {image.tobytes() for part in (train, test) for image in part.images}
    assert found == {image.tobytes() for image in pixels}
    np.testing.assert_array_equal(whole.split(0.2)[1].images, test.images)
    chosen = held_out(whole.labels, 0.2)
    np.testing.assert_array_equal(train.images, pixels[~chosen])


def test_a_streamed_data_set_is_divided_and_taken_from():
    source = Noise(30)
    whole = data.from_source(source, ["cat", "dog", "eel"], image_size=8, workers=0)
    train, test = whole.split(0.2, seed=3)
    chosen = held_out(whole.labels, 0.2, seed=3)
    for part, where in ((train, ~chosen), (test, chosen)):
        numbers = np.flatnonzero(where)
        assert part.labels.tolist() == whole.labels[numbers].tolist()
        for place, number in enumerate(numbers):
            np.testing.assert_array_equal(part.source[place][0], source[number][0])
    assert whole.take([4, 1]).labels.tolist() == [1, 1]
    assert whole.take(whole.labels == 2).labels.tolist() == [2] * 10
    assert train.subset(5).labels.tolist() == train.labels[:5].tolist()
    with pytest.raises(ValueError, match="no indices"):
        whole.take([])


@dataclass(frozen=True)
class Shades:
    """Grey pictures, each called by its shade."""

    shades: range

    def __len__(self) -> int:
        return len(self.shades)

    def __getitem__(self, number: int):
        return np.full((9, 9), self.shades[number], np.uint8), 0

    def example_names(self):
        return (f"{shade}.jpg" for shade in self.shades)


@pytest.mark.parametrize(
    "part",
    [
        lambda whole: whole.split(0.25)[0],
        lambda whole: whole.split(0.25)[0].split(0.25)[0],
        lambda whole: whole.take(np.arange(len(whole))[::-1]),
        lambda whole: whole.subset(len(whole) - 1),
    ],
    ids=["split", "twice", "take", "subset"],
)
def test_a_part_is_divided_by_names_as_well(part):
    """A picture that comes later hardly changes what is held out of a part, though it moves all others."""

    def chosen(shades):
        held = part(data.from_source(Shades(shades), ["grey"], image_size=8, workers=0)).split(0.2)[1]
        return {int(image[0, 0]) for image, _ in (held.source[number] for number in range(len(held)))}

    before, after = chosen(range(1, 201)), chosen(range(201))
    assert len(before) >= 20
    assert len(before ^ after) <= 5
