"""Compiles training for TPUs and GPUs that are not there, and prints what their compilers say of it.

The compilers come as packages: pip install "jaxkd[compilers]". Memory is that of one chip; a TPU's compiler estimates
the time of a step, without gathers, scatters and exchanges between chips; kernels are those started in a step. Nothing
is run on a device. The larger programs take minutes to compile.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # networks are made there, whatever this machine has

from benchmarks import programs
from jax.stages import Lowered

from jaxkd.command_line import CommandLine
from jaxkd.training.sharding import Placement

STEPS = programs.EXAMPLES // 64
"""Of an epoch: what a program does once, as laying out the images, is then no more of a step than it is in training."""

PROGRAMS: dict[str, tuple[str, int, Callable[[Placement], Lowered]]] = {
    "kd": (
        "KD, ResNet-8 to 8, batch 64", STEPS,
        lambda place: programs.resident(programs.distiller("kd"), place, 64, STEPS),
    ),
    "kd-56-20": (
        "KD, ResNet-56 to 20, batch 64", STEPS,
        lambda place: programs.resident(programs.distiller("kd", "resnet56", "resnet20"), place, 64, STEPS),
    ),
    "kd-56-20-bf16": (
        "KD, ResNet-56 to 20, batch 1024, bfloat16", STEPS // 16,
        lambda place: programs.resident(
            programs.distiller("kd", "resnet56", "resnet20", precision="bfloat16"), place, 1024, STEPS // 16
        ),
    ),
    "ctkd": (
        "CTKD, ResNet-8 to 8, batch 64", STEPS,
        lambda place: programs.resident(programs.distiller("ctkd"), place, 64, STEPS),
    ),
    "crd": (
        "CRD, ResNet-8 to 8, batch 64", STEPS,
        lambda place: programs.resident(programs.distiller("crd"), place, 64, STEPS),
    ),
    "sweep": (
        "30 ATS students, ResNet-8 to 8, batch 64", STEPS,
        lambda place: programs.stacked(programs.ats_grid(30), place, 64, STEPS),
    ),
    "imagenet": (
        "KD on ImageNet, ResNet-34 to 18, batch 256, bfloat16", 1,
        lambda place: programs.streamed(
            programs.distiller("kd", "resnet34", "resnet18", 1000, 224, precision="bfloat16"),
            place, 256, 224,
        ),
    ),
    "imagenet-last": (
        "the same, the last batch of 3,215 of 4,096", 1,
        lambda place: programs.streamed(
            programs.distiller("kd", "resnet34", "resnet18", 1000, 224, precision="bfloat16"),
            place, 3215, 224,
        ),
    ),
}  # fmt: skip


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=["kd", "ctkd"], help="default: kd ctkd")
    parser.add_argument(
        "--chips", nargs="+", default=["v5e:1", "h200:1"], metavar="KIND:COUNT",
        help=f"of {', '.join(programs.MEMORY)}; default: v5e:1 h200:1",
    )  # fmt: skip
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", help="write what is found here, as JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    parser = command_line()
    options = parser.parse_args(arguments)
    found = {}
    for chips in options.chips:
        kind, _, count = chips.partition(":")
        try:
            place = programs.placement_on(kind, int(count or 1))
        except (ValueError, RuntimeError) as error:
            parser.error(f"--chips {chips}: {error}")
        for name in options.programs:
            title, steps, build = PROGRAMS[name]
            result = programs.compiled(build(place), steps)
            found[f"{name} on {chips}"] = result.to_dict()
            estimate = "" if result.milliseconds is None else f"{result.milliseconds:.2f} ms a step · "
            print(
                f"{chips} · {title}: {result.memory / programs.GIGA:.2f} GB · {estimate}{result.kernels:.0f} kernels · "
                f"compiled in {result.seconds:.0f} s",
                flush=True,
            )
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
