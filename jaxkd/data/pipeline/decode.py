"""Decode one image, however it is stored, into RGB pixels.

Pixels are taken as the file has them: an orientation in the EXIF data is not applied, and transparency is dropped. So
does torchvision's `ImageFolder`, and published networks were trained on that. A JPEG is decoded in full, too: that
Pillow can decode it smaller gains nothing for ImageNet's usual 500×375, and 1.3 to 2 times for images of 1,024 to
2,048 pixels, but changes the pixels of the view by 0.7 of 255 on average.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

StoredImage = bytes | str | os.PathLike[str] | NDArray[np.uint8] | Mapping[str, Any] | Any
"""An encoded file, the path of one, uint8 pixels `[H, W]` or `[H, W, C]` of any library, an image of Pillow's, or what
Hugging Face stores of one: a dictionary of `bytes` and `path`."""

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "WEBP", "TIFF", "GIF")
"""The formats decoded, whatever the file is called; rarer ones are refused, since some of them start other programs."""


class BrokenImageError(Exception):
    """A stored image that cannot be decoded; the message is the reason."""


def decode(image: StoredImage) -> Image.Image:
    """Return a stored image as a Pillow image in mode RGB.

    Grey, palette, CMYK and transparent images are converted; those of 16 bits keep their upper eight.

    Raises:
      BrokenImageError: the file is missing, truncated, corrupt, in no known format, or larger than Pillow's
        `Image.MAX_IMAGE_PIXELS`.
      TypeError, ValueError: something that is no stored image, such as float pixels.

    Example:
      >>> grey = decode(np.zeros((4, 6), np.uint8))
      >>> grey.mode, grey.size
      ('RGB', (6, 4))
    """
    from PIL import Image

    if isinstance(image, Mapping) and {"bytes", "path"} & image.keys():
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str | os.PathLike):
        try:
            image = Path(image).read_bytes()
        except OSError as error:
            raise BrokenImageError(error.strerror or str(error)) from None
    if isinstance(image, bytes | Image.Image):
        return _decoded(image)
    if not hasattr(image, "__array__"):
        raise TypeError(
            "an image is Pillow's, the bytes of a file, a path, or a uint8 array; got "
            f"{type(image).__name__}: convert it with numpy.asarray"
        )
    return _from_pixels(np.asarray(image))


def _decoded(stored: bytes | Image.Image) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(stored), formats=FORMATS) if isinstance(stored, bytes) else stored
        if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise BrokenImageError(
                f"{image.width}×{image.height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS, "
                f"{Image.MAX_IMAGE_PIXELS}"
            )
        image.load()
        return _rgb(image)
    except (BrokenImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        reason = f"none of {', '.join(FORMATS)}" if stored else "empty"
        raise BrokenImageError(reason) from None
    except Exception as error:  # damaged files raise nearly anything: SyntaxError, struct.error, IndexError, …
        raise BrokenImageError(f"{type(error).__name__}: {error}") from None


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow's own conversion would clip at 255
        upper = np.clip(np.asarray(image), 0, 65535) >> 8
        return Image.fromarray(upper.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BrokenImageError("its pixels are floating-point numbers of unknown range")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # looks up the colour of transparent pixels as well
    return image.convert("RGB")


def _from_pixels(pixels: NDArray[Any]) -> Image.Image:
    from PIL import Image

    if pixels.dtype != np.uint8:
        raise TypeError(
            f"pixels must be uint8, 0…255, and are normalised later, on the device; these are {pixels.dtype}: leave "
            "out what converts them, such as ToTensor and Normalize; fit also takes a DataLoader of normalised images"
        )
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if 0 in pixels.shape or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4))):
        cure = ""
        if pixels.shape[:1] in ((1,), (3,), (4,)):
            cure = "; channels come last, so pass pixels.transpose(1, 2, 0), or Pillow's image without ToTensor"
        raise ValueError(
            f"pixels must be [H, W] or [H, W, C] with 1, 3 or 4 channels; their shape is {pixels.shape}{cure}"
        )
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
