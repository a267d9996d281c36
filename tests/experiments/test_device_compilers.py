"""The compilers of TPUs and GPUs take every kind of program, and find in them what a chip does well.

They need no chip, but minutes, and packages: `pip install "jaxkd[compilers]"`.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from experiment_scripts import EXPERIMENTS

CALLS = {
    **{
        method: f"resident(distiller({method!r}), place, 64, 4)"
        for method in ("kd", "ctkd", "dkd", "sp", "mlkd", "crd")
    },
    "ats": "resident(ats_grid(1)[0], place, 64, 4)",
    "bfloat16": "resident(distiller('kd', precision='bfloat16'), place, 64, 4)",
    "last batch": "resident(distiller('kd'), place, 45, 1)",
    "last batch of CRD": "resident(distiller('crd'), place, 45, 1)",
    "a sweep": "stacked(ats_grid(8), place, 64, 4)",
    "evaluation": "evaluated(distiller('kd'), place, 64, 4)",
}
SUMS = {"all-reduce"}


def report(chips, call):
    """What a compiler says of a program, in a process of its own, where JAX may look for plugins."""
    kind, count = chips.split(":")
    needed = ("libtpu",) if kind.startswith("v") else ("jax_cuda12_plugin", "nvidia.cuda_nvcc")
    for module in needed:
        try:
            missing = importlib.util.find_spec(module) is None
        except ModuleNotFoundError:
            missing = True
        if missing:
            pytest.skip(f'{module} is not installed: pip install "jaxkd[compilers]"')
    script = (
        "import json; from benchmarks.programs import *; "
        f"place = placement_on({kind!r}, {count}); print(json.dumps(compiled({call}, 4).to_dict()))"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(EXPERIMENTS), *sys.path])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(found, memory):
    assert found["memory"] < memory
    assert found["unknown_loops"] == []
    assert found["callbacks"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("chips", ["h200:1", "h100:8", "v5e:1", "v5e:4"])
def test_a_program_is_compiled(chips, call):
    found = report(chips, call)
    check(found, 2e9)
    if not chips.endswith(":1") and "stacked" not in call and "mlkd" not in call:
        # SP compares all examples of a batch: their features are gathered, and what comes back to them is scattered.
        exchanged = {"all-gather", "reduce-scatter"} if "'sp'" in call else {"all-gather"}
        assert set(found["collectives"]) - exchanged <= SUMS


@pytest.mark.slow
def test_a_pod_takes_a_batch_of_4096():
    check(report("v5e:256", "resident(distiller('kd'), place, 4096, 1)"), 2e9)


@pytest.mark.slow
def test_the_last_batch_of_imagenet_fits_where_the_others_do():
    networks = "distiller('kd', 'resnet34', 'resnet18', 1000, 224, precision='bfloat16')"
    for chips, memory in (("h200:8", 20e9), ("v5e:16", 15e9)):
        check(report(chips, f"streamed({networks}, place, 3215, 224)"), memory)
