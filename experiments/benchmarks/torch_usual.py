"""PyTorch as the papers' users run it: eager, float32, a DataLoader that prepares each image with PIL.

Loss and accuracy are read at every step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.torch_side import Normalize, computer, device, kd_loss, networks, sgd, wait
from benchmarks.work import RECIPE, Contender, UnavailableError, Work, passes_of, timed

try:
    from PIL import Image, ImageOps
except ImportError:
    Image = ImageOps = None  # type: ignore[assignment]

EVALUATION_BATCH = 64
"""The batch size that the papers' loops evaluate with."""

TRIAL_BATCHES = 4
"""So many batches decide whether workers help."""


def usual(work: Work, workers: int) -> Contender:
    """Return training or evaluation as in the papers' code.

    Args:
      work: what to do.
      workers: processes that prepare images; on a CPU none, if that is faster.

    Raises:
      UnavailableError: images are to be prepared, and pillow is not installed.
      ValueError: for a network that is not here.
    """
    torch.backends.cudnn.benchmark = True
    facts = computer()
    if work.kind != "step":
        if device().type == "cpu" and workers:
            facts["seconds_with_workers_when_tried"] = tried = tried_workers(work, workers)
            workers = min(tried, key=tried.__getitem__)
        facts["workers"] = workers
    return Contender(timed(usual_loop(work, workers)), "float32", passes_of(work), facts)


def tried_workers(work: Work, workers: int) -> dict[int, float]:
    """Return the seconds of some batches without and with workers, which on few cores can slow what they work for."""
    count = TRIAL_BATCHES * work.batch_size
    part = dataclasses.replace(work, images=work.images[:count], labels=work.labels[:count])
    tried = {}
    for some in (0, workers):
        run = timed(usual_loop(part, some))
        run()
        tried[some] = run()
    return tried


def usual_loop(work: Work, workers: int) -> Callable[[], None]:
    """Return a function that trains on all images once, or counts the teacher's right answers."""
    teacher, student = networks(work)
    trains = work.kind != "evaluation"
    optimizer = sgd(student) if trains else None
    batches = on_device(work) if work.kind == "step" else loader(work, workers)

    def run() -> None:
        losses, right = 0.0, 0.0
        with torch.set_grad_enabled(trains):
            for batch in batches:
                images, labels = (array.to(device(), non_blocking=True) for array in batch)
                with torch.no_grad():
                    teacher_logits = teacher(images)
                if optimizer is None:
                    logits, loss = teacher_logits, functional.cross_entropy(teacher_logits, labels)
                else:
                    logits = student(images)
                    loss = kd_loss(logits, teacher_logits, labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                losses += loss.item()
                right += (logits.argmax(1) == labels).sum().item()
        wait()

    return run


def on_device(work: Work) -> Iterable[list[torch.Tensor]]:
    """Return batches that are ready to use, `[N, 3, H, W]`."""
    inputs = Normalize()(torch.from_numpy(work.images)).contiguous().to(device())
    labels = torch.from_numpy(work.labels).long().to(device())
    return [list(batch) for batch in zip(inputs.split(work.batch_size), labels.split(work.batch_size), strict=True)]


class PicturesOneByOne(Dataset[tuple[torch.Tensor, int]]):
    """Images as network inputs `[3, H, W]` with their labels, each read, cropped, mirrored and normalised by itself.

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
    """Return a crop of the picture with a border of black pixels, mirrored every second time."""
    width, height = picture.size
    left, top = torch.randint(0, 2 * RECIPE.pad + 1, (2,)).tolist()
    crop = ImageOps.expand(picture, RECIPE.pad).crop((left, top, left + width, top + height))
    return ImageOps.mirror(crop) if torch.rand(1).item() < 0.5 else crop


def loader(work: Work, workers: int) -> DataLoader[tuple[torch.Tensor, int]]:
    """Return batches from the host's pixels, the last smaller one included.

    Workers stay from one epoch to the next, so that starting them is no part of what is measured.

    Raises:
      UnavailableError: without pillow.
    """
    if Image is None:
        raise UnavailableError("pillow is not installed")
    trains = work.kind != "evaluation"
    return DataLoader(
        PicturesOneByOne(work.images, work.labels, augment=trains),
        work.batch_size if trains else min(EVALUATION_BATCH, work.batch_size),
        shuffle=trains,
        num_workers=workers,
        pin_memory=device().type == "cuda",
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers > 0 else None,  # a fork could inherit a lock held by a thread
    )
