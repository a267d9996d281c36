"""TrivialAugment, AutoAugment and timm's RandAugment: the published strengths, Pillow's pixels, even draws."""

import json
import pathlib

import jax
import numpy as np
import pytest
from conformance_cases import QUICK
from pillow_operations import ROUNDED, H, W, images, pillow
from sweeps import marked

from jaxkd import Normalization, data
from jaxkd.data.transforms.operations import apply
from jaxkd.data.transforms.policies import OPERATIONS, POLICIES

COLOUR = Normalization((0.5, 0.25, 0.75), (0.2, 0.3, 0.25))
OUTSIDE = (128, 64, 191)
TIMM = data.TimmRandAugment(normalization=COLOUR)
EACH = {
    "trivial": data.TrivialAugment(),
    "cifar10": data.AutoAugment("cifar10"),
    "imagenet": data.AutoAugment("imagenet"),
    "timm": TIMM,
}
DRAWS = 20_000
MOVING = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
ENHANCING = ("brightness", "contrast", "color", "sharpness")


def amounts(policy, name):
    """All amounts of an operation, in the order of the settings; the same in both directions once."""
    return [amount for found, amount in policy.settings(H, W) if found == name]


def drawn(policy, count=DRAWS, seed=0):
    """What is drawn for many images, `[operations, count]` of names and amounts."""
    settings = policy.settings(H, W)
    numbers = np.asarray(jax.jit(policy.draw, static_argnums=1)(jax.random.key(seed), count))
    names, strengths = (np.array(column) for column in zip(*settings, strict=True))
    return names[numbers], strengths[numbers]


def assert_frequent(hits, chance):
    """That of so many booleans about as many are true as should be."""
    count = np.size(hits)
    assert abs(np.sum(hits) - count * chance) < 5 * max(count * chance * (1 - chance), 1) ** 0.5


@pytest.mark.parametrize("name", marked(EACH, ["cifar10"]))
def test_each_operation_is_pillows_at_each_strength(name):
    """At every third tenth of timm's, of which there are a hundred."""
    policy, how = EACH[name], {"outside": OUTSIDE, "bicubic": True} if name == "timm" else {}
    settings = list(dict.fromkeys(policy.settings(H, W)))
    settings = settings[:: 3 if name == "timm" else 1]
    chosen = np.repeat(np.arange(len(settings), dtype=np.int32), 6)
    given = np.tile(images(), (len(settings), 1, 1, 1))
    ours = np.asarray(jax.jit(lambda images: apply(images, settings, chosen, **how))(given)).astype(int)
    for position, found in zip(chosen[::6], ours.reshape(-1, 6, H, W, 3), strict=True):
        kind, amount = settings[position]
        theirs = np.stack([pillow(kind, amount, image, **how) for image in images()]).astype(int)
        if kind in ROUNDED or (kind in MOVING and name == "timm"):
            assert np.abs(found - theirs).max() <= 1, (kind, amount)
            assert (found != theirs).mean() < 1 / 6 + 0.02, (kind, amount)  # perhaps all of the image of one colour
        else:
            np.testing.assert_array_equal(found, theirs, err_msg=f"{kind} {amount}")


def test_the_strengths_of_trivial_augment_are_the_papers_wide_ones():
    policy = EACH["trivial"]
    found = {name: np.array(amounts(policy, name)).reshape(31, 2).T for name in OPERATIONS}
    ends = {"rotate": 135, "shear_x": 0.99, "shear_y": 0.99, "translate_x": 32, "translate_y": 32}
    for name, end in ends.items():
        steps = np.linspace(0, end, 31)
        steps = np.trunc(steps + 1e-9) if "translate" in name else steps
        np.testing.assert_allclose(found[name], [steps, -steps], rtol=1e-12)
    for name in ENHANCING:
        np.testing.assert_allclose(found[name], [np.linspace(1, 1.99, 31), np.linspace(1, 0.01, 31)], rtol=1e-12)
    np.testing.assert_allclose(found["solarize"][0], np.linspace(255, 0, 31), atol=1e-12)
    assert sorted(set(found["posterize"].ravel())) == [2, 3, 4, 5, 6, 7, 8]
    assert {name for name, _ in policy.settings(H, W)} == set(OPERATIONS)


def test_the_pairs_of_auto_augment_are_the_published_ones():
    published = json.loads((pathlib.Path(__file__).parents[1] / "goldens" / "autoaugment.json").read_text())
    for name, pairs in POLICIES.items():
        told = [
            ", ".join(
                f"{operation.title().replace('_', '')} {prob:.1f} "
                f"{'-' if operation in ('invert', 'equalize', 'auto_contrast') else magnitude}"
                for operation, prob, magnitude in pair
            )
            for pair in pairs
        ]
        assert told == published[name]


def test_the_strengths_of_auto_augment_are_those_of_its_paper():
    """Its table 6: up to 30°, 0.3, 150 of 331 pixels, 0.1 to 1.9, 4 bits; the magnitudes here are 0 to 9."""
    settings = EACH["cifar10"].settings(H, W)
    of = {
        (name, magnitude): settings[4 * row + 2 * place][1]
        for row, pair in enumerate(POLICIES["cifar10"])
        for place, (name, _, magnitude) in enumerate(pair)
    }
    assert of["translate_y", 9] == int(150 / 331 * H) == 12
    assert of["translate_x", 8] == int(150 / 331 * W * 8 / 9)
    assert of["rotate", 2] == pytest.approx(30 * 2 / 9)
    assert of["shear_y", 8] == pytest.approx(0.3 * 8 / 9)
    assert of["sharpness", 9] == pytest.approx(1.9)
    assert of["color", 0] == 1
    assert of["posterize", 7] == 5
    assert of["solarize", 3] == pytest.approx(255 * 6 / 9)
    backward = {name: settings[4 * row + 1][1] for row, ((name, *_), _) in enumerate(POLICIES["cifar10"])}
    assert backward["rotate"] == pytest.approx(-30 * 2 / 9)
    assert backward["translate_y"] == -12


def test_values_are_inverted_from_the_strength_on():
    """255 · (1 − 3/9) is a little above 170 in floating point, where Pillow, given 170, inverts 170 as well."""
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    settings = EACH["cifar10"].settings(H, W)
    setting = next(one for one in settings if one[0] == "solarize" and 170 <= one[1] < 171)
    found = np.asarray(apply(values, [setting], np.zeros(1, np.int32))).ravel()
    np.testing.assert_array_equal(found, np.where(np.arange(256) < 170, np.arange(256), 255 - np.arange(256)))


def test_the_strengths_of_timm():
    """timm's functions from a level to an argument, those with "increasing" in their names, at 9 and at 10 of 10."""
    found = {name: np.array(amounts(TIMM, name)).reshape(101, 2)[[90, 100], 0].tolist() for name in TIMM.names}
    assert found == {
        "auto_contrast": [0, 0], "equalize": [0, 0], "invert": [0, 0],
        "rotate": pytest.approx([27, 30]), "posterize": [1, 0], "solarize": [26, 0], "solarize_add": [99, 110],
        "color": pytest.approx([1.81, 1.9]), "contrast": pytest.approx([1.81, 1.9]),
        "brightness": pytest.approx([1.81, 1.9]), "sharpness": pytest.approx([1.81, 1.9]),
        "shear_x": pytest.approx([0.27, 0.3]), "shear_y": pytest.approx([0.27, 0.3]),
        "translate_x": pytest.approx([0.405 * W, 0.45 * W]), "translate_y": pytest.approx([0.405 * H, 0.45 * H]),
    }  # fmt: skip


def test_trivial_augment_draws_operations_strengths_and_directions_evenly():
    (names,), (strengths,) = drawn(EACH["trivial"])
    for name in OPERATIONS:
        assert_frequent(names == name, 1 / 14)
    turned = strengths[names == "rotate"]
    for magnitude in range(1, 31):
        assert_frequent(np.abs(turned - magnitude * 4.5) < 1e-6, 1 / 62)
    assert_frequent(turned < 0, 30 / 62)


@pytest.mark.parametrize("name", POLICIES)
def test_auto_augment_draws_pairs_evenly_and_applies_operations_with_their_probabilities(name):
    numbers = np.asarray(EACH[name].draw(jax.random.key(1), DRAWS))
    assert numbers.shape == (2, DRAWS)
    for row, pair in enumerate(POLICIES[name]):
        for place, (_, prob, _) in enumerate(pair):
            for backward in (0, 1):
                assert_frequent(numbers[place] == 4 * row + 2 * place + backward, prob / 50)
    both = [prob_of_one * prob_of_other for (_, prob_of_one, _), (_, prob_of_other, _) in POLICIES[name]]
    assert_frequent((numbers < 100).all(0), np.mean(both))
    applied = (numbers < 100).all(0)
    assert (numbers[0, applied] // 4 == numbers[1, applied] // 4).all()  # one pair for an image


def test_timm_draws_operations_evenly_and_strengths_around_the_mean():
    names, strengths = drawn(TIMM)
    assert_frequent(names == "identity", 0.5)
    for name in TIMM.names:
        assert_frequent(names == name, 0.5 / 15)
    level = np.abs(strengths[names == "rotate"]) / 3
    assert_frequent(strengths[names == "rotate"] < 0, 0.5)
    assert abs(level.mean() - 9) < 0.06  # what is cut off at 10 takes 0.004 away
    assert abs(level.std() - 0.5) < 0.05
    assert level.max() <= 10
    certain, _ = drawn(data.TimmRandAugment(operations=3, prob=1.0, deviation=0.0))
    assert certain.shape == (3, DRAWS)
    assert "identity" not in certain


@pytest.mark.parametrize("name", EACH)
def test_a_view_is_what_was_drawn(name):
    policy, given, key = EACH[name], np.concatenate([images()] * 3), jax.random.key(2)
    how = {"outside": OUTSIDE, "bicubic": True} if name == "timm" else {}
    found = jax.jit(policy, compiler_options=QUICK)(key, given)
    one = jax.jit(lambda images, chosen: apply(images, policy.settings(H, W), chosen, **how), compiler_options=QUICK)
    assert found.dtype == np.uint8
    wanted = given
    for chosen in policy.draw(key, len(given)):
        wanted = one(wanted, chosen)
    np.testing.assert_array_equal(found, wanted)
    assert (np.asarray(found) != given).any()


def test_the_key_decides_everything_also_when_mapped():
    given, keys = np.stack([images()] * 2), jax.random.split(jax.random.key(0), 2)
    alone, mapped = (jax.jit(policy, compiler_options=QUICK) for policy in (EACH["trivial"], jax.vmap(EACH["trivial"])))
    separately = np.stack([alone(key, batch) for key, batch in zip(keys, given, strict=True)])
    np.testing.assert_array_equal(mapped(keys, given), separately)
    assert (separately[0] != separately[1]).any()


def test_policies_by_name():
    assert data.policy("trivial") == data.TrivialAugment()
    assert data.policy("auto-imagenet") == data.AutoAugment("imagenet")
    assert data.policy("rand") == data.RandAugment(2, 9)
    assert data.policy("rand-m9-n2-mstd0.5-inc1") == data.TimmRandAugment(2, 9, 0.5, 0.5)
    assert data.policy("rand-n3-p0.3-inc1") == data.TimmRandAugment(3, 10, 0, 0.3)
    assert hash(data.policy("rand-m9-mstd0.5-inc1")) == hash(data.TimmRandAugment())


@pytest.mark.parametrize(
    "name", ["auto", "rand-m9", "rand-m9-inc0", "rand-w0-inc1", "rand-m9-m8-inc1", "rand-n2.5-inc1"]
)
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=f"no augmentation is called '{name}'; there are trivial, auto-cifar10"):
        data.policy(name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.AutoAugment("cifar100"), "policy='cifar100': choose one of cifar10, imagenet"),
        (lambda: data.TimmRandAugment(magnitude=11), "magnitude=11: choose one from 0 to 10"),
        (lambda: data.TimmRandAugment(deviation=-1), "deviation=-1"),
        (lambda: data.TimmRandAugment(prob=2), "prob=2: a probability"),
        (lambda: data.TimmRandAugment(operations=0), "operations=0"),
        (lambda: data.TimmRandAugment()(jax.random.key(0), images()), "give TimmRandAugment.*normalization=train"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_normalised_images_are_refused():
    with pytest.raises(TypeError, match="TrivialAugment changes uint8 pixels; these are float32"):
        data.TrivialAugment()(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
