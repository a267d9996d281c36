"""PyTorch as the papers' users run it: eager, float32, images from a DataLoader, loss and accuracy read every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarking import torch_loader, torch_networks
from benchmarking.work import RECIPE, Contender, Work, passes_of, timed

EVALUATION_BATCH = 64
"""What the papers' loops evaluate with."""

TRIAL_BATCHES = 4
"""That many decide whether workers help."""

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """The GPU's name, or how many threads the CPU has."""
    return torch.cuda.get_device_name() if device().type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def contender(work: Work, workers: int) -> Contender:
    """Training or evaluation.

    Args:
      work: what to do.
      workers: processes that prepare images; on a CPU none, if that is faster.

    Raises:
      UnavailableError: images are to be prepared, and pillow is not installed.
      ValueError: for a network that is not here.
    """
    torch.backends.cudnn.benchmark = True
    facts: dict[str, Any] = {"device": device_name()}
    if work.kind != "step":
        if device().type == "cpu" and workers:
            facts["seconds_with_workers_when_tried"] = tried = tried_workers(work, workers)
            workers = min(tried, key=tried.__getitem__)
        facts["workers"] = workers
    return Contender(timed(loop(work, workers)), "float32", passes_of(work), facts)


def tried_workers(work: Work, workers: int) -> dict[int, float]:
    """Seconds for some batches without and with workers, which on few cores are in the way of what they work for."""
    count = TRIAL_BATCHES * work.batch_size
    part = dataclasses.replace(work, images=work.images[:count], labels=work.labels[:count])
    tried = {}
    for some in (0, workers):
        run = timed(loop(part, some))
        run()
        tried[some] = run()
    return tried


def loop(work: Work, workers: int) -> Callable[[], None]:
    """A function that does the work."""
    return evaluation(work, workers) if work.kind == "evaluation" else training(work, workers)


def training(work: Work, workers: int) -> Callable[[], None]:
    """A function that trains on all images once."""
    teacher = torch_networks.create(work.teacher).to(device()).eval()
    student = torch_networks.create(work.student).to(device()).train()
    optimizer = sgd(student)
    batches = on_device(work) if work.kind == "step" else from_loader(work, work.batch_size, True, workers)

    def run() -> None:
        losses, right = 0.0, 0.0
        for images, labels in batches:
            images, labels = (array.to(device(), non_blocking=True) for array in (images, labels))
            with torch.no_grad():
                taught = teacher(images)
            logits = student(images)
            loss = kd_loss(logits, taught, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item()
            right += (logits.argmax(1) == labels).sum().item()
        wait()

    return run


def evaluation(work: Work, workers: int) -> Callable[[], None]:
    """A function that counts the teacher's right answers."""
    teacher = torch_networks.create(work.teacher).to(device()).eval()
    batches = from_loader(work, min(EVALUATION_BATCH, work.batch_size), False, workers)

    def run() -> None:
        losses, right = 0.0, 0.0
        with torch.no_grad():
            for images, labels in batches:
                images, labels = (array.to(device(), non_blocking=True) for array in (images, labels))
                logits = teacher(images)
                losses += functional.cross_entropy(logits, labels).item()
                right += (logits.argmax(1) == labels).sum().item()
        wait()

    return run


def kd_loss(logits: torch.Tensor, taught: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with the labels and the tempered divergence from the teacher (Hinton et al. 2015), weighted."""
    softened = functional.softmax(taught / RECIPE.temperature, dim=1)
    log_probabilities = functional.log_softmax(logits / RECIPE.temperature, dim=1)
    distance = RECIPE.temperature**2 * functional.kl_div(log_probabilities, softened, reduction="batchmean")
    return RECIPE.ce_weight * functional.cross_entropy(logits, labels) + RECIPE.kd_weight * distance


def sgd(student: nn.Module, **options: Any) -> torch.optim.SGD:
    """The papers' optimizer."""
    return torch.optim.SGD(
        student.parameters(),
        lr=RECIPE.learning_rate,
        momentum=RECIPE.momentum,
        weight_decay=RECIPE.weight_decay,
        **options,
    )


class Normalize(nn.Module):
    """uint8 `[N, H, W, 3]` to network inputs `[N, 3, H, W]`, channels last in memory."""

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", RECIPE.mean), ("std", RECIPE.std)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels.permute(0, 3, 1, 2).float().div(255) - self.mean) / self.std


def on_device(work: Work) -> Batches:
    """Batches that are ready to use, `[N, 3, H, W]`."""
    inputs = Normalize()(torch.from_numpy(work.images)).contiguous().to(device())
    labels = torch.from_numpy(work.labels).long().to(device())
    return list(zip(inputs.split(work.batch_size), labels.split(work.batch_size), strict=True))


def from_loader(work: Work, batch_size: int, train: bool, workers: int) -> Batches:
    """Batches from the host's pixels."""
    pinned = device().type == "cuda"
    return torch_loader.loader(work.images, work.labels, batch_size, train=train, workers=workers, pinned=pinned)


def wait() -> None:
    """Returns when the device has done everything."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def device_peak() -> int | None:
    """The most bytes that were in use on the GPU so far."""
    return torch.cuda.max_memory_allocated() if device().type == "cuda" else None
