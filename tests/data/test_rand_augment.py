"""RandAugment: each operation is that of the Python Imaging Library, drawn evenly and decided by the key."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pillow_operations import ROUNDED, H, W, images, pillow
from sweeps import sweep

from jaxkd.data import RandAugment
from jaxkd.data.transforms.policies import OPERATIONS


@functools.cache
def compiled(magnitude):
    return jax.jit(RandAugment(1, magnitude).apply)


def applied(name, images, magnitude=9, backward=False):
    numbers = np.full(len(images), OPERATIONS.index(name), np.int32)
    return np.asarray(compiled(magnitude)(images, numbers, np.full(len(images), backward)))


def reference(name, image, magnitude, backward):
    strength, sign = magnitude / 30, -1 if backward else 1
    lean, travel, factor = sign * 0.3 * strength, sign * 150 / 331 * strength, 1 + sign * 0.9 * strength
    amounts = {
        "rotate": sign * 30 * strength, "shear_x": lean, "shear_y": lean,
        "translate_x": int(travel * W), "translate_y": int(travel * H),
        "posterize": 8 - round(4 * strength), "solarize": round(255 * (1 - strength), 6),
        "brightness": factor, "contrast": factor, "color": factor, "sharpness": factor,
    }  # fmt: skip
    return pillow(name, amounts.get(name), image)


@sweep("magnitude", [0, 3, 9, 20, 30], core=[9])
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_operations_of_pil(name, magnitude):
    given = images()
    for backward in (False, True):
        ours = applied(name, given, magnitude, backward).astype(int)
        theirs = np.stack([reference(name, image, magnitude, backward) for image in given]).astype(int)
        if name in ROUNDED:
            assert np.abs(ours - theirs).max() <= 1
            assert (ours != theirs).mean() < 0.02
        else:
            np.testing.assert_array_equal(ours, theirs)
        if magnitude == 30 and name != "identity":
            assert (ours != given).mean() > 0.1


def test_by_hand():
    row = np.array([0, 50, 100, 150], np.uint8)
    image = np.broadcast_to(row[None, None, :, None], (1, 4, 4, 1))
    solarized = applied("solarize", image, magnitude=15)[0, 0, :, 0]  # from 127.5 upwards, inverted
    assert solarized.tolist() == [0, 50, 100, 105]
    assert applied("auto_contrast", image)[0, 0, :, 0].tolist() == [0, 85, 170, 255]
    assert applied("posterize", image, magnitude=30)[0, 0, :, 0].tolist() == [0, 48, 96, 144]  # multiples of 16
    assert applied("brightness", image, magnitude=10)[0, 0, :, 0].tolist() == [0, 65, 130, 195]
    assert applied("translate_x", image, magnitude=30)[0, 0, :, 0].tolist() == [50, 100, 150, 0]  # by 1 of 1.81 pixels
    assert applied("translate_x", image, magnitude=30, backward=True)[0, 0, :, 0].tolist() == [0, 0, 50, 100]
    # The mean is 75, and the factor at 10 is 1.3: 75 + 1.3 · (value - 75), cut at 0 and rounded down.
    assert applied("contrast", image, magnitude=10)[0, 0, :, 0].tolist() == [0, 42, 107, 172]


@pytest.mark.parametrize("name", OPERATIONS)
@sweep("shape", [(2, 1, 1, 1), (1, 2, 5, 3), (3, 8, 8, 4)], core=[(3, 8, 8, 4)])
def test_any_size_and_number_of_channels(name, shape):
    given = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = applied(name, given, magnitude=20)
    assert found.shape == shape
    assert found.dtype == np.uint8


def test_one_channel_is_handled_as_grey():
    given = images()
    grey = np.broadcast_to(given[..., :1], given.shape)
    for name in OPERATIONS:
        np.testing.assert_array_equal(applied(name, grey[..., :1])[..., 0], applied(name, grey)[..., 2])


def test_every_image_gets_the_operation_drawn_for_it():
    given = np.broadcast_to(images()[0], (2 * len(OPERATIONS), H, W, 3))
    numbers, backward = np.tile(np.arange(len(OPERATIONS), dtype=np.int32), 2), np.arange(len(given)) % 4 > 1
    together = np.asarray(compiled(20)(given, numbers, backward))
    for position, (number, back) in enumerate(zip(numbers, backward, strict=True)):
        alone = applied(OPERATIONS[number], given[:1], 20, back)[0]
        np.testing.assert_array_equal(together[position], alone)


def test_operations_are_drawn_evenly():
    # Seen from outside: how often each of the images that single operations make of one image comes out.
    image, augment = images()[0], RandAugment(operations=1, magnitude=20)
    made = {}
    for name in OPERATIONS:
        for backward in (False, True):
            made.setdefault(applied(name, image[None], 20, backward).tobytes(), []).append(name)
    draws = 2800
    found = np.asarray(jax.jit(augment)(jax.random.key(1), np.broadcast_to(image, (draws, H, W, 3))))
    counts = {names[0]: 0 for names in made.values()}
    for view in found:
        counts[made[view.tobytes()][0]] += 1  # a KeyError here is a view that no operation makes
    assert counts.keys() == set(OPERATIONS)
    assert all(abs(count - 200) < 5 * 200**0.5 for count in counts.values())


def test_the_key_decides_everything_also_when_mapped_and_scanned():
    given = np.stack([images()] * 3)
    keys, augment = jax.random.split(jax.random.key(0), 3), jax.jit(RandAugment())
    separately = np.stack([augment(key, batch) for key, batch in zip(keys, given, strict=True)])
    np.testing.assert_array_equal(jax.jit(jax.vmap(augment))(keys, given), separately)
    _, scanned = jax.lax.scan(lambda carry, batch: (carry, augment(*batch)), None, (keys, jnp.asarray(given)))
    np.testing.assert_array_equal(scanned, separately)
    assert (separately[0] != separately[1]).any()


def test_more_operations_change_more():
    given = np.broadcast_to(images()[0], (64, H, W, 3))
    one, four = (np.asarray(jax.jit(RandAugment(count, 9))(jax.random.key(0), given)) for count in (1, 4))
    unchanged = [(found == given).all((1, 2, 3)).mean() for found in (one, four)]
    assert unchanged[0] > unchanged[1]


def test_equal_settings_are_one_program():
    assert RandAugment(2, 9) == RandAugment()
    assert hash(RandAugment(2, 9)) == hash(RandAugment())
    assert RandAugment(2, 10) != RandAugment()


@pytest.mark.parametrize("arguments", [{"operations": 0}, {"operations": 1.5}, {"operations": True}])
def test_impossible_numbers_of_operations_are_refused(arguments):
    with pytest.raises(ValueError, match=f"operations={arguments['operations']}"):
        RandAugment(**arguments)


@pytest.mark.parametrize("magnitude", [-1, 31, float("nan")])
def test_impossible_magnitudes_are_refused(magnitude):
    with pytest.raises(ValueError, match=f"magnitude={magnitude}"):
        RandAugment(magnitude=magnitude)


def test_normalised_images_are_refused():
    with pytest.raises(TypeError, match="float32"):
        RandAugment()(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))


def test_operations_and_directions_are_drawn_evenly():
    for numbers in np.asarray(RandAugment(operations=2).draw(jax.random.key(0), 5600)):
        assert (np.abs(np.bincount(numbers, minlength=2 * len(OPERATIONS)) - 200) < 5 * 200**0.5).all()
