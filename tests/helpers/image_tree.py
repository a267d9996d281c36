"""Makes a tree of images like ImageNet's: class folders, files of many sizes, modes and formats, a few broken."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SIZES = ((50, 37), (37, 50), (64, 64), (20, 90), (33, 21), (120, 80))
"""Width and height; small, so that tests are quick."""

PHOTOGRAPHS = ((500, 375), (375, 500), (500, 333), (333, 500), (500, 500), (640, 480), (1024, 768), (300, 225))
"""Width and height of ImageNet's more frequent images, the large ones less frequent than here."""


class Tree(NamedTuple):
    """What was made.

    Attributes:
      root: holds `train` and `val`.
      classes: names of the class folders, sorted.
      broken: the files that are no images any more.
    """

    root: Path
    classes: tuple[str, ...]
    broken: tuple[Path, ...]


def image_tree(
    root: Path,
    classes: int = 3,
    train: int = 4,
    val: int = 2,
    broken: int = 0,
    sizes: Sequence[tuple[int, int]] = SIZES,
    kinds: Sequence[str] | None = None,
    seed: int = 0,
) -> Tree:
    """Writes `train` and `val` images of each class; the last `broken` training images are damaged in various ways.

    Images of a class share their colour, so that a network can learn something. Classes are called n01440764 and
    onwards.
    """
    names = tuple(f"n{1440764 + label:08d}" for label in range(classes))
    kinds = tuple(KINDS) if kinds is None else kinds
    rng = np.random.default_rng(seed)
    written: list[Path] = []
    for split, count in (("val", val), ("train", train)):
        for label, name in enumerate(names):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                kind = kinds[(label + number) % len(kinds)]
                image = picture(rng, *sizes[(label * count + number) % len(sizes)], label / classes)
                suffix, encode = KINDS[kind]
                path = folder / f"{name}_{number}.{suffix}"
                path.write_bytes(encode(image))
                written.append(path)
    damaged = written[len(written) - broken :]
    for number, path in enumerate(damaged):
        damage = tuple(DAMAGES.values())[number % len(DAMAGES)]
        path.write_bytes(damage(path.read_bytes()))
    return Tree(root, names, tuple(damaged))


def picture(rng: np.random.Generator, width: int, height: int, hue: float) -> Image.Image:
    """Random detail on all scales, the coarse stronger than the fine, as in a photograph; `hue` is from 0 to 1."""
    layers = {cell: cell**0.4 for cell in (64, 32, 16, 8, 4, 2, 1)}
    pixels = np.zeros((height, width, 3), np.float32)
    for cell, weight in layers.items():
        grid = rng.integers(0, 256, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
        pixels += weight * np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))
    detail = (pixels / sum(layers.values()) - 127.5) * 1.6 + 127.5
    colour = np.asarray(Image.new("HSV", (1, 1), (int(hue * 255), 160, 200)).convert("RGB"))
    return Image.fromarray(np.clip(0.75 * detail + 0.25 * colour, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def _turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation of a camera held upright
    return encoded(image, "JPEG", exif=exif)


def _deep(image: Image.Image) -> bytes:
    return encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG")


KINDS: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "jpeg": ("JPEG", lambda image: encoded(image, "JPEG", quality=96)),  # the size of ImageNet's files
    "grey": ("jpg", lambda image: encoded(image.convert("L"), "JPEG")),
    "cmyk": ("jpeg", lambda image: encoded(image.convert("CMYK"), "JPEG")),
    "turned": ("JPEG", _turned),
    "progressive": ("JPG", lambda image: encoded(image, "JPEG", progressive=True)),
    "png": ("png", lambda image: encoded(image, "PNG")),
    "png-called-jpeg": ("JPEG", lambda image: encoded(image, "PNG")),
    "palette": ("png", lambda image: encoded(image.convert("P", palette=Image.Palette.ADAPTIVE), "PNG")),
    "transparent": ("png", lambda image: encoded(image.convert("RGBA"), "PNG")),
    "16-bit": ("png", _deep),
    "bilevel": ("tiff", lambda image: encoded(image.convert("1"), "TIFF")),
    "webp": ("webp", lambda image: encoded(image, "WEBP", lossless=True)),
    "bmp": ("bmp", lambda image: encoded(image, "BMP")),
}
"""Ways to store a picture: the file's suffix and what makes its bytes."""

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a web page": lambda content: b"<html><body>404 Not Found</body></html>",
    "header only": lambda content: content[:24],
}
"""What happens to files."""
