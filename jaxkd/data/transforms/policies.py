"""Policies of augmentation: RandAugment, also timm's, TrivialAugment and AutoAugment, made on the device.

A policy says which operations there are, each at which strengths (`settings`), and draws some for every image (`draw`).
"""

from __future__ import annotations

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.data.transforms.operations import Setting, apply
from jaxkd.types import Normalization

OPERATIONS = (
    *("identity", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
    *("posterize", "solarize", "auto_contrast", "equalize"),
    *("brightness", "contrast", "color", "sharpness"),
)
"""The operations of RandAugment and TrivialAugment by number."""

STRONGEST = 30
"""The largest magnitude of RandAugment and TrivialAugment, as torchvision counts them."""

_LEARNED = 9  # the largest magnitude in the policies of AutoAugment
_TENTHS = 100  # timm's largest magnitude is 10


class Ranges(NamedTuple):
    """What operations do at the largest magnitude; smaller ones are in proportion.

    Attributes:
      degrees: of rotations.
      lean: of shears.
      right: pixels of horizontal translations.
      down: pixels of vertical ones.
      bits: lost by `posterize`.
      change: of brightness, contrast, colour and sharpness.
    """

    degrees: float
    lean: float
    right: float
    down: float
    bits: int
    change: float

    def setting(self, name: str, strength: float, sign: float, whole_pixels: bool = False) -> Setting:
        """Return an operation at a strength from 0 to 1, forward (1) or backward (-1)."""
        right, down = sign * self.right * strength, sign * self.down * strength
        amounts = {
            "rotate": sign * self.degrees * strength,
            "shear_x": sign * self.lean * strength,
            "shear_y": sign * self.lean * strength,
            "translate_x": math.trunc(right) if whole_pixels else right,
            "translate_y": math.trunc(down) if whole_pixels else down,
            "posterize": 8 - round(self.bits * strength),
            "solarize": round(255 * (1 - strength), 6),  # 170, of which floating point makes a little more
            **dict.fromkeys(("brightness", "contrast", "color", "sharpness"), 1 + sign * self.change * strength),
        }
        return Setting(name, amounts.get(name, 0.0))


def _usual(height: int, width: int) -> Ranges:
    """Return the ranges of AutoAugment's paper, in which 150 pixels of 331 are moved."""
    return Ranges(30.0, 0.3, 150 / 331 * width, 150 / 331 * height, 4, 0.9)


class Policy(ABC):
    """Change each image by some randomly drawn operations, one after the other; called as `policy(key, images)`.

    Pixels from outside an image are black. Images are uint8 `[B, H, W, C]`, before they are normalised.
    """

    @abstractmethod
    def settings(self, height: int, width: int) -> Sequence[Setting]:
        """Return what can be drawn, for images of this size."""

    @abstractmethod
    def draw(self, key: jax.Array, count: int) -> jax.Array:
        """Return positions in `settings`, `[operations, count]` int32: which operations each image gets, in order."""

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Return a random view of each image: uint8 `[B, H, W, C]` in and out. The key decides everything.

        Raises:
          TypeError: for pixels that are not uint8.
        """
        images = self._checked(images)
        return self._applied(self.draw(key, len(images)), images)

    def _checked(self, images: jax.Array) -> jax.Array:
        images = jnp.asarray(images)
        if images.dtype != jnp.uint8:
            name = type(self).__name__
            raise TypeError(f"{name} changes uint8 pixels; these are {images.dtype}: augment before normalising")
        return images

    def _applied(
        self, drawn: jax.Array, images: jax.Array, outside: Sequence[int] | None = None, bicubic: bool = False
    ) -> jax.Array:
        settings = self.settings(*images.shape[1:3])

        def one(images: jax.Array, chosen: jax.Array) -> tuple[jax.Array, None]:
            return apply(images, settings, chosen, outside, bicubic), None

        return jax.lax.scan(one, images, drawn)[0]


@dataclasses.dataclass(frozen=True)
class RandAugment(Policy):
    """Apply a few randomly drawn operations to each image, all at one magnitude, in either direction.

    As torchvision has RandAugment (Cubuk et al., NeurIPS 2020): an operation is drawn from `OPERATIONS`, with equal
    chances and independently for each image. At the largest magnitude, 30, images turn by 30°, lean by 0.3, move by
    0.45 of their size, keep 4 bits, are solarised altogether, and change in brightness, contrast, colour or sharpness
    by 90 percent; smaller ones are in proportion. Pixels from outside the image are 0. Without three channels there is
    no colour to change.

    Attributes:
      operations: how many are applied to an image, one after another.
      magnitude: their strength, 0 to 30.

    Raises:
      ValueError: for fewer than one operation or another magnitude.

    Example:
      >>> import jax, numpy as np
      >>> strong_view = RandAugment(operations=2, magnitude=9)
      >>> strong_view(jax.random.key(0), np.zeros((2, 32, 32, 3), np.uint8)).shape
      (2, 32, 32, 3)
    """

    operations: int = 2
    magnitude: float = 9

    def __post_init__(self) -> None:
        _check_operations(self.operations)
        if not 0 <= self.magnitude <= STRONGEST:
            raise ValueError(f"magnitude={self.magnitude!r}: choose one from 0 to {STRONGEST}")

    def settings(self, height: int, width: int) -> tuple[Setting, ...]:
        """Return all `OPERATIONS` forward, then all of them backward."""
        ranges, strength = _usual(height, width), self.magnitude / STRONGEST
        return tuple(
            ranges.setting(name, strength, sign, whole_pixels=True) for sign in (1.0, -1.0) for name in OPERATIONS
        )

    def draw(self, key: jax.Array, count: int) -> jax.Array:
        """Return `[operations, count]` int32 positions in `settings`, all equally likely."""

        def one(step: jax.Array) -> jax.Array:
            which, direction = jax.random.split(step)
            number = jax.random.randint(which, (count,), 0, len(OPERATIONS), jnp.int32)
            return self._position(number, jax.random.bernoulli(direction, shape=(count,)))

        return jax.vmap(one)(jax.random.split(key, self.operations))

    def apply(self, images: jax.Array, number: jax.Array, backward: jax.Array) -> jax.Array:
        """Apply one operation to each image.

        Args:
          images: `[B, H, W, C]` uint8.
          number: `[B]` int32 positions in `OPERATIONS`.
          backward: `[B]` boolean; whether to turn, lean and move the other way, or to weaken instead of strengthen.

        Raises:
          TypeError: for pixels that are not uint8.
        """
        return self._applied(self._position(number, backward)[None], self._checked(images))

    def _position(self, number: jax.Array, backward: jax.Array) -> jax.Array:
        return number + len(OPERATIONS) * backward.astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class TrivialAugment(Policy):
    """Apply one randomly drawn operation to each image, at a magnitude drawn for it: TrivialAugment (wide).

    By Müller and Hutter (ICCV 2021), with their wide ranges, as torchvision has them: one of `OPERATIONS`, one of 31
    magnitudes and a direction, all equally likely. At the largest magnitude images turn by 135°, lean by 0.99, move by
    32 pixels, keep 2 bits, are solarised altogether, and change in brightness, contrast, colour or sharpness by 99
    percent.

    Example:
      >>> import jax, numpy as np
      >>> TrivialAugment()(jax.random.key(0), np.zeros((2, 32, 32, 3), np.uint8)).shape
      (2, 32, 32, 3)
    """

    def settings(self, height: int, width: int) -> tuple[Setting, ...]:
        """Return each of `OPERATIONS` at magnitudes 0 to 30, each forward and backward."""
        ranges = Ranges(135.0, 0.99, 32.0, 32.0, 6, 0.99)
        return tuple(
            ranges.setting(name, magnitude / STRONGEST, sign, whole_pixels=True)
            for name in OPERATIONS
            for magnitude in range(STRONGEST + 1)
            for sign in (1.0, -1.0)
        )

    def draw(self, key: jax.Array, count: int) -> jax.Array:
        """Return `[1, count]` int32 positions in `settings`, all equally likely."""
        return jax.random.randint(key, (1, count), 0, len(OPERATIONS) * (STRONGEST + 1) * 2, jnp.int32)


@dataclasses.dataclass(frozen=True)
class AutoAugment(Policy):
    """Apply one of 25 learned pairs of operations to each image (Cubuk et al., CVPR 2019).

    The pair is drawn for each image; each of its operations has a probability of its own, a magnitude from 0 to 9, and
    a direction that is drawn. Magnitudes are read as torchvision does: at 9, images turn by 30°, lean by 0.3, move by
    0.45 of their size in whole pixels, keep 4 bits, are solarised altogether, and change in brightness, contrast,
    colour or sharpness by 90 percent; 0 changes nothing.

    Attributes:
      policy: "cifar10", also for CIFAR-100, or "imagenet"; the data on which the pairs were learned.

    Raises:
      ValueError: for another policy.

    Example:
      >>> import jax, numpy as np
      >>> AutoAugment("cifar10")(jax.random.key(0), np.zeros((2, 32, 32, 3), np.uint8)).shape
      (2, 32, 32, 3)
    """

    policy: str = "cifar10"

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"policy={self.policy!r}: choose one of {', '.join(POLICIES)}")

    def settings(self, height: int, width: int) -> tuple[Setting, ...]:
        """Return the operations of all pairs, each forward and backward, and last one that changes nothing."""
        ranges = _usual(height, width)
        learned = (
            ranges.setting(name, magnitude / _LEARNED, sign, whole_pixels=True)
            for pair in POLICIES[self.policy]
            for name, _, magnitude in pair
            for sign in (1.0, -1.0)
        )
        return (*learned, Setting("identity"))

    def draw(self, key: jax.Array, count: int) -> jax.Array:
        """Return `[2, count]` int32 positions in `settings`."""
        pairs = POLICIES[self.policy]
        even = jax.random.uniform(key, (5, count), jnp.float32)  # at once, since each draw is compiled
        pair = jnp.floor(len(pairs) * even[0]).astype(jnp.int32)
        chances = jnp.asarray([[prob for _, prob, _ in pair] for pair in pairs], jnp.float32)[pair].T
        applied, backward = even[1:3] < chances, (even[3:5] < 0.5).astype(jnp.int32)
        position = 4 * pair[None] + jnp.asarray([[0], [2]], jnp.int32) + backward
        return jnp.where(applied, position, 4 * len(pairs))


@dataclasses.dataclass(frozen=True)
class TimmRandAugment(Policy):
    """Apply timm's RandAugment with increasing severity, with which DeiT was trained: `rand-m9-mstd0.5-inc1`.

    A few times each image draws one of 15 operations (`TimmRandAugment.names`), which is applied with a probability,
    at a magnitude from a normal distribution, cut off at 0 and 10 and here rounded to tenths. At 10, images turn by
    30°, lean by 0.3, move by 0.45 of their size, lose all bits, are solarised altogether or have 110 added to dark
    values, and change in brightness, contrast, colour or sharpness by 90 percent. Images that move are interpolated
    with a cubic, and pixels from outside have the mean colour.

    Attributes:
      operations: how many are drawn for an image, one after another.
      magnitude: the mean strength, 0 to 10.
      deviation: standard deviation of the strength.
      prob: with which each operation is applied.
      normalization: whose mean is the colour outside; None takes that with which training normalises the images.

    Raises:
      ValueError: for numbers out of range.

    Example:
      >>> import jax, numpy as np
      >>> from jaxkd import Normalization
      >>> augment = TimmRandAugment(normalization=Normalization((0.5,), (0.25,)))
      >>> augment(jax.random.key(0), np.zeros((2, 32, 32, 1), np.uint8)).shape
      (2, 32, 32, 1)
    """

    operations: int = 2
    magnitude: float = 9
    deviation: float = 0.5
    prob: float = 0.5
    normalization: Normalization | None = None

    names = (
        *("auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add"),
        *("color", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
    )

    def __post_init__(self) -> None:
        _check_operations(self.operations)
        if not 0 <= self.magnitude <= 10:
            raise ValueError(f"magnitude={self.magnitude!r}: choose one from 0 to 10")
        if not 0 <= self.deviation <= 100:
            raise ValueError(f"deviation={self.deviation!r}: choose one from 0 to 100")
        check_prob(self.prob)

    def settings(self, height: int, width: int) -> tuple[Setting, ...]:
        """Return each of `names` at each tenth, each forward and backward, and last one that changes nothing."""
        ranges = Ranges(30.0, 0.3, 0.45 * width, 0.45 * height, 4, 0.9)

        def setting(name: str, strength: float, sign: float) -> Setting:
            rounded_down = {
                "posterize": 4 - int(4 * strength),
                "solarize": 256 - int(256 * strength),
                "solarize_add": int(110 * strength),
            }
            return Setting(name, rounded_down[name]) if name in rounded_down else ranges.setting(name, strength, sign)

        drawn = (
            setting(name, tenth / _TENTHS, sign)
            for name in self.names
            for tenth in range(_TENTHS + 1)
            for sign in (1.0, -1.0)
        )
        return (*drawn, Setting("identity"))

    def draw(self, key: jax.Array, count: int) -> jax.Array:
        """Return `[operations, count]` int32 positions in `settings`."""
        which, how_much = jax.random.split(key)
        shape = (self.operations, count)
        even = jax.random.uniform(which, (3, *shape), jnp.float32)
        number = jnp.floor(len(self.names) * even[0]).astype(jnp.int32)
        magnitude = self.magnitude + self.deviation * jax.random.normal(how_much, shape, jnp.float32)
        tenth = jnp.rint(10 * jnp.clip(magnitude, 0, 10)).astype(jnp.int32)
        position = (number * (_TENTHS + 1) + tenth) * 2 + (even[1] < 0.5).astype(jnp.int32)
        return jnp.where(even[2] < self.prob, position, len(self.names) * (_TENTHS + 1) * 2)

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Return a random view of each image: uint8 `[B, H, W, C]` in and out. The key decides everything.

        Raises:
          TypeError: for pixels that are not uint8.
          ValueError: without a normalization.
        """
        images = self._checked(images)
        colour = [round(255 * mean) for mean in known(self.normalization, self).mean]
        return self._applied(self.draw(key, len(images)), images, colour, bicubic=True)


def known(normalization: Normalization | None, whose: object) -> Normalization:
    """Return the statistics of the images, if they are known.

    Raises:
      ValueError: otherwise.
    """
    if normalization is None:
        name = type(whose).__name__
        raise ValueError(
            f"{name} fills in what images have on average: give {name}(…, normalization=train.normalization)"
        )
    return normalization


def check_prob(prob: float) -> None:
    """Refuse what is no probability.

    Raises:
      ValueError: it names the number.
    """
    if not 0 <= prob <= 1:
        raise ValueError(f"prob={prob!r}: a probability is from 0 to 1")


def _check_operations(operations: int) -> None:
    if isinstance(operations, bool) or not isinstance(operations, int) or operations < 1:
        raise ValueError(f"operations={operations!r}: a whole number, at least 1")


def policy(name: str) -> Policy:
    """Return a policy by its name.

    Args:
      name: "trivial", "auto-cifar10", "auto-imagenet", "rand", which is torchvision's with 2 operations at magnitude 9
        of 30, or a name of timm's with `inc1`, as in "rand-m9-n2-mstd0.5-inc1": magnitude 9 of 10, 2 operations, which
        may be left out, a standard deviation of 0.5, and perhaps the probability of each operation, as `p0.5`.

    Raises:
      ValueError: for another name.

    Example:
      >>> policy("rand-m7-mstd0.5-inc1")
      TimmRandAugment(operations=2, magnitude=7.0, deviation=0.5, prob=0.5, normalization=None)
    """
    if name in _NAMED:
        return _NAMED[name]
    parts = [_PART.fullmatch(part) for part in name.split("-")[1:]]
    found = {part["letters"]: part["number"] for part in parts if part}
    whole = all(parts) and len(found) == len(parts) and "." not in found.get("n", "")
    if not (name.startswith("rand-") and whole and found.get("inc") == "1"):
        raise ValueError(
            f"no augmentation is called {name!r}; there are {', '.join(_NAMED)}, and names of timm's RandAugment with "
            "inc1, as in rand-m9-n2-mstd0.5-inc1"
        )
    numbers = {"m": "10", "mstd": "0", "p": "0.5"} | found
    magnitude, deviation, prob = (float(numbers[letters]) for letters in ("m", "mstd", "p"))
    return TimmRandAugment(int(found.get("n", 2)), magnitude, deviation, prob)


_PART = re.compile(r"(?P<letters>mstd|m|p|inc|n)(?P<number>\d+(?:\.\d+)?)")

Operation = tuple[str, float, int]
POLICIES: dict[str, tuple[tuple[Operation, Operation], ...]] = {
    "cifar10": (
        (("invert", 0.1, 0), ("contrast", 0.2, 6)),
        (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
        (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
        (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
        (("auto_contrast", 0.5, 0), ("equalize", 0.9, 0)),
        (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
        (("color", 0.4, 3), ("brightness", 0.6, 7)),
        (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
        (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
        (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
        (("color", 0.7, 7), ("translate_x", 0.5, 8)),
        (("equalize", 0.3, 0), ("auto_contrast", 0.4, 0)),
        (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
        (("brightness", 0.9, 6), ("color", 0.2, 8)),
        (("solarize", 0.5, 2), ("invert", 0.0, 0)),
        (("equalize", 0.2, 0), ("auto_contrast", 0.6, 0)),
        (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
        (("color", 0.9, 9), ("equalize", 0.6, 0)),
        (("auto_contrast", 0.8, 0), ("solarize", 0.2, 8)),
        (("brightness", 0.1, 3), ("color", 0.7, 0)),
        (("solarize", 0.4, 5), ("auto_contrast", 0.9, 0)),
        (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
        (("auto_contrast", 0.9, 0), ("solarize", 0.8, 3)),
        (("equalize", 0.8, 0), ("invert", 0.1, 0)),
        (("translate_y", 0.7, 9), ("auto_contrast", 0.9, 0)),
    ),
    "imagenet": (
        (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
        (("solarize", 0.6, 5), ("auto_contrast", 0.6, 0)),
        (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
        (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
        (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
        (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
        (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
        (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
        (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
        (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
        (("rotate", 0.8, 8), ("color", 0.4, 0)),
        (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
        (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
        (("invert", 0.6, 0), ("equalize", 1.0, 0)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("rotate", 0.8, 8), ("color", 1.0, 2)),
        (("color", 0.8, 8), ("solarize", 0.8, 7)),
        (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
        (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
        (("color", 0.4, 0), ("equalize", 0.6, 0)),
        (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
        (("solarize", 0.6, 5), ("auto_contrast", 0.6, 0)),
        (("invert", 0.6, 0), ("equalize", 1.0, 0)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    ),
}
"""The pairs of AutoAugment: an operation, its probability, and its magnitude from 0 to 9, where it has one."""

_NAMED: dict[str, Policy] = {
    "trivial": TrivialAugment(),
    "auto-cifar10": AutoAugment("cifar10"),
    "auto-imagenet": AutoAugment("imagenet"),
    "rand": RandAugment(),
}
