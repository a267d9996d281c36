"""Files of every mode become RGB pixels, and damaged ones are told apart from mistakes."""

import io

import numpy as np
import pytest
from image_tree import DAMAGES, KINDS, encoded, picture
from PIL import Image, ImageOps

from jaxkd.data.pipeline.decode import BrokenImageError, decode

PICTURE = picture(np.random.default_rng(0), 40, 30, 0.1)
PIXELS = np.asarray(PICTURE)


def pixels_of(stored):
    decoded = decode(stored)
    assert decoded.mode == "RGB"
    return np.asarray(decoded)


@pytest.mark.parametrize("kind", ["png", "png-called-jpeg", "transparent", "webp", "bmp"])
def test_lossless_files_give_their_pixels(kind):
    np.testing.assert_array_equal(pixels_of(KINDS[kind][1](PICTURE)), PIXELS)


@pytest.mark.parametrize("kind", ["jpeg", "cmyk", "progressive"])
def test_lossy_files_give_nearly_their_pixels(kind):
    assert np.abs(pixels_of(KINDS[kind][1](PICTURE)).astype(int) - PIXELS).mean() < 6


@pytest.mark.parametrize("kind", ["jpeg", "grey", "cmyk", "turned", "progressive", "palette", "bilevel"])
def test_other_modes_are_converted_as_pillow_does(kind):
    content = KINDS[kind][1](PICTURE)
    np.testing.assert_array_equal(pixels_of(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def test_the_orientation_of_a_camera_is_left_alone():
    content = KINDS["turned"][1](PICTURE)
    assert Image.open(io.BytesIO(content)).getexif()[0x0112] == 6
    assert decode(content).size == PICTURE.size
    turned = ImageOps.exif_transpose(decode(content))  # as a view of one's own may do
    assert turned.size == PICTURE.size[::-1]
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(np.asarray(decode(content)), -1))


@pytest.mark.parametrize("mode", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_their_upper_eight(mode):
    grey = np.asarray(PICTURE.convert("L"))
    content = encoded(Image.fromarray(grey.astype(np.uint16) * 256 + 99), mode)
    np.testing.assert_array_equal(pixels_of(content), grey[..., None].repeat(3, -1))


def test_the_colours_of_a_transparent_palette_are_kept():
    palette = PICTURE.quantize(8)
    expected = np.asarray(palette.convert("RGB"))
    content = encoded(palette, "PNG", transparency=bytes([0, 255, 100, 0, 0, 0, 0, 0]))
    np.testing.assert_array_equal(pixels_of(content), expected)


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_arrays_are_images_too(channels):
    array = np.random.default_rng(0).integers(0, 256, (5, 7, channels or 1), dtype=np.uint8)
    expected = array[..., :3] if channels in (3, 4) else array.repeat(3, -1)
    np.testing.assert_array_equal(pixels_of(array if channels else array[..., 0]), expected)


def test_a_path_is_read(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(KINDS["png"][1](PICTURE))
    for given in (path, str(path)):
        np.testing.assert_array_equal(pixels_of(given), PIXELS)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_pillows_images_are_images_too(mode):
    if mode == "I;16":
        given = Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257)
        expected = np.asarray(PICTURE.convert("L").convert("RGB"))
    else:
        given = PICTURE.convert(mode)
        expected = np.asarray(given.convert("RGB"))
    np.testing.assert_array_equal(pixels_of(given), expected)


def test_what_hugging_face_stores_of_an_image_is_read(tmp_path):
    content = KINDS["png"][1](PICTURE)
    (tmp_path / "1.png").write_bytes(content)
    for stored in ({"bytes": content, "path": None}, {"bytes": None, "path": str(tmp_path / "1.png")}):
        np.testing.assert_array_equal(pixels_of(stored), PIXELS)


def test_a_damaged_picture_that_was_only_opened_says_why():
    with pytest.raises(BrokenImageError, match=r"[Tt]runcated"):
        decode(Image.open(io.BytesIO(damaged("truncated"))))


def damaged(damage):
    return DAMAGES[damage](KINDS["jpeg"][1](PICTURE))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: damaged("truncated"), r"OSError: .*[Tt]runcated"),
        (lambda: damaged("empty"), r"^empty$"),
        (lambda: damaged("a web page"), r"^none of JPEG, PNG, "),
        (lambda: damaged("header only"), r"\w+"),
        (lambda: KINDS["png"][1](PICTURE)[:-50], r"truncated"),
        (lambda: "/nowhere/at all.jpg", r"No such file"),
        (lambda: "/", r"Is a directory"),
        (lambda: encoded(Image.new("F", (3, 3)), "TIFF"), r"floating-point"),
        (lambda: encoded(PICTURE, "ICO"), r"^none of JPEG"),
    ],
)
def test_what_is_broken_says_why(make, said):
    with pytest.raises(BrokenImageError, match=said):
        decode(make())


def test_a_decompression_bomb_is_not_decoded(monkeypatch):
    content = encoded(Image.new("L", (1500, 1000)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_499_999)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(BrokenImageError, match=r"1500×1000 pixels are more than PIL\.Image\.MAX_IMAGE_PIXELS, 1499999"),
    ):
        decode(content)


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (np.zeros((4, 4, 3)), TypeError, r"must be uint8.*these are float64"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"\(3, 8, 8\); channels come last, so pass pixels\.transpose"),
        (np.zeros((8, 8, 2), np.uint8), ValueError, r"1, 3 or 4 channels"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, r"\(0, 8, 3\)"),
        (object(), TypeError, r"got object: convert it with numpy\.asarray"),
        (None, TypeError, r"got NoneType"),
    ],
)
def test_mistakes_are_no_broken_images(value, kind, said):
    with pytest.raises(kind, match=said):
        decode(value)
