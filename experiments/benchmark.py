"""Measures jaxkd beside PyTorch and Keras: the same work, each in a process of its own, taking turns on one machine.

Rows:
  a  KD from ResNet-56 to ResNet-20: a training step, and an epoch with its data (a-step and a-epoch)
  b  a step from WRN-40-2 to WRN-16-2
  c  a step from WRN28-8 to VGG8
  d  evaluation of ResNet-56 on 10,000 images
  e  start-up: imports, and the first step with a cold and a warm compilation cache
  f  peak memory of training, of the processes of a-step
  g  a step from vgg13 to MobileNetV2
  h  a step from vgg13 to ShuffleNetV2
  i  a step from ResNet-34 to ResNet-18 at 224 pixels, with 1000 classes
  j  the grid of ATS on digits: 30 students as one sweep, and in 30 runs
  k  a step from ResNet-56 to DeiT-Ti, which sees the teacher's 32 pixels at 224

Training is teacher forward, student forward and backward, 0.1·CE + 0.9·KD at T = 4, SGD with momentum and decay.
PyTorch runs as the papers' users run it (eager, float32, a DataLoader that prepares each image with PIL) and tuned
(pixels and augmentation on the device, channels last, torch.compile where it is faster); Keras, where it is installed,
runs keras.distillation on JAX. A library whose threads share a process with another's is slower, so each contender has
one of its own, which sleeps while the others measure. They take turns within a round, so that a machine whose speed
drifts slows all of them; medians over the rounds are reported. CIFAR's images are random unless --data-dir has them.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

import jax
from benchmarks import contenders, measures, processes, rows

from jaxkd.command_line import CommandLine

EXAMPLES = """examples:
  everything:
    python experiments/benchmark.py
  in minutes on two cores:
    python experiments/benchmark.py --quick
  some rows of a few contenders:
    python experiments/benchmark.py --rows a-step,d --contenders jaxkd jaxkd-cache torch-tuned --steps 3 --repeats 7

The folder gets benchmark.json, which is written anew after every row, and benchmark.png.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    parser = command_line()
    options = parser.parse_args(arguments)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would leave the peers a quarter of a GPU
    try:
        rows.check(options)
        device = processes.device()
        settings = rows.settings(options, accelerated=device["platform"] != "cpu")
        images = rows.images_from(options.data_dir)
        measures.check(settings, images)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    measures.run(settings, images, options.output, vars(options), device)
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return the parser; what is None depends on the device and on --quick."""
    parser = CommandLine(description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", metavar="ROW,ROW", help="default: all of them; with --quick a, d and e")
    parser.add_argument(
        "--contenders",
        nargs="+",
        metavar="NAME",
        help=f"among {', '.join(contenders.TITLES)}; default: all that make sense on the device",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few contenders and rounds")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds that count; default: 7, quick 3")
    parser.add_argument("--starts", type=int, metavar="N", help="repeats of row e; default: 5, quick 1")
    sizes = parser.add_argument_group("sizes")
    sizes.add_argument("--steps", type=int, metavar="N", help="of a round of a-step, b, c, g, h, i and k")
    sizes.add_argument("--batch-size", type=int, nargs="+", metavar="N", help="of all training rows")
    sizes.add_argument("--teacher", metavar="NAME", help="in all rows, in place of their own")
    sizes.add_argument("--student", metavar="NAME", help="likewise")
    sizes.add_argument(
        "--epoch-images", type=int, metavar="N", help="of a-epoch; default: 50,000, on a CPU a part of that"
    )
    sizes.add_argument("--evaluation-images", type=int, metavar="N", help="of row d; default: 10,000, quick 500")
    sizes.add_argument("--students", type=int, metavar="N", help="of row j; default: 30, quick 4")
    sides = parser.add_argument_group("PyTorch")
    sides.add_argument(
        "--workers", type=int, default=2, metavar="N", help="of its DataLoader; default: 2; on a CPU maybe none"
    )
    sides.add_argument("--no-torch-compile", action="store_true", help="as --quick; compiling takes minutes on a CPU")
    files = parser.add_argument_group("files")
    files.add_argument("--data-dir", type=pathlib.Path, metavar="DIR", help="the folder of CIFAR-100")
    files.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/benchmark"),
        metavar="DIR",
        help="default: runs/benchmark",
    )
    return parser


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # the device is the contenders'; this process only counts what they do
    sys.exit(main())
