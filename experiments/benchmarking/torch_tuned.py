"""PyTorch at its best: pixels on the device, augmented there, channels last, compiled where that is faster."""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from benchmarking import torch_networks
from benchmarking.torch_peer import Normalize, device, device_name, kd_loss, sgd, wait
from benchmarking.work import RECIPE, Contender, UnavailableError, Work, passes_of, timed

TRIAL_STEPS = 20
"""That many steps decide between eager and compiled; on a CPU a single one."""


class Way(NamedTuple):
    """How to run the networks.

    Attributes:
      mode: of `torch.compile`; "eager" does not compile.
      autocast: whether the networks compute in bfloat16.
    """

    mode: str
    autocast: bool

    def __str__(self) -> str:
        return f"{self.mode}, {'bfloat16' if self.autocast else 'float32'}"


class Distillation(nn.Module):
    """Normalisation, both networks, loss and right answers: all of a step that can be compiled as one."""

    def __init__(self, teacher: nn.Module, student: nn.Module, autocast: bool):
        super().__init__()
        self.normalize, self.autocast = Normalize(), autocast
        self.teacher, self.student = teacher.eval(), student.train()

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = self.normalize(pixels)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            with torch.no_grad():
                taught = self.teacher(images)
            logits = self.student(images)
        logits = logits.float()
        return kd_loss(logits, taught.float(), labels), (logits.detach().argmax(1) == labels).sum()


class Evaluation(nn.Module):
    """Normalisation, network, loss and right answers."""

    def __init__(self, teacher: nn.Module, autocast: bool):
        super().__init__()
        self.normalize, self.teacher, self.autocast = Normalize(), teacher.eval(), autocast

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = self.normalize(pixels)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            logits = self.teacher(images)
        return functional.cross_entropy(logits.float(), labels, reduction="sum"), (logits.argmax(1) == labels).sum()


def way_of(text: str) -> Way:
    """A way from its text.

    Example:
      >>> way_of("default, bfloat16")
      Way(mode='default', autocast=True)
    """
    mode, _, precision = text.partition(", ")
    return Way(mode, precision == "bfloat16")


Loop = Callable[[torch.Tensor, torch.Tensor], None]
"""Goes over pixels `[N, H, W, 3]` and labels `[N]` in batches, in their order."""


class Key(NamedTuple):
    """What work has in common that can be done by the same loop."""

    teacher: str
    student: str
    batch_size: int
    evaluation: bool
    autocast: bool


Chosen = dict[Key, tuple[Way, Loop, dict[str, Any]]]
"""For each kind of work the best way, its loop, and what was found on the way to it."""


def contender(work: Work, autocast: bool, compiles: bool, chosen: Chosen) -> Contender:
    """Training or evaluation.

    Args:
      work: what to do.
      autocast: whether the networks compute in bfloat16.
      compiles: whether `torch.compile` may be tried.
      chosen: the ways found so far, which serve later work of the same kind and size.

    Raises:
      UnavailableError: it does not run, or would run for hours.
      ValueError: for a network that is not here.
    """
    if autocast and device().type == "cpu" and not fast_bfloat16():
        raise UnavailableError("this CPU has no arithmetic for bfloat16")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    key = key_of(work, autocast)
    pixels = torch.from_numpy(work.images).to(device())
    labels = torch.from_numpy(work.labels).long().to(device())
    known = [way for other, (way, _, _) in chosen.items() if other._replace(batch_size=work.batch_size) == key]
    if key not in chosen and known:  # at another batch size; trying takes minutes, where it compiles
        remember(chosen, work, known[0])
    elif key not in chosen:
        steps = TRIAL_STEPS if device().type == "cuda" else 1
        count = min(steps, max(len(labels) // work.batch_size, 1)) * work.batch_size
        trial = pixels[:count], labels[:count]
        chosen[key] = fastest(lambda way: loop(work, way), trial, work.batch_size, autocast, compiles)
    way, best, facts = chosen[key]
    if work.kind == "epoch":
        padded = functional.pad(pixels, (0, 0, RECIPE.pad, RECIPE.pad, RECIPE.pad, RECIPE.pad))
        run = timed(lambda: best(*random_views(padded, labels)))
    else:
        run = timed(lambda: best(pixels, labels))
    precision = "bfloat16" if way.autocast else "float32"
    return Contender(run, precision, passes_of(work), {"device": device_name(), **facts})


def fast_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16."""
    about = pathlib.Path("/proc/cpuinfo")
    flags = about.read_text().split() if about.exists() else []
    return "amx_bf16" in flags or "avx512_bf16" in flags


def key_of(work: Work, autocast: bool) -> Key:
    """The key of some work."""
    return Key(work.teacher, work.student, work.batch_size, work.kind == "evaluation", autocast)


def remember(chosen: Chosen, work: Work, way: Way) -> None:
    """Takes a way that was found before, without trying others."""
    chosen[key_of(work, way.autocast)] = way, loop(work, way), {"way": str(way)}


def loop(work: Work, way: Way) -> Loop:
    """A way to do the work, with networks of its own."""
    teacher = torch_networks.create(work.teacher).to(device(), memory_format=torch.channels_last)
    if work.kind == "evaluation":
        module: nn.Module = Evaluation(teacher, way.autocast)
        optimizer = None
    else:
        student = torch_networks.create(work.student).to(device(), memory_format=torch.channels_last)
        module, optimizer = Distillation(teacher, student, way.autocast), sgd(student, fused=True)
    module = module.to(device())
    forward = module
    if way.mode != "eager":
        torch._dynamo.config.recompile_limit = 64  # all pairs and batch sizes are versions of one function
        forward = torch.compile(module, mode=way.mode, dynamic=False, fullgraph=True)
    graphs = way.mode == "reduce-overhead"

    def run(pixels: torch.Tensor, labels: torch.Tensor) -> None:
        losses, right = (torch.zeros((), device=pixels.device) for _ in range(2))
        with torch.set_grad_enabled(optimizer is not None):
            for batch, wanted in zip(pixels.split(work.batch_size), labels.split(work.batch_size), strict=True):
                if optimizer is not None:
                    optimizer.zero_grad()
                if graphs:
                    torch.compiler.cudagraph_mark_step_begin()
                loss, count = forward(batch, wanted)
                if optimizer is not None:
                    loss.backward()
                    optimizer.step()
                losses += loss.detach()
                right += count
        losses.item(), right.item()
        wait()

    return run


def fastest(
    make: Callable[[Way], Loop],
    trial: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    autocast: bool,
    compiles: bool,
) -> tuple[Way, Loop, dict[str, Any]]:
    """The faster of eager and compiled.

    Args:
      make: gives the loop of a way.
      trial: some batches.
      batch_size: of each.
      autocast: whether the networks compute in bfloat16.
      compiles: whether `torch.compile` may be tried.

    Returns:
      The way, its loop, and what was found: the seconds of a step, or why a way does not work.

    Raises:
      UnavailableError: no way works.
    """
    tried: dict[str, Any] = {}
    best: tuple[float, Way, Loop] | None = None
    modes = ["eager", *(["reduce-overhead" if device().type == "cuda" else "default"] if compiles else [])]
    for way in (Way(mode, autocast) for mode in modes):
        try:
            candidate = make(way)
            for _ in range(3):  # compiles, and records what is to be replayed
                candidate(*(part[:batch_size] for part in trial))
            seconds = trial_seconds(timed(functools.partial(candidate, *trial)), 2 * best[0] if best else math.inf)
        except Exception as error:  # compilers fail in many ways, and the other way is measured then
            tried[str(way)] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            continue
        tried[str(way)] = seconds * batch_size / len(trial[1])
        if best is None or seconds < best[0]:
            best = seconds, way, candidate
    if best is None:
        raise UnavailableError(f"does not run: {tried}")
    return *best[1:], {"way": str(best[1]), "seconds_a_step_when_tried": tried, "layout": "channels last"}


def trial_seconds(run: Callable[[], float], hopeless: float) -> float:
    """Seconds of the fastest of three runs, or of the first if it is hopeless."""
    first = run()
    return first if first > hopeless else min(first, run(), run())


def random_views(padded: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All images in a new order, each cropped at random and half of them mirrored, in one gather on the device.

    Args:
      padded: `[N, H + 2·pad, W + 2·pad, 3]`.
      labels: `[N]`.
    """
    count, height, width = len(padded), padded.shape[1] - 2 * RECIPE.pad, padded.shape[2] - 2 * RECIPE.pad
    order = torch.randperm(count, device=padded.device)
    top, left = torch.randint(0, 2 * RECIPE.pad + 1, (2, count, 1), device=padded.device)
    rows = top + torch.arange(height, device=padded.device)
    columns = torch.arange(width, device=padded.device).repeat(count, 1)
    mirrored = torch.rand(count, 1, device=padded.device) < 0.5
    columns = left + torch.where(mirrored, width - 1 - columns, columns)
    return padded[order[:, None, None], rows[:, :, None], columns[:, None, :]], labels[order]
