"""The two views of an ImageNet image, by torchvision's definitions: a random one to train on, the middle to evaluate.

A view is any callable that takes a Pillow image in mode RGB and gives uint8 pixels `[H, W, 3]`, of one size for all
images; a random one takes a `numpy.random.Generator` as well, which alone decides the outcome. Views travel to the
processes that decode, so they must be picklable: a frozen dataclass is.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxkd.data.pipeline.decode import BrokenImageError

if TYPE_CHECKING:
    from PIL import Image

_ATTEMPTS = 10
_LARGEST = 2**26


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Take a random part of the image, resize it to a square, and mirror half of them (Szegedy et al., CVPR 2015).

    Part and shape are drawn as torchvision's `RandomResizedCrop` draws them: a share of the area, evenly, and an aspect
    ratio, evenly on a logarithmic scale; ten such boxes are tried, and if none fits into the image, the middle of it is
    taken. Resizing is bilinear, with antialiasing.

    Attributes:
      size: height and width of the result.
      scale: the least and the greatest share of the image's area.
      ratio: the least and the greatest width over height.
      flip: whether to mirror left and right with probability ½.

    Raises:
      ValueError: a size below 1, or limits that are not positive, or in the wrong order.

    Example:
      >>> from PIL import Image
      >>> RandomResizedCrop(32)(Image.new("RGB", (80, 60)), np.random.default_rng(0)).shape
      (32, 32, 3)
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __post_init__(self) -> None:
        _check_size("size", self.size)
        check_limits(self)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """Return a random view: `[size, size, 3]` uint8."""
        view = _resized(image.crop(self.box(image.width, image.height, rng)), self.size, self.size)
        return view[:, ::-1] if self.flip and rng.random() < 0.5 else view

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw the part of an image that is taken: left, top, right and bottom edge."""
        for _ in range(_ATTEMPTS):
            area = width * height * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < wide <= width and 0 < high <= height:
                left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
                return left, top, left + wide, top + high
        return centre_box(width, height, self.ratio)


def centre_box(width: int, height: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return the largest part in the middle of an image whose width over height is within limits.

    Example:
      >>> centre_box(100, 30, (3 / 4, 4 / 3))
      (30, 0, 70, 30)
    """
    least, greatest = ratio
    aspect = min(max(width / height, least), greatest)
    wide = width if width / height <= greatest else round(height * aspect)
    high = height if width / height >= least else round(width / aspect)
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


@dataclasses.dataclass(frozen=True)
class ResizedCentreCrop:
    """Resize the shorter side and take the middle of the image: torchvision's `Resize` and `CenterCrop`.

    Resizing is bilinear, with antialiasing; the longer side is rounded down. Images of `size` already are resized and
    cropped as well, which published results need; `ResizedCentreCrop(size, size)` leaves their pixels as they are.

    Attributes:
      resize: what the shorter side becomes.
      size: height and width of the result, at most `resize`.

    Raises:
      ValueError: a size below 1, or one above `resize`.

    Example:
      >>> from PIL import Image
      >>> ResizedCentreCrop(resize=36, size=32)(Image.new("RGB", (80, 60))).shape
      (32, 32, 3)
    """

    resize: int = 256
    size: int = 224

    def __post_init__(self) -> None:
        _check_size("resize", self.resize)
        _check_size("size", self.size)
        if self.size > self.resize:
            raise ValueError(f"size={self.size} is more than resize={self.resize} leaves: choose a larger resize")

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return the view: `[size, size, 3]` uint8."""
        shorter, longer = sorted(image.size)
        longer = self.resize * longer // shorter
        width, height = (self.resize, longer) if image.width <= image.height else (longer, self.resize)
        if width * height > _LARGEST:
            raise BrokenImageError(f"{image.width}×{image.height} pixels would have to become {width}×{height}")
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return _resized(image, width, height)[top : top + self.size, left : left + self.size]


def _resized(image: Image.Image, width: int, height: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def check_limits(of: Any) -> None:
    """Refuse limits of `scale` (shares of an area) or `ratio` that are none, and keep both as numbers of one kind."""
    for name in ("scale", "ratio"):
        low, high = getattr(of, name)
        if not 0 < low <= high or not math.isfinite(high):
            raise ValueError(f"{name}={(low, high)}: give the least and the greatest, both above 0, in this order")
        object.__setattr__(of, name, (float(low), float(high)))
    if of.scale[1] > 1:
        raise ValueError(f"scale={of.scale}: no part of an image is larger than 1, the whole of it")


def _check_size(name: str, size: int) -> None:
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"{name}={size!r}: a whole number of pixels, at least 1")
