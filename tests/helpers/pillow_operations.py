"""The operations of augmentation policies as the Python Imaging Library does them, and images to do them on."""

import numpy as np
import pytest

H, W = 28, 32

ROUNDED = ("auto_contrast", "brightness", "contrast", "color", "sharpness")
"""These compute with floats there, which round a whole number down now and then."""


def images():
    """A smooth photograph-like image, a dark one, noise, one colour, black and white, a grey ramp."""
    rng = np.random.default_rng(0)
    y, x, c = np.meshgrid(np.arange(H), np.arange(W), np.arange(3), indexing="ij")
    smooth = 127 + 100 * np.sin(x / 5 + c) * np.cos(y / 7 - c) + rng.normal(0, 8, (H, W, 3))
    noise = rng.integers(0, 256, (H, W, 3))
    ramp = np.broadcast_to((8 * x[..., :1]) % 256, (H, W, 3))
    found = [smooth, smooth // 3 + 20, noise, np.full((H, W, 3), 77), np.where(noise > 128, 255, 0), ramp]
    return np.stack(found).clip(0, 255).astype(np.uint8)


def pillow(name, amount, image, outside=None, bicubic=False):
    """What Pillow makes of an image `[H, W, 3]`, with amounts as `Setting` has them."""
    pil = pytest.importorskip("PIL.Image")
    from PIL import ImageEnhance, ImageOps

    picture = pil.fromarray(image)
    how = {"resample": (pil.Resampling.BICUBIC if bicubic else pil.Resampling.NEAREST), "fillcolor": outside}

    def mapped(*coefficients):
        return picture.transform(picture.size, pil.Transform.AFFINE, coefficients, **how)

    made = {
        "identity": lambda: picture,
        "rotate": lambda: picture.rotate(amount, **how),
        "shear_x": lambda: mapped(1, amount, 0, 0, 1, 0),
        "shear_y": lambda: mapped(1, 0, 0, amount, 1, 0),
        "translate_x": lambda: mapped(1, 0, amount, 0, 1, 0),
        "translate_y": lambda: mapped(1, 0, 0, 0, 1, amount),
        "posterize": lambda: ImageOps.posterize(picture, int(amount)),
        "solarize": lambda: ImageOps.solarize(picture, amount),
        "solarize_add": lambda: picture.point([min(255, v + int(amount)) if v < 128 else v for v in range(256)] * 3),
        "invert": lambda: ImageOps.invert(picture),
        "auto_contrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(amount),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(amount),
        "color": lambda: ImageEnhance.Color(picture).enhance(amount),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(amount),
    }
    return np.asarray(made[name]())
