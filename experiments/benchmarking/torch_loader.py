"""CIFAR images through a DataLoader: each one read, cropped, mirrored and normalised by itself, with PIL."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarking.work import RECIPE, UnavailableError

try:
    from PIL import Image, ImageOps
except ImportError:
    Image = ImageOps = None  # type: ignore[assignment]


class PicturesOneByOne(Dataset):
    """Images as network inputs `[3, H, W]` with their labels.

    Args:
      images: `[N, H, W, 3]` uint8.
      labels: `[N]`.
      augment: pads, crops at random and mirrors half of the images.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, augment: bool):
        self.images, self.labels, self.augment = images, labels, augment
        self.mean, self.std = (torch.tensor(values).reshape(3, 1, 1) for values in (RECIPE.mean, RECIPE.std))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        picture = Image.fromarray(self.images[position])
        if self.augment:
            picture = random_view(picture)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        return (pixels.float().div(255) - self.mean) / self.std, int(self.labels[position])


def random_view(picture: Any) -> Any:
    """A crop of the picture with a border of black pixels, mirrored every second time."""
    width, height = picture.size
    left, top = torch.randint(0, 2 * RECIPE.pad + 1, (2,)).tolist()
    crop = ImageOps.expand(picture, RECIPE.pad).crop((left, top, left + width, top + height))
    return ImageOps.mirror(crop) if torch.rand(1).item() < 0.5 else crop


def loader(
    images: np.ndarray, labels: np.ndarray, batch_size: int, *, train: bool, workers: int, pinned: bool
) -> DataLoader:
    """Batches for an epoch, the last smaller one included.

    Workers stay from one epoch to the next, so that starting them is no part of what is measured.

    Raises:
      UnavailableError: without pillow.
    """
    if Image is None:
        raise UnavailableError("pillow is not installed")
    return DataLoader(
        PicturesOneByOne(images, labels, augment=train),
        batch_size,
        shuffle=train,
        num_workers=workers,
        pin_memory=pinned,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers > 0 else None,  # a fork could inherit a lock held by JAX's threads
    )
