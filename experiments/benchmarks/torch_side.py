"""PyTorch's side of the benchmark: as the papers' users run it, and at its best.

As users run it: eager, float32, a DataLoader that prepares each image with PIL, loss and accuracy read every step.
At its best: pixels on the device, augmented there, channels last, compiled where that is faster.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks import torch_networks
from benchmarks.work import CELLS, RECIPE, SEEDS, Contender, UnavailableError, Work, check_bfloat16, passes_of, timed

try:
    from PIL import Image, ImageOps
except ImportError:
    Image = ImageOps = None  # type: ignore[assignment]

EVALUATION_BATCH = 64
"""What the papers' loops evaluate with."""

TRIAL_BATCHES, TRIAL_STEPS = 4, 20
"""So many batches decide whether workers help, and so many steps between eager and compiled; on a CPU a single one."""

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Of the student's logits, the teacher's, and the labels."""

Loop = Callable[[torch.Tensor, torch.Tensor], None]
"""Goes over pixels `[N, H, W, 3]` and labels `[N]` in batches, in their order."""


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Returns when the device has done everything."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def device_peak() -> int | None:
    """The most bytes that were in use on the GPU so far."""
    return torch.cuda.max_memory_allocated() if device().type == "cuda" else None


def computer() -> dict[str, Any]:
    """What computes: the device, the threads of a CPU, and the library of its convolutions."""
    if device().type == "cuda":
        return {"device": torch.cuda.get_device_name(), "threads": None, "convolutions": "cuDNN"}
    found = re.search(r"MKL-DNN (v[\d.]+)", torch.__config__.show())
    library = f"oneDNN {found[1]}" if found else "PyTorch's own"
    return {"device": "cpu", "threads": torch.get_num_threads(), "convolutions": library}


def products(size: int) -> dict[str, Callable[[], object]]:
    """Products of square matrices, for each precision; the yardstick of `network_cost`."""
    torch.set_float32_matmul_precision("high")

    def product(precision: str) -> Callable[[], object]:
        left, right = torch.randn(2, size, size, dtype=getattr(torch, precision), device=device())

        def multiply() -> None:
            torch.mm(left, right)
            wait()

        return multiply

    return {precision: product(precision) for precision in ("float32", "bfloat16")}


def networks(work: Work) -> tuple[nn.Module, nn.Module]:
    """The teacher and, except for evaluation, a student; otherwise the teacher again."""
    torch.manual_seed(SEEDS.teacher)
    teacher = torch_networks.create(work.teacher, work.num_classes).to(device()).eval()
    if work.kind == "evaluation":
        return teacher, teacher
    torch.manual_seed(SEEDS.student)
    return teacher, torch_networks.create(work.student, work.num_classes).to(device()).train()


def sgd(student: nn.Module, **options: Any) -> torch.optim.SGD:
    """The papers' optimizer."""
    recipe = {"lr": RECIPE.learning_rate, "momentum": RECIPE.momentum, "weight_decay": RECIPE.weight_decay}
    return torch.optim.SGD(student.parameters(), **recipe, **options)


def kd_loss(logits: torch.Tensor, taught: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with the labels and the tempered divergence from the teacher (Hinton et al. 2015), weighted."""
    softened = functional.softmax(taught / RECIPE.temperature, dim=1)
    log_probabilities = functional.log_softmax(logits / RECIPE.temperature, dim=1)
    distance = RECIPE.temperature**2 * functional.kl_div(log_probabilities, softened, reduction="batchmean")
    return RECIPE.ce_weight * functional.cross_entropy(logits, labels) + RECIPE.kd_weight * distance


class AtsLoss(nn.Module):
    """Cross-entropy with the labels and with a teacher of two temperatures (Li et al. 2022), weighted.

    The temperatures are buffers, so that the loss of another pair of them is the same compiled program.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("correct", torch.ones(()), persistent=False)
        self.register_buffer("wrong", torch.ones(()), persistent=False)

    def forward(self, logits: torch.Tensor, taught: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        is_true = functional.one_hot(labels, taught.shape[1]).bool()
        softened = functional.softmax(taught / torch.where(is_true, self.correct, self.wrong), dim=1)
        losses = functional.cross_entropy(logits, labels), functional.cross_entropy(logits, softened)
        return (1 - RECIPE.ats_weight) * losses[0] + RECIPE.ats_weight * losses[1]


class Normalize(nn.Module):
    """uint8 `[N, H, W, 3]` to network inputs `[N, 3, H, W]`, channels last in memory."""

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", RECIPE.mean), ("std", RECIPE.std)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels.permute(0, 3, 1, 2).float().div(255) - self.mean) / self.std


# As users run it


def usual(work: Work, workers: int) -> Contender:
    """Training or evaluation as in the papers' code.

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
    """Seconds for some batches without and with workers, which on few cores are in the way of what they work for."""
    count = TRIAL_BATCHES * work.batch_size
    part = dataclasses.replace(work, images=work.images[:count], labels=work.labels[:count])
    tried = {}
    for some in (0, workers):
        run = timed(usual_loop(part, some))
        run()
        tried[some] = run()
    return tried


def usual_loop(work: Work, workers: int) -> Callable[[], None]:
    """A function that trains on all images once, or counts the teacher's right answers."""
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
                    taught = teacher(images)
                if optimizer is None:
                    logits, loss = taught, functional.cross_entropy(taught, labels)
                else:
                    logits = student(images)
                    loss = kd_loss(logits, taught, labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                losses += loss.item()
                right += (logits.argmax(1) == labels).sum().item()
        wait()

    return run


def on_device(work: Work) -> Iterable[list[torch.Tensor]]:
    """Batches that are ready to use, `[N, 3, H, W]`."""
    inputs = Normalize()(torch.from_numpy(work.images)).contiguous().to(device())
    labels = torch.from_numpy(work.labels).long().to(device())
    return [list(batch) for batch in zip(inputs.split(work.batch_size), labels.split(work.batch_size), strict=True)]


class PicturesOneByOne(Dataset):
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
    """A crop of the picture with a border of black pixels, mirrored every second time."""
    width, height = picture.size
    left, top = torch.randint(0, 2 * RECIPE.pad + 1, (2,)).tolist()
    crop = ImageOps.expand(picture, RECIPE.pad).crop((left, top, left + width, top + height))
    return ImageOps.mirror(crop) if torch.rand(1).item() < 0.5 else crop


def loader(work: Work, workers: int) -> DataLoader:
    """Batches from the host's pixels, the last smaller one included.

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


# At its best


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


def way_of(text: str) -> Way:
    """A way from its text.

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
                taught = self.teacher(images)
            logits = self.student(images)
        logits = logits.float()
        return self.loss(logits, taught.float(), labels), (logits.detach().argmax(1) == labels).sum()


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
    """Training, a grid of students one after another, or evaluation.

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
        teacher, self.student = (network.to(memory_format=torch.channels_last) for network in networks(work))
        self.ats = AtsLoss()
        self.optimizer: torch.optim.SGD | None = None
        if work.kind == "evaluation":
            module: nn.Module = Evaluation(teacher, way.autocast)
        else:
            loss = self.ats if work.kind == "grid" else kd_loss
            module = Distillation(teacher, self.student, loss, way.autocast)
            self.optimizer = sgd(self.student, fused=True)
        self.step = module.to(device())
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
        """Trains a student from the start for each pair of temperatures; the compiled step serves all of them."""
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
    """The faster of eager and compiled.

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
    return best[2], {"way": str(best[1]), "seconds_a_step_when_tried": tried, "layout": "channels last"}


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
