"""The common part of PyTorch's sides of the benchmark: device, networks, losses and normalisation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks import torch_networks
from benchmarks.work import RECIPE, SEEDS, Work


def device() -> torch.device:
    """Return the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Wait until the device has done everything."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def device_peak() -> int | None:
    """Return the most bytes that were in use on the GPU so far."""
    return torch.cuda.max_memory_allocated() if device().type == "cuda" else None


def computer() -> dict[str, Any]:
    """Return what computes: the device, the threads of a CPU, and the library of its convolutions."""
    if device().type == "cuda":
        return {"device": torch.cuda.get_device_name(), "threads": None, "convolutions": "cuDNN"}
    found = re.search(r"MKL-DNN (v[\d.]+)", torch.__config__.show())
    library = f"oneDNN {found[1]}" if found else "PyTorch's own"
    return {"device": "cpu", "threads": torch.get_num_threads(), "convolutions": library}


def products(size: int) -> dict[str, Callable[[], object]]:
    """Return products of square matrices, for each precision; the yardstick of `network_cost`."""
    torch.set_float32_matmul_precision("high")

    def product(precision: str) -> Callable[[], object]:
        left, right = torch.randn(2, size, size, dtype=getattr(torch, precision), device=device())

        def multiply() -> None:
            torch.mm(left, right)
            wait()

        return multiply

    return {precision: product(precision) for precision in ("float32", "bfloat16")}


def networks(work: Work) -> tuple[nn.Module, nn.Module]:
    """Return the teacher and, except for evaluation, a student; otherwise the teacher again."""
    torch.manual_seed(SEEDS.teacher)
    teacher = torch_networks.create(work.teacher, work.num_classes).to(device()).eval()
    if work.kind == "evaluation":
        return teacher, teacher
    torch.manual_seed(SEEDS.student)
    student = torch_networks.create(work.student, work.num_classes)
    if work.student_size:
        student = nn.Sequential(nn.Upsample(size=work.student_size, mode="bilinear", align_corners=False), student)
    return teacher, student.to(device()).train()


def sgd(student: nn.Module, **options: Any) -> torch.optim.SGD:
    """Return the papers' optimizer."""
    return torch.optim.SGD(
        student.parameters(),
        lr=RECIPE.learning_rate,
        momentum=RECIPE.momentum,
        weight_decay=RECIPE.weight_decay,
        **options,
    )


def kd_loss(logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return weighted cross-entropy and tempered divergence from the teacher (Hinton et al. 2015)."""
    softened = functional.softmax(teacher_logits / RECIPE.temperature, dim=1)
    log_probabilities = functional.log_softmax(logits / RECIPE.temperature, dim=1)
    distance = RECIPE.temperature**2 * functional.kl_div(log_probabilities, softened, reduction="batchmean")
    return RECIPE.ce_weight * functional.cross_entropy(logits, labels) + RECIPE.kd_weight * distance


class AtsLoss(nn.Module):
    """Cross-entropy with the labels and with a teacher of two temperatures (Li et al. 2022), weighted.

    The temperatures are buffers, so that the loss of another pair of them is the same compiled program.
    """

    correct: torch.Tensor
    wrong: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("correct", torch.ones(()), persistent=False)
        self.register_buffer("wrong", torch.ones(()), persistent=False)

    def forward(self, logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        is_true = functional.one_hot(labels, teacher_logits.shape[1]).bool()
        softened = functional.softmax(teacher_logits / torch.where(is_true, self.correct, self.wrong), dim=1)
        losses = functional.cross_entropy(logits, labels), functional.cross_entropy(logits, softened)
        return (1 - RECIPE.ats_weight) * losses[0] + RECIPE.ats_weight * losses[1]


class Normalize(nn.Module):
    """uint8 `[N, H, W, 3]` to network inputs `[N, 3, H, W]`, channels last in memory."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", RECIPE.mean), ("std", RECIPE.std)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels.permute(0, 3, 1, 2).float().div(255) - self.mean) / self.std
