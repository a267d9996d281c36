"""PyTorch at its best: pixels on the device, augmented there, channels last, compiled where that is faster."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from benchmarks import torch_networks
from benchmarks.torch_side import AtsLoss, Normalize, computer, device, kd_loss, networks, sgd, wait
from benchmarks.work import CELLS, RECIPE, Contender, UnavailableError, Work, check_bfloat16, passes_of, timed

TRIAL_STEPS = 20
"""So many steps decide between eager and compiled; on a CPU a single one."""

TRIALS = 7
"""How often either is tried: where they are close, a few would decide by chance."""

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""A loss of the student's logits, the teacher's, and the labels."""

Loop = Callable[[torch.Tensor, torch.Tensor], None]
"""Goes over pixels `[N, H, W, 3]` and labels `[N]` in batches, in their order."""


class Way(NamedTuple):
    """A way to run the networks.

    Attributes:
      mode: of `torch.compile`; "eager" does not compile.
      autocast: whether the networks compute in bfloat16.
    """

    mode: str
    autocast: bool

    def __str__(self) -> str:
        return f"{self.mode}, {'bfloat16' if self.autocast else 'float32'}"


def way_of(text: str) -> Way:
    """Return a way from its text.

    Example:
      >>> way_of("default, bfloat16")
      Way(mode='default', autocast=True)
    """
    mode, _, precision = text.partition(", ")
    return Way(mode, precision == "bfloat16")


class Distillation(nn.Module):
    """Normalisation, both networks, loss and right answers: all of a step that can be compiled as one."""

    def __init__(self, teacher: nn.Module, student: nn.Module, loss: Loss, autocast: bool):
        super().__init__()
        self.normalize, self.loss, self.autocast = Normalize(), loss, autocast
        self.teacher, self.student = teacher.eval(), student.train()

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = self.normalize(pixels)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            with torch.no_grad():
                teacher_logits = self.teacher(images)
            logits = self.student(images)
        logits = logits.float()
        return self.loss(logits, teacher_logits.float(), labels), (logits.detach().argmax(1) == labels).sum()


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


def tuned(work: Work, autocast: bool, compiles: bool, way: str | None = None) -> Contender:
    """Return what trains, trains a grid of students one after another, or evaluates.

    Args:
      work: what to do.
      autocast: whether the networks compute in bfloat16.
      compiles: whether `torch.compile` may be tried.
      way: the text of the way that was found for these networks before; trying takes minutes, where it compiles.

    Raises:
      UnavailableError: it does not run, or would run for hours.
      ValueError: for a network that is not here.
    """
    if autocast and device().type == "cpu":
        check_bfloat16()
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    pixels = torch.from_numpy(work.images).to(device())
    labels = torch.from_numpy(work.labels).long().to(device())
    if way is not None:
        best, facts = TunedLoop(work, way_of(way)), {"way": way, "layout": "channels last"}
    else:
        steps = TRIAL_STEPS if device().type == "cuda" else 1
        count = min(steps, max(len(labels) // work.batch_size, 1)) * work.batch_size
        trial = pixels[:count], labels[:count]
        best, facts = fastest(functools.partial(TunedLoop, work), trial, work.batch_size, autocast, compiles)
    run = timed(lambda: best(pixels, labels))
    if work.kind == "epoch":
        padded = functional.pad(pixels, (0, 0, RECIPE.pad, RECIPE.pad, RECIPE.pad, RECIPE.pad))
        run = timed(lambda: best(*random_views(padded, labels)))
    if work.kind == "grid":
        run = timed(lambda: best.over_cells(pixels, labels))
    return Contender(run, "bfloat16" if autocast else "float32", passes_of(work), {**computer(), **facts})


class TunedLoop:
    """The step of a way, and the loops around it."""

    def __init__(self, work: Work, way: Way):
        self.work, self.graphs = work, way.mode == "reduce-overhead"
        teacher, self.student = networks(work)
        both: tuple[Any, ...] = (teacher, self.student)  # not every version of torch declares `memory_format`
        for network in both:
            network.to(memory_format=torch.channels_last)
        self.ats = AtsLoss()
        self.optimizer: torch.optim.SGD | None = None
        if work.kind == "evaluation":
            module: nn.Module = Evaluation(teacher, way.autocast)
        else:
            loss = self.ats if work.kind == "grid" else kd_loss
            module = Distillation(teacher, self.student, loss, way.autocast)
            self.optimizer = sgd(self.student, fused=True)
        self.step: Callable[..., Any] = module.to(device())
        if way.mode != "eager":
            torch._dynamo.config.recompile_limit = 64  # the last smaller batch is another version of one function
            self.step = torch.compile(self.step, mode=way.mode, dynamic=False, fullgraph=True)

    def __call__(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        losses, right = (torch.zeros((), device=pixels.device) for _ in range(2))
        size = self.work.batch_size
        with torch.set_grad_enabled(self.optimizer is not None):
            for batch, wanted in zip(pixels.split(size), labels.split(size), strict=True):
                if self.optimizer is not None:
                    self.optimizer.zero_grad()
                if self.graphs:
                    torch.compiler.cudagraph_mark_step_begin()
                loss, count = self.step(batch, wanted)
                if self.optimizer is not None:
                    loss.backward()
                    self.optimizer.step()
                losses += loss.detach()
                right += count
        losses.item(), right.item()
        wait()

    def over_cells(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        """Train a student from the start for each pair of temperatures; the compiled step serves all of them."""
        untrained = torch_networks.create(self.work.student, self.work.num_classes).state_dict()
        for correct, wrong in CELLS[: self.work.students]:
            self.student.load_state_dict(untrained)
            self.ats.correct.fill_(correct)
            self.ats.wrong.fill_(wrong)
            self.optimizer = sgd(self.student, fused=True)
            for _ in range(self.work.epochs):
                self(pixels, labels)


def fastest(
    make: Callable[[Way], Any],
    trial: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    autocast: bool,
    compiles: bool,
) -> tuple[Any, dict[str, Any]]:
    """Return the faster of eager and compiled.

    Args:
      make: gives the loop of a way.
      trial: some batches.
      batch_size: of each.
      autocast: whether the networks compute in bfloat16.
      compiles: whether `torch.compile` may be tried.

    Returns:
      The loop, and what was found: the way, and the seconds of a step, or why a way does not work.

    Raises:
      UnavailableError: no way works.
    """
    tried: dict[str, Any] = {}
    found: dict[Way, tuple[Any, Callable[[], float], list[float]]] = {}
    modes = ["eager", *(["reduce-overhead" if device().type == "cuda" else "default"] if compiles else [])]
    for way in (Way(mode, autocast) for mode in modes):
        try:
            loop = make(way)
            for _ in range(3):  # compiles, and records what is to be replayed
                loop(*(part[:batch_size] for part in trial))
            run = timed(functools.partial(loop, *trial))
            found[way] = loop, run, [run()]
        except Exception as error:  # compilers fail in many ways, and the other way is measured then
            tried[str(way)] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if not found:
        raise UnavailableError(f"does not run: {tried}")
    hopeless = 2 * min(seconds[0] for _, _, seconds in found.values())
    for _ in range(TRIALS - 1):  # in turns: other load is met by both
        for _, run, seconds in found.values():
            if seconds[0] <= hopeless:
                seconds.append(run())
    medians = {way: statistics.median(seconds) for way, (_, _, seconds) in found.items()}
    tried |= {str(way): median * batch_size / len(trial[1]) for way, median in medians.items()}
    best = min(medians, key=lambda way: medians[way])
    return found[best][0], {"way": str(best), "seconds_a_step_when_tried": tried, "layout": "channels last"}


def random_views(padded: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all images in a new order, each cropped at random and half of them mirrored, in one gather on the device.

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
