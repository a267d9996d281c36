"""The same distillation step in PyTorch, for the benchmark: eager, float32, as the papers' users run it."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        out = self.bn2(self.conv2(out))
        return functional.relu(out + (images if self.downsample is None else self.downsample(images)), inplace=True)


class ResNet(nn.Module):
    """A CIFAR ResNet of 6n + 2 layers."""

    def __init__(self, depth: int, num_classes: int):
        super().__init__()
        stages, inputs = [], 16
        for outputs in (16, 32, 64):
            for i in range((depth - 2) // 6):
                stages.append(Block(inputs, outputs, 2 if i == 0 and outputs > 16 else 1))
                inputs = outputs
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = self.stages(functional.relu(self.bn1(self.conv1(images)), inplace=True))
        return self.fc(out.mean((2, 3)))


def version() -> str:
    """PyTorch's version."""
    return torch.__version__


def create(name: str) -> ResNet:
    """A network by name, for 100 classes.

    Raises:
      SystemExit: for a network this peer does not have.
    """
    match = re.fullmatch(r"resnet(\d+)", name)
    if match is None:
        raise SystemExit(f"the PyTorch side of the benchmark has resnet8 … resnet110, not {name}")
    return ResNet(int(match[1]), num_classes=100)


def steps(
    teacher_name: str,
    student_name: str,
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    channels_last: bool = False,
) -> Callable[[], None]:
    """A function that takes one step on each batch of uint8 `[N, H, W, C]` images."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    teacher = create(teacher_name).to(device, memory_format=layout).eval()
    student = create(student_name).to(device, memory_format=layout).train()
    sgd = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    pixels = torch.from_numpy(images.astype(np.float32) / 255.0).sub(0.5).div(0.25)
    inputs = pixels.permute(0, 3, 1, 2).contiguous(memory_format=layout).to(device)
    targets = torch.from_numpy(labels.astype(np.int64)).to(device)

    def run() -> None:
        for start in range(0, len(inputs), batch_size):
            batch, wanted = inputs[start : start + batch_size], targets[start : start + batch_size]
            with torch.no_grad():
                softened = functional.softmax(teacher(batch) / 4.0, dim=1)
            logits = student(batch)
            log_probabilities = functional.log_softmax(logits / 4.0, dim=1)
            distance = 16.0 * functional.kl_div(log_probabilities, softened, reduction="batchmean")
            loss = 0.1 * functional.cross_entropy(logits, wanted) + 0.9 * distance
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run
