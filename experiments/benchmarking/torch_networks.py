"""The benchmark's networks in PyTorch, from their papers: CIFAR ResNets, wide ResNets and VGGs with BatchNorm.

Attributes have the published names, so that the state dicts that `jaxkd.convert.to_torch` writes fit.
"""

from __future__ import annotations

import re

import torch
from torch import nn
from torch.nn import functional

VGG_WIDTHS = (64, 128, 256, 512, 512)
VGG_CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3)}


def convolution(inputs: int, outputs: int, window: int = 3, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A square convolution that keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, window, stride, window // 2, bias=bias)


class Block(nn.Module):
    """Two 3×3 convolutions with BatchNorm and a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = convolution(inputs, outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        out = self.bn2(self.conv2(out))
        return functional.relu(out + (images if self.downsample is None else self.downsample(images)), inplace=True)


class ResNet(nn.Module):
    """A CIFAR ResNet of 6n + 2 layers."""

    def __init__(self, depth: int, num_classes: int):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = convolution(3, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self.stage(16, 16, blocks, 1)
        self.layer2 = self.stage(16, 32, blocks, 2)
        self.layer3 = self.stage(32, 64, blocks, 2)
        self.fc = nn.Linear(64, num_classes)

    @staticmethod
    def stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        """Blocks of one width; the first changes the shape."""
        return nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.fc(out.mean((2, 3)))


class WideBlock(nn.Module):
    """BatchNorm, ReLU and convolution, twice; a shortcut that changes the shape starts after the first ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = convolution(inputs, outputs, stride=stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs)
        self.convShortcut = None if inputs == outputs else convolution(inputs, outputs, 1, stride)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        active = functional.relu(self.bn1(images), inplace=True)
        out = self.conv2(functional.relu(self.bn2(self.conv1(active)), inplace=True))
        return out + (images if self.convShortcut is None else self.convShortcut(active))


class WideStage(nn.Module):
    """Blocks of one width; the first changes the shape."""

    def __init__(self, inputs: int, outputs: int, blocks: int, stride: int):
        super().__init__()
        rest = (WideBlock(outputs, outputs, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(WideBlock(inputs, outputs, stride), *rest)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images)


class WideResNet(nn.Module):
    """A wide ResNet of 6n + 4 layers (Zagoruyko & Komodakis 2016)."""

    def __init__(self, depth: int, width: int, num_classes: int):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = convolution(3, 16)
        self.block1 = WideStage(16, 16 * width, blocks, 1)
        self.block2 = WideStage(16 * width, 32 * width, blocks, 2)
        self.block3 = WideStage(32 * width, 64 * width, blocks, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(images))))
        return self.fc(functional.relu(self.bn1(out), inplace=True).mean((2, 3)))


class VGG(nn.Module):
    """A VGG with BatchNorm for 32×32 images: five blocks and one linear layer (Simonyan & Zisserman 2015)."""

    def __init__(self, depth: int, num_classes: int):
        super().__init__()
        sizes = zip((3, *VGG_WIDTHS[:-1]), VGG_WIDTHS, VGG_CONVOLUTIONS[depth], strict=True)
        self.block0, self.block1, self.block2, self.block3, self.block4 = (self.block(*size) for size in sizes)
        self.classifier = nn.Linear(VGG_WIDTHS[-1], num_classes)

    @staticmethod
    def block(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
        """Convolution, BatchNorm and ReLU, once or several times."""
        layers: list[nn.Module] = []
        for i in range(convolutions):
            layers += [convolution(outputs if i else inputs, outputs, bias=True), nn.BatchNorm2d(outputs)]
            layers += [nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = images
        for block in (self.block0, self.block1, self.block2):
            out = functional.max_pool2d(block(out), 2)
        return self.classifier(self.block4(self.block3(out)).mean((2, 3)))


def create(name: str, num_classes: int = 100) -> nn.Module:
    """A network by the name that `jaxkd.models.create` knows it by.

    Raises:
      ValueError: for a network that is not here.

    Example:
      >>> sum(parameter.numel() for parameter in create("resnet20").parameters())
      278324
    """
    families = {
        r"resnet(\d+)": ResNet,
        r"wrn_(\d+)_(\d+)": WideResNet,
        r"WRN(\d+)-(\d+)": WideResNet,
        r"(?:vgg|VGG)(\d+)": VGG,
    }
    for pattern, family in families.items():
        if match := re.fullmatch(pattern, name):
            return family(*map(int, match.groups()), num_classes)  # type: ignore[operator]
    raise ValueError(f"the benchmark has resnet…, wrn_…_…, WRN…-… and vgg… in PyTorch, not {name}")
