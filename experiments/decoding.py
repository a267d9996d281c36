"""Measures how fast images are read, decoded and cropped, beside plain Pillow and, where it is installed, torchvision.

Two questions are answered, for the views of training and of evaluation. What does an image cost a processor? Each
contender prepares the same files, taking turns in one process, and processor time is counted, so that a busy machine
disturbs little. And how many images a second do threads and processes deliver, and how long does the first batch take?

Images are generated, of ImageNet's usual sizes, unless --data-dir has some.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxkd.command_line import CommandLine

ROOT = pathlib.Path(__file__).parents[1]
BATCH = 32
EXAMPLES = """examples:
  generated images, all processors:
    python experiments/decoding.py
  your own images, in train/CLASS/ and val/CLASS/:
    python experiments/decoding.py --data-dir ~/imagenet --images 5000 --workers 0 8 16
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    parser = command_line()
    options = parser.parse_args(arguments)
    images = options.images or (96 if options.quick else 1024)
    rounds = options.rounds or (1 if options.quick else 5)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = options.workers if options.workers is not None else sorted({0, 1, cores} if not options.quick else {0, 1})
    # The processes that decode import this file, and need nothing of what follows.
    from benchmarks import jaxkd_side, record

    from jaxkd import data

    with tempfile.TemporaryDirectory() as folder:
        try:
            root = options.data_dir or generated(pathlib.Path(folder), images)
            train, val = data.load(options.data, root, workers=0)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        if min(images, len(train), len(val)) < 2 * options.batch_size:
            parser.error(f"{min(images, len(train), len(val))} images are fewer than two batches: lower --batch-size")
        found: dict[str, Any] = {"bytes_an_image": mean_bytes(train, images), "batch_size": options.batch_size}
        for view, dataset in (("train", train), ("evaluation", val)):
            part, training = dataset.subset(min(images, len(dataset))), view == "train"
            streams = {count: stream(part, training, count, options.batch_size, rounds) for count in workers}
            found[view] = {"images": len(part), "one_core": one_core(part, training, rounds), "streams": streams}
            print(table(view, found[view]), flush=True)
    where = record.where(jaxkd_side.device())
    where["versions"] |= {name: record.version(name) for name in ("grain", "torchvision")}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(where | found, indent=1) + "\n")
    print(f"written to {options.output}")
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = CommandLine(description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=pathlib.Path, metavar="DIR", help="default: generated images")
    parser.add_argument("--data", choices=("folder", "imagenet2012"), default="folder", help="what DIR holds")
    parser.add_argument("--images", type=int, metavar="N", help="of each split; default: 1024, quick 96")
    parser.add_argument(
        "--batch-size", type=int, default=BATCH, metavar="N", help="of the streams; default: %(default)s"
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", metavar="N", help="default: 0 (threads), 1, and all processors"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5, quick 1")
    parser.add_argument("--quick", action="store_true", help="few images, one round")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/decoding.json"),
        metavar="FILE",
        help="default: %(default)s",
    )
    return parser


def generated(folder: pathlib.Path, images: int) -> pathlib.Path:
    """Write JPEG files like photographs, at most 64 different ones in each split, which the system keeps in memory."""
    sys.path.append(str(ROOT / "tests" / "helpers"))
    from image_tree import PHOTOGRAPHS, image_tree

    each = min(8, -(-images // 8))
    tree = image_tree(folder / "pictures", classes=8, train=each, val=each, sizes=PHOTOGRAPHS, kinds=["jpeg"])
    for split in ("train", "val"):
        pictures = sorted((tree.root / split).rglob("*.JPEG"))
        for number in range(images):
            picture = pictures[number % len(pictures)]
            copy = folder / "linked" / split / picture.parent.name / f"{number:06d}.JPEG"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(picture)
    return folder / "linked"


def mean_bytes(dataset: Any, images: int) -> int:
    """Return size of an encoded image, averaged over the first ones."""
    stored = [dataset.source[number][0] for number in range(min(images, len(dataset)))]
    return round(np.mean([len(image) if isinstance(image, bytes) else os.path.getsize(image) for image in stored]))


def one_core(dataset: Any, training: bool, rounds: int) -> dict[str, Any]:
    """Return each contender's images per second of processor time: the median of the rounds but the first."""
    stored = [dataset.source[number][0] for number in range(len(dataset))]
    ready = {"jaxkd": lambda: jaxkd_reads(dataset, training), "pillow": lambda: pillow_reads(dataset, stored, training)}
    torchvision = torchvision_reads(dataset.view, training)
    if torchvision:
        ready["torchvision"] = lambda: torchvision(stored)
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for number in range(rounds + 1):
        for place in range(len(ready)):
            name = list(ready)[(number + place) % len(ready)]
            start = time.process_time()
            ready[name]()
            if number:
                seconds[name].append(time.process_time() - start)
    return {
        name: {"images_per_second": len(dataset) / float(np.median(taken)), "seconds": taken}
        for name, taken in seconds.items()
    }


def jaxkd_reads(dataset: Any, training: bool) -> None:
    """Do in this process what a decoding process does."""
    reader = dataset.reader(training)
    for indices in plan(len(dataset), BATCH):
        reader(indices)


def pillow_reads(dataset: Any, stored: Sequence[Any], training: bool) -> None:
    """Prepare the same pixels in the shortest loop: nothing is checked, and nothing may be broken."""
    batch = np.zeros((BATCH, *dataset.image_shape), np.uint8)
    for number, file in enumerate(stored):
        rng = np.random.default_rng((0, 0, number))
        view = dataset.augmentation(opened(file), rng) if training else dataset.view(opened(file))
        batch[number % BATCH] = view


def torchvision_reads(view: Any, training: bool) -> Callable[[Sequence[Any]], None] | None:
    """Return torchvision's transforms of the same files, into the same batch; None where it is not installed."""
    try:
        from torchvision import transforms
    except (ImportError, RuntimeError):  # the latter where it does not fit the PyTorch that is there
        return None
    random = [transforms.RandomResizedCrop(view.size), transforms.RandomHorizontalFlip()]
    middle = [transforms.Resize(view.resize), transforms.CenterCrop(view.size)]
    prepare = transforms.Compose(random if training else middle)

    def read(stored: Sequence[Any]) -> None:
        batch = np.zeros((BATCH, view.size, view.size, 3), np.uint8)
        for number, file in enumerate(stored):
            batch[number % BATCH] = np.asarray(prepare(opened(file)))

    return read


def opened(file: Any) -> Any:
    """Return a picture in mode RGB, as torchvision opens it."""
    from PIL import Image

    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file).convert("RGB")


def stream(dataset: Any, training: bool, workers: int, batch_size: int, rounds: int) -> dict[str, Any]:
    """Return images per second after the first batch, and seconds until that, in all."""
    rates, starts = [], []
    picks = plan(len(dataset), batch_size)
    for _ in range(rounds):
        start = time.perf_counter()
        batches = dataset.replace(workers=workers).batches(picks, training)
        next(batches)
        first = time.perf_counter()
        left = sum(len(loaded.index) for loaded in batches)
        rates.append(left / (time.perf_counter() - first))
        starts.append(first - start)
    return {"images_per_second": float(np.median(rates)), "seconds_to_first_batch": float(np.median(starts))}


def plan(images: int, batch_size: int) -> list[Any]:
    """Return all images once, in order."""
    from jaxkd import data

    cuts = np.split(np.arange(images), range(batch_size, images, batch_size))
    return [data.BatchIndices(part, part, 0, 0) for part in cuts]


def table(view: str, found: Mapping[str, Any]) -> str:
    """Return a view's figures as text."""
    lines = [f"{view}, {found['images']} images"]
    for name, entry in found["one_core"].items():
        lines.append(f"  {name:14s} {entry['images_per_second']:8.1f} images/s of one processor")
    for count, entry in found["streams"].items():
        title = f"{count} processes" if count else "threads"
        lines.append(
            f"  {title:14s} {entry['images_per_second']:8.1f} images/s, the first batch after "
            f"{entry['seconds_to_first_batch']:.2f} s"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
