"""The benchmark's networks in PyTorch, from their papers: ResNets, VGGs, MobileNetV2, ShuffleNetV2 and DeiT.

Attributes have the published names, so that the state dicts that `jaxkd.convert.to_torch` writes fit.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

VGG_WIDTHS = (64, 128, 256, 512, 512)
VGG_CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3)}


class Stage(NamedTuple):
    """A run of MobileNetV2's blocks: how much wider they are inside, their channels, how many, the first's stride."""

    expansion: int
    width: int
    blocks: int
    stride: int


MOBILE_STAGES = (
    *(Stage(1, 8, 1, 1), Stage(6, 12, 2, 1), Stage(6, 16, 3, 2), Stage(6, 32, 4, 2)),
    *(Stage(6, 48, 3, 1), Stage(6, 80, 3, 2), Stage(6, 160, 1, 1)),
)
SHUFFLE_WIDTHS, SHUFFLE_BLOCKS = (24, 116, 232, 464), (4, 8, 4)
IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
DEIT = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
"""Width and heads."""


def convolution(
    inputs: int, outputs: int, window: int = 3, stride: int = 1, bias: bool = False, groups: int = 1
) -> nn.Conv2d:
    """Return a square convolution that keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, window, stride, window // 2, bias=bias, groups=groups)


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


def stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """Return ResNet blocks of one width; the first changes the shape."""
    return nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


class ResNet(nn.Module):
    """A CIFAR ResNet of 6n + 2 layers; four times as wide it also has a wider stem."""

    def __init__(self, depth: int, width: int, num_classes: int):
        super().__init__()
        blocks, stem = (depth - 2) // 6, 32 if width > 1 else 16
        self.conv1 = convolution(3, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = stage(stem, 16 * width, blocks, 1)
        self.layer2 = stage(16 * width, 32 * width, blocks, 2)
        self.layer3 = stage(32 * width, 64 * width, blocks, 2)
        self.fc = nn.Linear(64 * width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.fc(out.mean((2, 3)))


class ImageNetResNet(nn.Module):
    """A ResNet for images of 224 pixels, of blocks with two convolutions."""

    def __init__(self, depth: int, num_classes: int):
        super().__init__()
        self.conv1 = convolution(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        blocks = IMAGENET_BLOCKS[depth]
        self.layer1 = stage(64, 64, blocks[0], 1)
        self.layer2 = stage(64, 128, blocks[1], 2)
        self.layer3 = stage(128, 256, blocks[2], 2)
        self.layer4 = stage(256, 512, blocks[3], 2)
        self.fc = nn.Linear(512, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        out = self.layer2(self.layer1(functional.max_pool2d(out, 3, 2, 1)))
        return self.fc(self.layer4(self.layer3(out)).mean((2, 3)))


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
        """Return convolution, BatchNorm and ReLU, once or several times."""
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


class InvertedResidual(nn.Module):
    """A 1×1 convolution to more channels, a depthwise 3×3, and a 1×1 to few channels without ReLU; and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        inner = inputs * expansion
        self.conv = nn.Sequential(
            *(convolution(inputs, inner, 1), nn.BatchNorm2d(inner), nn.ReLU(inplace=True)),
            *(convolution(inner, inner, 3, stride, groups=inner), nn.BatchNorm2d(inner), nn.ReLU(inplace=True)),
            *(convolution(inner, outputs, 1), nn.BatchNorm2d(outputs)),
        )
        self.shortcut = inputs == outputs  # only the first block of a stage has a stride, and it changes the width

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + self.conv(images) if self.shortcut else self.conv(images)


class MobileNetV2(nn.Module):
    """MobileNetV2 of half the width, for small images (Sandler et al. 2018; Tian et al. 2020)."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1 = self.layer(3, 16, 3, 2)
        stages, inputs = [], 16
        for expansion, width, blocks, stride in MOBILE_STAGES:
            row = [InvertedResidual(inputs, width, stride, expansion)]
            row += [InvertedResidual(width, width, 1, expansion) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*row))
            inputs = width
        self.blocks = nn.Sequential(*stages)
        self.conv2 = self.layer(inputs, 1280, 1, 1)
        self.classifier = nn.Sequential(nn.Linear(1280, num_classes))

    @staticmethod
    def layer(inputs: int, outputs: int, window: int, stride: int) -> nn.Sequential:
        """Return convolution, BatchNorm and ReLU."""
        norm = nn.BatchNorm2d(outputs)
        return nn.Sequential(convolution(inputs, outputs, window, stride), norm, nn.ReLU(inplace=True))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.conv2(self.blocks(self.conv1(images))).mean((2, 3)))


class ShuffleUnit(nn.Module):
    """Half of the channels pass through, or at stride 2 a depthwise branch; the others take three convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        half, self.splits = outputs // 2, stride == 1
        layers = [] if self.splits else [(inputs, inputs, 3, 2), (inputs, half, 1, 1)]
        layers += [(half if self.splits else inputs, half, 1, 1), (half, half, 3, stride), (half, half, 1, 1)]
        for number, (ins, outs, window, step) in enumerate(layers, start=1):
            groups = ins if window == 3 else 1
            setattr(self, f"conv{number}", convolution(ins, outs, window, step, groups=groups))
            setattr(self, f"bn{number}", nn.BatchNorm2d(outs))

    def layer(self, number: int, images: torch.Tensor) -> torch.Tensor:
        """Return one of the convolutions, with its BatchNorm."""
        return getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(images))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.splits:
            (left, right), first = images.chunk(2, 1), 1
        else:
            left, right, first = functional.relu(self.layer(2, self.layer(1, images)), inplace=True), images, 3
        right = functional.relu(self.layer(first, right), inplace=True)
        right = functional.relu(self.layer(first + 2, self.layer(first + 1, right)), inplace=True)
        return functional.channel_shuffle(torch.cat([left, right], 1), 2)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 ×1 for small images (Ma et al. 2018; Tian et al. 2020)."""

    def __init__(self, num_classes: int):
        super().__init__()
        widths = SHUFFLE_WIDTHS
        self.conv1 = convolution(3, widths[0], 1)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(ShuffleUnit(inputs, width, 2), *(ShuffleUnit(width, width, 1) for _ in range(blocks - 1)))
            for inputs, width, blocks in zip(widths[:-1], widths[1:], SHUFFLE_BLOCKS, strict=True)
        )
        self.conv2 = convolution(widths[-1], 1024, 1)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(functional.relu(self.bn2(self.conv2(out)), inplace=True).mean((2, 3)))


class TransformerBlock(nn.Module):
    """Attention and perceptron, each behind a LayerNorm and added to what it came from (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.heads = heads

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        packed = self.attn["qkv"](self.norm1(tokens)).unflatten(2, (3, self.heads, -1))
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.attn["proj"](mixed.transpose(1, 2).flatten(2))
        return tokens + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(tokens))))


class VisionTransformer(nn.Module):
    """DeiT without a distillation token, for images of 224 pixels in patches of 16 (Touvron et al. 2021)."""

    def __init__(self, width: int, heads: int, num_classes: int):
        super().__init__()
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + 14**2, width), std=0.02))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 16, 16)})
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(12)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def create(name: str, num_classes: int = 100) -> nn.Module:
    """Return a network by the name that `jaxkd.models.create` knows it by.

    Raises:
      ValueError: for a network that is not here.

    Example:
      >>> sum(parameter.numel() for parameter in create("resnet20").parameters())
      278324
    """
    families = {
        r"resnet(18|34)": ImageNetResNet,
        r"resnet(\d+)(?:x(4))?": lambda depth, width, classes: ResNet(depth, width or 1, classes),
        r"wrn_(\d+)_(\d+)": WideResNet,
        r"WRN(\d+)-(\d+)": WideResNet,
        r"(?:vgg|VGG)(\d+)": VGG,
        r"MobileNetV2": MobileNetV2,
        r"ShuffleV2": ShuffleNetV2,
        r"deit_(tiny|small|base)_patch16_224": lambda size, classes: VisionTransformer(*DEIT[size], classes),
    }
    for pattern, family in families.items():
        if match := re.fullmatch(pattern, name):
            sizes = (int(size) if size and size.isdecimal() else size for size in match.groups())
            return family(*sizes, num_classes)  # type: ignore[operator]
    raise ValueError(
        "the benchmark has resnet…, wrn_…_…, WRN…-…, vgg…, MobileNetV2, ShuffleV2 and deit_…_patch16_224 in PyTorch, "
        f"not {name}"
    )
