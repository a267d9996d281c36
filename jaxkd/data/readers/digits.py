"""Read the embedded handwritten digits: real images without a download.

1797 images of 8×8 in 16 grey levels: the test half of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
Digits", UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0, which scikit-learn hands out
as `load_digits`. `digits.npz` holds `images` (0…16), `labels`, and `test`, the mask of the 360 images that were drawn
once, evenly from each class, as the test set: everybody has the same split.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from jaxkd.data.dataset import Dataset, from_arrays
from jaxkd.data.transforms.pad_crop_flip import Augmentation


def places(name: str, data_dir: Path) -> list[str]:
    """List nothing: the images come with the package."""
    return []


def read(name: str, data_dir: Path, splits: Sequence[str]) -> dict[str, Dataset]:
    """Read the wanted splits: 1437 training or 360 test images `[8, 8, 3]`, black to white, all channels the same.

    Both are normalised with the training pixels' mean and standard deviation. Training shifts images by up to one pixel
    and never mirrors them.
    """
    with resources.files("jaxkd.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        grey, labels, test = arrays["images"], arrays["labels"], arrays["test"]
    pixels = np.rint(grey / 16.0 * 255.0).astype(np.uint8)[..., None].repeat(3, axis=-1)
    normalization = from_arrays(pixels[~test], labels[~test]).normalization
    names = tuple("0123456789")
    parts = {"train": (~test, Augmentation(pad=1, flip=False)), "test": (test, None)}
    return {
        split: Dataset(pixels[part], labels[part], names, normalization, augmentation, name)
        for split, (part, augmentation) in parts.items()
        if split in splits
    }
