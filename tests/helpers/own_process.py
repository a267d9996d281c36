"""Work for a process of its own, in which the CPU passes for eight devices, or compiles as users do."""

import json
import os
import pathlib
import subprocess
import sys

TESTS = pathlib.Path(__file__).parents[1]
PATHS = (TESTS, TESTS / "helpers", TESTS / "training")


EIGHT_DEVICES = "--xla_force_host_platform_device_count=8 --xla_allow_excess_precision=false"


def report_of(module, function):
    """What a function of a test module returns, as JSON has it, when it is called where there are eight devices.

    Values are rounded to bfloat16 wherever the program says so. By default XLA leaves out roundings within its fusions,
    and not the same ones in two programs of the same arithmetic, which then end up to 1e-4 apart.
    """
    return _report_of(module, function, f"{os.environ.get('XLA_FLAGS', '')} {EIGHT_DEVICES}")


def report_as_users_compile(module, function):
    """What a function of a test module returns, as JSON has it, where nothing is left out for the sake of time."""
    return _report_of(module, function, "")


def _report_of(module, function, flags):
    environment = os.environ | {
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([*map(str, PATHS), os.environ.get("PYTHONPATH", "")]),
    }
    script = f"import conftest, json, {module} as module; print(json.dumps(module.{function}()))"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def furthest(ones, others):
    """How far lists of arrays are apart: the largest difference within an array, in parts of its largest value."""
    import numpy as np

    assert len(ones) == len(others)
    return max(
        float(np.abs(np.subtract(one, other, dtype=float)).max() / max(np.abs(other).max(), 1e-30))
        for one, other in zip(ones, others, strict=True)
    )
